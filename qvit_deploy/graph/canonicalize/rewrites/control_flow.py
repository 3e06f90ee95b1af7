"""Puts in place of every If whose condition does not depend on the image the branch that it takes.

Rules, in order:
1. the conditions that depend on weights and shapes alone are computed by running the model (`measure.py`); the
   branch they choose takes the place of the If, branches inside it are decided in the next round;
2. any other control flow is refused.
TorchScript exports contain If nodes wherever a tensor's rank was not known while tracing.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.errors import InputError, UnsupportedOpError
from qvit_deploy.graph.canonicalize.measure import Probe
from qvit_deploy.graph.canonicalize.provenance import Provenance, has_subgraph
from qvit_deploy.graph.edit import free_name, remove_unused, value_names
from qvit_deploy.graph.interface import Interface

_BATCH = 2  # for a model with a symbolic batch


def decide_branches(model: ir.Model) -> None:
    """Applies the rules in place. Raises UnsupportedOpError, and InputError when the model does not run."""
    graph = model.graph
    while True:
        branching = [node for node in graph if has_subgraph(node)]
        if not branching:
            return
        static = set(Provenance(graph).frontier) | set(graph.initializers.values())
        decidable = [node for node in branching if node.op_type == "If" and node.inputs[0] in static]
        if not decidable:
            node = branching[0]
            hint = "it depends on the image; export the model without data-dependent control flow"
            raise UnsupportedOpError(node.op_type, node.name or "", hint)
        conditions = list(dict.fromkeys(str(v.name) for node in decidable for v in node.inputs if v is not None))
        values = _values(model, conditions)
        for node in decidable:
            condition = node.inputs[0]
            assert condition is not None
            _take(graph, node, "then_branch" if values[str(condition.name)] else "else_branch")
        remove_unused(model)


def _values(model: ir.Model, names: list[str]) -> dict[str, bool]:
    batch = Interface.of(model).static_batch
    constants = {name: v.const_value for name, v in model.graph.initializers.items() if name in names}
    computed = [name for name in names if name not in constants]
    values = {name: bool(tensor.numpy().all()) for name, tensor in constants.items() if tensor is not None}
    if computed:
        try:
            probe = Probe(model, [], computed)
            run = probe.run(batch or _BATCH, computed)
        except Exception as error:  # onnxruntime's exception types are not importable
            raise InputError(f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]}") from error
        values.update((name, bool(value.all())) for name, value in run.values.items())
    return values


def _take(graph: ir.Graph, node: ir.Node, branch_name: str) -> None:
    branch = node.attributes[branch_name].as_graph()
    used = value_names(graph)

    def unique(name: str | None) -> str:
        chosen = free_name(f"{node.name}/{name}", used) if name in used else str(name)
        used.add(chosen)
        return chosen

    for value in list(branch.initializers.values()):
        del branch.initializers[str(value.name)]
        value.name = unique(value.name)
        graph.register_initializer(value)
    results = list(branch.outputs)
    branch.outputs.clear()
    for inner in list(branch):
        branch.remove(inner)
        for output in inner.outputs:
            output.name = unique(output.name)
        graph.insert_before(node, inner)
    for old, new in zip(node.outputs, results, strict=True):
        if old.is_graph_output() and (new.producer() is None or new.is_graph_output()):
            identity = ir.node("Identity", [new])
            graph.insert_before(node, identity)
            new = identity.outputs[0]
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
