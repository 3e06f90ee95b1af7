"""What is assigned where a mask says is a Where.

torch's exporter writes `x[torch.where(mask)] = c` (the decoder of OneFormer) as ScatterND(x, places, c repeated), whose
places come from NonZero(mask): how many there are depends on the image, what results does not. Rules, in order:
1. a ScatterND whose places are all those of one NonZero, and whose updates repeat one number, becomes
   Where(mask, c, x), the mask with an axis of one for every axis of x behind its own;
2. of booleans it is And(Not(mask), x) or Or(mask, x): ONNX Runtime chooses among numbers only.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from qvit_deploy.graph.edit import add_ints, free_value_name, remove_unused
from qvit_deploy.graph.query import ints, producer, scalar

_REPEATS = ("Expand", "Reshape", "Unsqueeze", "Identity")
_SAME_PLACES = ("Unsqueeze", "Squeeze", "Expand", "Identity", "Cast")


def write_masked_assignments_out(model: ir.Model) -> None:
    """Applies the rules in place; shapes need not be known."""
    graph = model.graph
    if not any(node.op_type == "NonZero" for node in graph):
        return
    common.ShapeInferencePass()(model)  # for ranks
    for node in list(graph):
        if node.op_type != "ScatterND" or node.attributes.get_string("reduction", "none") != "none":
            continue
        x, mask, number = node.inputs[0], _mask(node.inputs[1]), _repeated(node.inputs[2])
        if x is None or mask is None or mask.shape is None or number is None or x.shape is None:
            continue
        mask = _of_rank(node, mask, x.shape.rank())
        if x.dtype != ir.DataType.BOOL:
            chosen = _insert(node, "Where", [mask, number, x])
        elif scalar(number):
            chosen = _insert(node, "Or", [mask, x])
        else:
            chosen = _insert(node, "And", [_insert(node, "Not", [mask]), x])
        ir.convenience.replace_all_uses_with(node.outputs[0], chosen, replace_graph_outputs=True)
    remove_unused(model)


def _mask(places: ir.Value | None) -> ir.Value | None:
    """Returns the mask of which `places` [n, rank] are all places, in the order of its axes; None where it is none."""
    if places is None or places.shape is None or places.shape.rank() != 2:
        return None
    if (transpose := producer(places, "Transpose")) is not None:
        nonzero = producer(transpose.inputs[0], "NonZero")
        return None if nonzero is None else nonzero.inputs[0]
    concat = producer(places, "Concat")
    columns = [] if concat is None else [_column(value) for value in concat.inputs]
    if not columns or columns[0] is None:
        return None
    mask = columns[0][0]
    if mask.shape is None or columns != [(mask, axis) for axis in range(mask.shape.rank())]:
        return None
    return mask


def _column(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """Returns (mask, axis) where `value` has the places along one axis of a mask. Those of all axes are of one length,
    and broadcast to what they are."""
    while (node := producer(value, *_SAME_PLACES)) is not None:
        value = node.inputs[0]
    if (gather := producer(value, "Gather")) is not None:
        nonzero, axis = producer(gather.inputs[0], "NonZero"), ints(gather.inputs[1])
        if nonzero is None or nonzero.inputs[0] is None or axis is None or gather.attributes.get_int("axis", 0) != 0:
            return None
        return nonzero.inputs[0], axis[0]
    split = producer(value, "Split")
    if split is None or value is None:
        return None
    source = producer(split.inputs[0], "Transpose")
    nonzero = producer(split.inputs[0] if source is None else source.inputs[0], "NonZero")
    along = 0 if source is None else 1
    pieces = split.attributes.get_ints("split", ()) or (ints(split.inputs[1]) if len(split.inputs) > 1 else None)
    if nonzero is None or nonzero.inputs[0] is None or split.attributes.get_int("axis", 0) % 2 != along:
        return None
    return (nonzero.inputs[0], value.index() or 0) if pieces is None or set(pieces) == {1} else None


def _repeated(updates: ir.Value | None) -> ir.Value | None:
    """Returns the constant number that `updates` repeats, or None."""
    while (node := producer(updates, *_REPEATS)) is not None:
        updates = node.inputs[0]
    return updates if scalar(updates) is not None else None


def _of_rank(before: ir.Node, mask: ir.Value, rank: int) -> ir.Value:
    """Returns `mask` as booleans, with axes of one behind its own until it has `rank` axes."""
    assert mask.shape is not None
    missing = rank - mask.shape.rank()
    if mask.dtype != ir.DataType.BOOL:
        mask = _insert(before, "Cast", [mask], {"to": int(ir.DataType.BOOL)})
    if missing == 0:
        return mask
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    ones, shape = add_ints(graph, [1] * missing), _insert(before, "Shape", [mask])
    return _insert(before, "Reshape", [mask, _insert(before, "Concat", [shape, ones], {"axis": 0})])


def _insert(
    before: ir.Node, op_type: str, inputs: list[ir.Value | None], attributes: dict[str, int] | None = None
) -> ir.Value:
    node = ir.node(op_type, inputs, attributes, name=before.name, metadata_props=dict(before.metadata_props))
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    node.outputs[0].name = free_value_name(graph, f"{before.outputs[0].name}.masked")
    graph.insert_before(before, node)
    return node.outputs[0]
