"""Runs many batches through a graph side by side, one tensor at a time.

Quantizing a layer needs its inputs on all calibration images, as the layers before it, already quantized, compute
them. Running every batch up to a tensor, changing what happens there and going on costs one forward pass for all
layers together, where starting again from the image costs one a layer. Only what later steps read is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from qvit_deploy.execute.executor import Executor, execute
from qvit_deploy.execute.ops import OpFn, Tensor
from qvit_deploy.graph.examples import Examples

Replacement = Callable[[OpFn, int], Tensor]
"""Called with a step's own function and the index of a batch; returns what the step shall have computed."""


class Lockstep:
    """All `batches` at the same point of `executor`'s graph, at first at its inputs.

    Args:
        names: the tensors that `advance` and `replace` will name.
    """

    def __init__(self, executor: Executor, batches: Iterable[Examples[Tensor]], names: Iterable[str]) -> None:
        self._executor = executor
        self._steps = iter(executor.steps(frozenset(names)))
        self._live = [executor.start(batch, {}) for batch in batches]
        self._replacements: dict[str, Replacement] = {}

    def advance(self, name: str) -> list[Tensor]:
        """Returns the tensor `name` of every batch, after running the graph to there when it has not got so far.

        Raises:
            KeyError: the graph does not compute it, or it is behind and nothing reads it any more.
        """
        slot = self._executor.slot(name)
        with torch.no_grad():
            while slot not in self._live[0]:
                step = next(self._steps, None)
                if step is None:
                    raise KeyError(f"tensor {name!r} is behind: nothing reads it any more")
                replacement = self._replacements.pop(step.names[0], None)
                for index, live in enumerate(self._live):
                    if replacement is None:
                        execute(step, live, {})
                        continue
                    live[step.outputs[0]] = replacement(step.run, index)
                    for dead in step.drops:
                        live.pop(dead, None)
        return [live[slot] for live in self._live]

    def replace(self, name: str, replacement: Replacement) -> None:
        """Lets `replacement` compute `name`, the only output of its step, when that step is reached."""
        self._replacements[name] = replacement
