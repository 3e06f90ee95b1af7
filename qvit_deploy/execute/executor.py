"""Runs a canonical graph in torch: differentiable, tappable, on CPU or CUDA.

One executor serves calibration, relevance, verification and RelP. It holds the graph as a flat list of steps over
numbered slots; a slot is dropped after its last reader, so memory follows the live set and not the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.errors import UnsupportedOpError, all_unsupported
from qvit_deploy.execute.ops import OpFn, Tensor, build
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.query import bias_of

Tap = Callable[[Tensor], "Tensor | None"]
"""Called with a tensor as it is computed; returns None to read it, or a tensor to replace it downstream."""

_Operation = tuple[OpFn, list["ir.Value | None"], list[ir.Value]]

Branch = Callable[[Tensor], Iterable[Tensor]]
"""Called with a tensor as it is computed; returns the values that the rest of the graph shall run on in its place."""


@dataclass(frozen=True)
class Step:
    """One operator, or a matmul and its bias: `run` on the tensors of slots `inputs` makes those of `outputs`.

    Attributes:
        inputs: slots; -1 for an absent optional input.
        names: of the outputs.
        drops: slots that nothing reads after this step.
    """

    run: OpFn
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    names: tuple[str, ...]
    drops: tuple[int, ...]


class Executor:
    """Executes `graph` with every float constant a torch tensor on `device`.

    Args:
        graph: the canonical (or quantized) graph.
        device: torch device for data and float constants.
        overrides: node -> function that replaces the operator's own; relevance rules use it to change the
            backward pass while keeping the forward value.

    Raises:
        InputError: the graph holds operators without an implementation; it names all of them.
    """

    def __init__(
        self,
        graph: Graph,
        device: str | torch.device = "cpu",
        overrides: Mapping[ir.Node, OpFn] | None = None,
    ) -> None:
        self.graph = graph
        self.device = torch.device(device)
        self._slots: dict[ir.Value, int] = {}
        self._constants: dict[int, Tensor] = {}
        for value in graph.model.graph.initializers.values():
            assert value.const_value is not None
            self._constants[self._slot(value)] = self._constant(value.const_value)
        self._input_slots = {v.name or "": self._slot(v) for v in graph.inputs}
        self._output_slots = {v.name or "": self._slot(v) for v in graph.outputs}
        self._for_all = {output.name for output in graph.interface.outputs if output.batch_axis is None}
        overrides = overrides or {}
        self._functions = _functions(graph, overrides)
        self._overridden = set(overrides)
        self._steps: dict[frozenset[str], list[Step]] = {}

    def _slot(self, value: ir.Value) -> int:
        return self._slots.setdefault(value, len(self._slots))

    def _constant(self, tensor: ir.TensorProtocol) -> Tensor:
        array = tensor.numpy()
        if array.dtype not in (np.float32, np.int64, np.int8, np.uint8, np.bool_):
            is_float = np.issubdtype(array.dtype, np.floating)
            array = array.astype(np.float32 if is_float else np.int64)
        # Initializers may be read-only memory maps; torch wants a buffer it is allowed to write. Others are shared.
        tensor_ = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor_ if array.dtype == np.int64 else tensor_.to(self.device)

    def run(
        self, batch: Examples[Tensor], taps: Mapping[str, Tap] | None = None, fetch: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Runs the graph on a batch of examples.

        Args:
            taps: value name -> `Tap`, applied to that tensor as soon as it exists (inputs included).
            fetch: names of the tensors to return; the graph's outputs when None. Execution stops after the
                last of them. Outputs are [batch, ...]: one that is the same for all examples is repeated.

        Returns: name -> tensor, in the order of `fetch`.
        """
        taps = taps or {}
        names = list(fetch) if fetch is not None else list(self._output_slots)
        steps = self.steps(frozenset(taps) | frozenset(names))
        results: dict[str, Tensor] = {}
        remaining = set(names)
        env = self.start(batch, taps)
        for name in remaining & self._input_slots.keys():
            results[name] = env[self._input_slots[name]]
        remaining -= results.keys()
        for step in steps:
            execute(step, env, taps)
            for slot, name in zip(step.outputs, step.names, strict=True):
                if name in remaining:
                    results[name] = env[slot]
                    remaining.discard(name)
            if not remaining:
                break
        if remaining:
            raise KeyError(f"no tensor named {sorted(remaining)[0]!r} in the graph")
        return self._for_each({n: results[n] for n in names}, len(batch))

    def _for_each(self, values: dict[str, Tensor], count: int) -> dict[str, Tensor]:
        """Repeats the outputs that are the same for all of `count` examples along a new first axis."""
        return {n: v.expand(count, *v.shape) if n in self._for_all else v for n, v in values.items()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the graph's outputs, in its order."""
        return tuple(self._output_slots)

    def run_branches(
        self, batch: Examples[Tensor], taps: Mapping[str, Tap], branches: Mapping[str, Branch]
    ) -> tuple[dict[str, Tensor], dict[str, list[dict[str, Tensor]]]]:
        """Runs the graph, and from every branch point the rest of it on other values: (outputs by name, branch name ->
        the outputs with each of its values in place of the computed one).

        One forward pass that at every branch point also runs the rest of the graph, once per tensor the branch
        returns. What comes before it is computed once, however many branches there are.

        Args:
            taps: as for `run`.
            branches: name of a tensor behind the inputs -> `Branch`.

        Raises:
            KeyError: the graph computes no tensor of that name.
        """
        steps = self.steps(frozenset(taps) | frozenset(branches))
        env = self.start(batch, taps)
        branched: dict[str, list[dict[str, Tensor]]] = {}
        for index, step in enumerate(steps):
            execute(step, env, taps)
            for slot, name in zip(step.outputs, step.names, strict=True):
                if name not in branches:
                    continue
                branched[name] = []
                for value in branches[name](env[slot]):
                    branch_env = {**env, slot: value}
                    for later in steps[index + 1 :]:
                        execute(later, branch_env, {})
                    branched_outputs = {output: branch_env[s] for output, s in self._output_slots.items()}
                    branched[name].append(self._for_each(branched_outputs, len(batch)))
        if missing := branches.keys() - branched.keys():
            raise KeyError(f"no tensor named {min(missing)!r} is computed by the graph")
        return self._for_each({output: env[s] for output, s in self._output_slots.items()}, len(batch)), branched

    def start(self, batch: Examples[Tensor], taps: Mapping[str, Tap]) -> dict[int, Tensor]:
        """Returns slot -> tensor before the first step: the constants and the inputs.

        Raises:
            InputError: the batch has no value for an input of the graph.
        """
        env = dict(self._constants)
        for name, feed in batch.feeds_for(list(self._input_slots)).items():
            value, slot = feed.to(self.device), self._input_slots[name]
            env[slot] = _tapped(taps[name], value) if name in taps else value
        return env

    def slot(self, name: str) -> int:
        """Returns the slot of the tensor called `name`. Raises KeyError when there is none."""
        slot = next((slot for value, slot in self._slots.items() if value.name == name), None)
        if slot is None:
            raise KeyError(f"no tensor named {name!r} in the graph")
        return slot

    def steps(self, observed: frozenset[str]) -> list[Step]:
        """Returns the steps to run, in order; a matmul and its bias become one step unless the tensor between is
        observed."""
        if observed not in self._steps:
            operations = self._operations(observed)
            drops = self._drops(operations)
            self._steps[observed] = [
                Step(
                    run,
                    tuple(-1 if v is None else self._slot(v) for v in inputs),
                    tuple(self._slot(v) for v in outputs),
                    tuple(v.name or "" for v in outputs),
                    tuple(drops.get(index, ())),
                )
                for index, (run, inputs, outputs) in enumerate(operations)
            ]
        return self._steps[observed]

    def _operations(self, observed: frozenset[str]) -> list[_Operation]:
        """Returns (function, inputs, outputs) of every node, with biases merged into matmuls where nothing sees it."""
        operations: list[_Operation] = []
        merged: set[ir.Node] = set()
        for node, function in self._functions:
            if node in merged:
                continue
            alone = node in self._overridden or node.outputs[0].name in observed
            bias = None if alone else merged_bias(node)
            if bias is not None and bias not in self._overridden:
                merged.add(bias)
                operations.append((_linear, [node.inputs[0], node.inputs[1], bias.inputs[1]], list(bias.outputs)))
            else:
                operations.append((function, list(node.inputs), list(node.outputs)))
        return operations

    def _drops(self, operations: Sequence[_Operation]) -> dict[int, list[int]]:
        """Returns index of an operation -> the slots that nothing reads after it."""
        last_use: dict[int, int] = {}
        for index, (_, inputs, _) in enumerate(operations):
            for value in inputs:
                if value is not None:
                    last_use[self._slot(value)] = index
        drops: dict[int, list[int]] = {}
        keep = set(self._output_slots.values()) | set(self._constants)
        for slot, index in last_use.items():
            if slot not in keep:
                drops.setdefault(index, []).append(slot)
        return drops


def merged_bias(product: ir.Node) -> ir.Node | None:
    """Returns the Add that runs in one kernel with `product`, unless the tensor between is observed: that of a constant
    [out] bias, behind a MatMul with a constant [in, out] weight."""
    weight = product.inputs[1] if product.op_type == "MatMul" else None
    if weight is None or not weight.is_initializer() or weight.shape is None or len(weight.shape) != 2:
        return None
    return bias_of(product)


def execute(step: Step, env: dict[int, Tensor], taps: Mapping[str, Tap]) -> None:
    """Runs one step in `env` (slot -> tensor) and forgets what is not read again."""
    value = step.run(*[env[i] if i >= 0 else None for i in step.inputs])
    results = value if isinstance(value, (tuple, list)) else (value,)
    assert len(results) >= len(step.outputs), f"{step.names[len(results)]} is not computed"
    for slot, name, tensor in zip(step.outputs, step.names, results, strict=False):
        env[slot] = _tapped(taps[name], tensor) if name in taps else tensor
    for slot in step.drops:
        env.pop(slot, None)


def _functions(graph: Graph, overrides: Mapping[ir.Node, OpFn]) -> list[tuple[ir.Node, OpFn]]:
    functions, unsupported = [], []
    for node in graph.nodes():
        try:
            functions.append((node, overrides.get(node) or build(node)))
        except UnsupportedOpError as error:
            unsupported.append(error)
    if unsupported:
        raise all_unsupported(unsupported)
    return functions


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, weight.t(), bias)


def _tapped(tap: Tap, tensor: Tensor) -> Tensor:
    replaced = tap(tensor)
    return tensor if replaced is None else replaced
