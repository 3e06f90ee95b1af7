"""Any ONNX graph of a vision transformer -> the canonical one.

`rewrites/` has one rewrite per file; a file's docstring lists its rules in order. Their order here matters: shapes are
known behind `batch.specialise`, and the patterns of norms, GELUs and attentions are those of a simplified layout.
Next to them: `match` (when a number counts as that of a formula), `measure` (running the model to learn values and
shapes), `provenance` (what depends on pixels, on shapes, on weights alone), `interface` and `names`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir
from onnx_ir.passes import common

from qvit_deploy.errors import reading
from qvit_deploy.graph.canonicalize.interface import check_interface, output_names, set_output_names, take_given_name
from qvit_deploy.graph.canonicalize.names import set_names, sort_initializers
from qvit_deploy.graph.canonicalize.rewrites.attention import normalise_attention
from qvit_deploy.graph.canonicalize.rewrites.batch import specialise
from qvit_deploy.graph.canonicalize.rewrites.control_flow import decide_branches
from qvit_deploy.graph.canonicalize.rewrites.einsum import write_einsums_out
from qvit_deploy.graph.canonicalize.rewrites.gelu import fuse_gelus
from qvit_deploy.graph.canonicalize.rewrites.layer_norm import normalise_layer_norms
from qvit_deploy.graph.canonicalize.rewrites.layout import simplify_layout
from qvit_deploy.graph.canonicalize.rewrites.linear import normalise_linears
from qvit_deploy.graph.canonicalize.rewrites.masked import write_masked_assignments_out
from qvit_deploy.graph.canonicalize.rewrites.noop import remove_noops
from qvit_deploy.graph.canonicalize.rewrites.opset import to_canonical_opset
from qvit_deploy.graph.canonicalize.rewrites.order import sort_nodes
from qvit_deploy.graph.canonicalize.rewrites.patch_embed import convs_to_linears
from qvit_deploy.graph.canonicalize.rewrites.pools import normalise_pools
from qvit_deploy.graph.canonicalize.rewrites.precision import require_finite, to_float32
from qvit_deploy.graph.canonicalize.rewrites.resize import normalise_resizes
from qvit_deploy.graph.canonicalize.rewrites.sequences import remove_sequences
from qvit_deploy.graph.canonicalize.rewrites.softmax import unflatten_softmaxes
from qvit_deploy.graph.edit import detach_constants, remove_unused
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.quiet import quiet

Rewrite = Callable[[ir.Model], "ir.Model | None"]
"""Changes a model in place, or returns another in its place."""

REWRITES: tuple[Rewrite, ...] = (
    sort_nodes,
    write_masked_assignments_out,
    to_canonical_opset,
    remove_unused,
    require_finite,
    to_float32,
    check_interface,
    remove_sequences,
    decide_branches,
    specialise,
    remove_noops,
    normalise_resizes,
    normalise_pools,
    write_einsums_out,
    unflatten_softmaxes,
    simplify_layout,
    normalise_linears,
    convs_to_linears,
    simplify_layout,
    normalise_layer_norms,
    fuse_gelus,
    normalise_attention,
    remove_noops,
)
"""What changes a model's operators, in order; names follow."""


def canonicalize(model: ir.Model, name: str) -> Graph:
    """Returns the canonical graph of `model`, which is used up: hand in a model nobody else holds.

    Raises:
        InputError: no single image input, an opset that cannot be used, or ONNX Runtime cannot run the model.
        UnsupportedOpError: an operator or the way it is used has no canonical form; names the node.
        NonFiniteError: a weight holds NaN or infinity.
    """
    with quiet("onnx_ir"):
        for _, rewritten in rewrite(model):  # noqa: B007
            pass
    image_name = take_given_name(rewritten)
    common.ClearMetadataAndDocStringPass()(rewritten)
    rewritten.graph.name = name
    rewritten.producer_name, rewritten.producer_version = "qvit-deploy", None
    return Graph(rewritten, name, image_name=image_name)


def rewrite(model: ir.Model) -> Iterator[tuple[str, ir.Model]]:
    """Canonicalizes `model` step by step and yields (name of the rewrite, the model as it left it) after each.

    The next step changes what was yielded; the last yields the model that `canonicalize` returns, with metadata.

    Raises:
        InputError: as `canonicalize`, and for whatever else a rewrite or a library raises; names the rewrite.
    """
    with reading("the constants of the graph cannot be read"):
        detach_constants(model)
        names = output_names(model)
    for step in REWRITES:
        with reading(f"{step.__name__} cannot read the graph; where ONNX Runtime runs it, please report the model"):
            model = step(model) or model
        yield step.__name__, model
    set_output_names(model, names)
    set_names(model)
    sort_initializers(model)
    yield set_names.__name__, model


__all__ = ["REWRITES", "canonicalize", "rewrite"]
