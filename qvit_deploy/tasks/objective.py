"""The objective that counts every output: one backward pass in place of one for each number that comes out.

The damage to an output y is its noise to signal ratio, |d|^2 / sum of var(y), d what quantization changes. To first
order d is linear in the errors inside of the network, but |d|^2 has no gradient at the float model, where d is zero. A
projection s . y on random signs s has one, and its squared change is |d|^2 in expectation: E[(s . d)^2] = |d|^2
(Hutchinson, Communications in Statistics 19(2), 1990). With each output divided by the root of its power, and signs
that are independent across outputs, the squared change of the sum is in expectation the sum of the noise to signal
ratios.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from qvit_deploy.errors import InputError
from qvit_deploy.tasks.task import Objective, Outputs, by_example


class Spread:
    """What differs between examples in some tensors [batch, ...], from batches of them; sums are of their dtype."""

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}
        self._varying: set[str] = set()
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Takes in a batch, the same tensors every time."""
        for name, value in values.items():
            each = by_example(value.detach())
            if name not in self._varying and bool((each != self._first.setdefault(name, each[0])).any()):
                self._varying.add(name)
            total, squares = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = total + each.sum(0), squares + each.square().sum(0)
        self._count += len(next(iter(values.values())))

    def powers(self) -> dict[str, float]:
        """Returns name -> the variance over the examples, averaged over the elements; without the tensors that are the
        same for all examples. Of a single example it is the mean square."""
        if self._count == 1:
            return {name: float(squares.mean()) for name, (_, squares) in self._sums.items()}
        return {
            name: float((squares / self._count - (total / self._count).square()).mean())
            for name, (total, squares) in self._sums.items()
            if name in self._varying
        }


def projection(sample: Iterable[Outputs], seed: int) -> Objective:
    """Returns the objective sum over outputs of s . y / sqrt(elements x power), with fresh random signs s for every
    example of every call. One draw for an example is enough where scores are means over examples: four moved the worst
    output of a trained model by less than its standard deviation over draws (`tools/measure/projections.py`).

    Args:
        sample: batches of the outputs that count. One that is the same for every example does not.
        seed: of the signs; those of an example do not depend on how examples are batched.

    Raises:
        InputError: all outputs are the same for every example.
    """
    spread = Spread()
    for outputs in sample:
        # Of an output that is large and hardly varies single precision would leave nothing.
        spread.add({name: value.double() for name, value in outputs.items()})
    powers = {name: power for name, power in spread.powers().items() if power > 0}
    if not powers:
        raise InputError("every output of the model is the same for all calibration images: nothing can be measured")
    generator = torch.Generator().manual_seed(seed)

    def objective(outputs: Outputs) -> Tensor:
        chosen = {name: by_example(outputs[name]) for name in powers}
        scaled = [value / (value.shape[1] * powers[name]) ** 0.5 for name, value in chosen.items()]
        joined = torch.cat(scaled, 1)
        signs = torch.randint(0, 2, joined.shape, generator=generator) * 2 - 1
        return (joined * signs.to(joined.device)).sum(1)

    return objective
