"""Values that a file is run on for a measurement: made up, or those that another process wrote down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qvit_deploy.data.example_set import ExampleSet
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import Input
from qvit_deploy.graph.synthetic import noise


def write_run_values(to: Path, inputs: Sequence[Input], examples: ExampleSet, batch: int) -> None:
    """Writes the values of `inputs` for one run on the first `batch` examples, some repeated where there are fewer."""
    first = examples.between(0, min(batch, len(examples))).cycled(batch)
    feeds = first.feeds_for([value.name for value in inputs])
    np.savez(to, *feeds.values())  # by place: a name may be none that a file can have


def run_values(inputs: Sequence[Input], batch: int, values: Path | None) -> Examples[np.ndarray]:
    """Returns what to run `batch` examples on: the values in a file of `write_run_values`, or noise."""
    if values is None:
        return noise(inputs, batch)
    with np.load(values) as archive:
        arrays = {value.name: archive[f"arr_{place}"] for place, value in enumerate(inputs)}
    counts = {value.name for value in inputs if value.batch_axis is not None}
    return Examples(
        {name: array for name, array in arrays.items() if name in counts},
        {name: array for name, array in arrays.items() if name not in counts},
    )
