"""Any ONNX graph of a vision transformer -> the canonical one. Each pass is one file; order matters."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from qvit_deploy.graph.canonicalize.attention import normalise_attention
from qvit_deploy.graph.canonicalize.batch import specialise
from qvit_deploy.graph.canonicalize.control_flow import decide_branches
from qvit_deploy.graph.canonicalize.gelu import fuse_gelus
from qvit_deploy.graph.canonicalize.interface import check_interface, output_names, set_output_names
from qvit_deploy.graph.canonicalize.layer_norm import normalise_layer_norms
from qvit_deploy.graph.canonicalize.layout import simplify_layout
from qvit_deploy.graph.canonicalize.linear import normalise_linears
from qvit_deploy.graph.canonicalize.names import set_names, sort_initializers
from qvit_deploy.graph.canonicalize.noop import remove_noops
from qvit_deploy.graph.canonicalize.opset import to_canonical_opset
from qvit_deploy.graph.canonicalize.patch_embed import convs_to_linears
from qvit_deploy.graph.canonicalize.precision import require_finite, to_float32
from qvit_deploy.graph.canonicalize.sequences import remove_sequences
from qvit_deploy.graph.edit import detach_constants
from qvit_deploy.graph.graph import Graph


def canonicalize(model: ir.Model, name: str) -> Graph:
    """The canonical graph of `model`, which is used up: hand in a model nobody else holds.

    Raises InputError (no single image input, unusable opset, does not run), UnsupportedOpError, NonFiniteError.
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
