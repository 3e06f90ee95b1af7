"""What tasks that count every output share: any floating-point output that comes out changed is damage."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from qvit_deploy.data.labels.opening import LabelKind, Labels
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface
from qvit_deploy.tasks.tally import Figure, Tally, agreement_with_float
from qvit_deploy.tasks.task import Arrays, Metric, Objective, Outputs, Task, by_example

if TYPE_CHECKING:
    from torch import Tensor

    from qvit_deploy.tasks.task import Array

OUTPUT_CHANGE = "output-change"


class AllOutputs(Task):
    """Every floating-point output is a signal; outputs of integers and booleans (indices of TopK, of ArgMax) are what
    two models can agree on."""

    default_metric = OUTPUT_CHANGE

    labels: LabelKind | None = None

    def for_model(self, interface: Interface) -> Task:
        """Returns the task itself. Raises InputError unless there is a floating-point output."""
        if not any(output.is_float for output in interface.outputs):
            names = ", ".join(f"{output.name!r}" for output in interface.outputs)
            raise InputError(
                f"the model gives no floating-point output ({names}), so what quantization does to it cannot be "
                "measured; export it with the scores in front of its ArgMax or TopK as outputs"
            )
        return self

    def signals(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the floating-point outputs."""
        return {name: value for name, value in outputs.items() if _is_float(value)}

    def objective_for(self, sample: Iterable[Outputs], seed: int) -> Objective:
        """Returns `objective.projection` of the signals."""
        from qvit_deploy.tasks.objective import projection

        return projection((self.signals(outputs) for outputs in sample), seed)

    def answers(self, outputs: Arrays) -> np.ndarray | None:
        """Returns None: nothing is decided."""
        return None

    def agreement(self, reference: Arrays, other: Arrays) -> float | None:
        """Returns the share of equal elements of outputs of integers and booleans; None where there are none."""
        decided = [name for name, value in reference.items() if not _is_float(value)]
        equal = [(reference[name] == other[name]).mean() for name in decided]
        return float(np.mean(equal)) if equal else None

    def tally(self, labels: Labels | None) -> Tally:
        """Counts the agreement of outputs of integers and booleans."""
        return _Agreement(self)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics there are, as a person writes them."""
        return (OUTPUT_CHANGE,)

    def parse_metric(self, text: str) -> Metric:
        """Reads `output-change`: how far the outputs are from the corrupt image's towards the clean image's, summed
        over outputs, each relative to the squared norm of the clean one. On the clean image it is the noise to signal
        ratio of the corrupt outputs, on the corrupt image 0.

        Raises:
            InputError: there is no such metric.
        """
        if text != OUTPUT_CHANGE:
            known = ", ".join(self.metrics)
            raise InputError(f"there is no metric {text!r} for task {self.name!r}; choose from {known}")
        return self._output_change

    def _output_change(self, clean: Outputs, corrupt: Outputs) -> Objective:
        start = {name: by_example(value) for name, value in self.signals(corrupt).items()}
        aim = {name: by_example(value) for name, value in self.signals(clean).items()}

        def change(outputs: Outputs) -> Tensor:
            signals = self.signals(outputs)
            shares = [
                ((by_example(signals[name]) - start[name]) * (aim[name] - start[name])).sum(1)
                / aim[name].square().sum(1).clamp_min(1e-30)
                for name in aim
            ]
            return sum(itertools.islice(shares, 1, None), start=shares[0])

        return change

    def metric_text(self, metric: str) -> str:
        """Returns `the change of the outputs`."""
        return "the change of the outputs"

    def pair_metric_text(self, metric: str, clean: int | None, corrupt: int | None) -> str:
        """Returns `change of the outputs`."""
        return "change of the outputs"


class _Agreement(Tally):
    def __init__(self, task: AllOutputs) -> None:
        self._task = task
        self._sum, self._count = 0.0, 0

    def add(self, outputs: Arrays, reference: Arrays | None, place: slice) -> None:
        agreement = None if reference is None else self._task.agreement(reference, outputs)
        if agreement is not None:
            count = place.stop - place.start
            self._sum, self._count = self._sum + agreement * count, self._count + count

    def by_labels(self) -> list[Figure]:
        return []

    def to_float(self) -> list[Figure]:
        return [agreement_with_float(self._sum / self._count)] if self._count else []


def _is_float(value: Array) -> bool:
    return value.dtype.kind == "f" if isinstance(value, np.ndarray) else value.is_floating_point()
