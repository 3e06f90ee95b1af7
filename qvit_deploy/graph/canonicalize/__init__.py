"""Any ONNX graph of a vision transformer -> the canonical one.

`rewrites/` has one rewrite per file; a file's docstring lists its rules in order. Their order here matters: shapes are
known behind `batch.specialise`, and the patterns of norms, GELUs and attentions are those of a simplified layout.
Next to them: `match` (when a number counts as that of a formula), `measure` (running the model to learn values and
shapes), `provenance` (what depends on pixels, on shapes, on weights alone), `interface` and `names`.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from qvit_deploy.graph.canonicalize.interface import check_interface, output_names, set_output_names
from qvit_deploy.graph.canonicalize.names import set_names, sort_initializers
from qvit_deploy.graph.canonicalize.rewrites.attention import normalise_attention
from qvit_deploy.graph.canonicalize.rewrites.batch import specialise
from qvit_deploy.graph.canonicalize.rewrites.control_flow import decide_branches
from qvit_deploy.graph.canonicalize.rewrites.einsum import write_einsums_out
from qvit_deploy.graph.canonicalize.rewrites.gelu import fuse_gelus
from qvit_deploy.graph.canonicalize.rewrites.layer_norm import normalise_layer_norms
from qvit_deploy.graph.canonicalize.rewrites.layout import simplify_layout
from qvit_deploy.graph.canonicalize.rewrites.linear import normalise_linears
from qvit_deploy.graph.canonicalize.rewrites.noop import remove_noops
from qvit_deploy.graph.canonicalize.rewrites.opset import to_canonical_opset
from qvit_deploy.graph.canonicalize.rewrites.patch_embed import convs_to_linears
from qvit_deploy.graph.canonicalize.rewrites.precision import require_finite, to_float32
from qvit_deploy.graph.canonicalize.rewrites.sequences import remove_sequences
from qvit_deploy.graph.edit import detach_constants
from qvit_deploy.graph.graph import Graph


def canonicalize(model: ir.Model, name: str) -> Graph:
    """Returns the canonical graph of `model`, which is used up: hand in a model nobody else holds.

    Raises:
        InputError: no single image input, an opset that cannot be used, or ONNX Runtime cannot run the model.
        UnsupportedOpError: an operator or the way it is used has no canonical form; names the node.
        NonFiniteError: a weight holds NaN or infinity.
    """
    detach_constants(model)
    model = to_canonical_opset(model)
    require_finite(model)
    to_float32(model)
    check_interface(model)
    names = output_names(model)
    remove_sequences(model)
    decide_branches(model)
    specialise(model)
    remove_noops(model)
    write_einsums_out(model)
    simplify_layout(model)
    normalise_linears(model)
    convs_to_linears(model)
    simplify_layout(model)
    normalise_layer_norms(model)
    fuse_gelus(model)
    normalise_attention(model)
    remove_noops(model)
    set_output_names(model, names)
    set_names(model)
    sort_initializers(model)
    common.ClearMetadataAndDocStringPass()(model)
    model.graph.name = name
    model.producer_name, model.producer_version = "qvit-deploy", None
    return Graph(model, name)


__all__ = ["canonicalize"]
