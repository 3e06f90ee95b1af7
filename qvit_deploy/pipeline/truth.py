"""Compares what is compiled with the model as it was handed in, output by output, on real images."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qvit_deploy.artifacts.verification import OriginalComparison
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend import Source
from qvit_deploy.frontend.original import Original, Run
from qvit_deploy.graph.canonicalize import rewrite
from qvit_deploy.graph.canonicalize.measure import as_input, open_session
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.tasks.task import arrays

IMAGES = 4
"""Images of the comparison: a wrong operator shows on any, and outputs of several megapixels are held for all."""

TOLERANCE = 1e-3
"""What is let pass in float32: as much as folds may move the outputs (`executor_outputs.FOLD_TOLERANCE`). Deep networks
were seen to differ by 1e-7 to 1e-5 between runtimes."""

ROUNDINGS = 32
"""The same in roundings, for models in half precision, whose runtime rounds every result to it while the canonical
graph is float32: a thousand roundings that add up like steps of a random walk come to the root of a thousand."""

NUDGE = 8
"""Roundings by which an input is moved to see how much of an error is float noise (`_noise`)."""

Batch = Sequence[np.ndarray]
"""The outputs for one batch, in the model's order."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What the original computes.

    Attributes:
        original: where it is opened again, when there is something to explain.
        batches: the examples it ran on.
        feeds: the same as the graph takes them, which may have the normalization of the image inside.
        outputs: for each batch.
        names: of the outputs.
    """

    original: Original
    batches: Sequence[Examples[np.ndarray]]
    feeds: Sequence[Examples[np.ndarray]]
    outputs: Sequence[Batch]
    names: Sequence[str]

    def errors(self, graph: Graph) -> dict[str, float]:
        """Returns output -> how far `graph` is from the original (`_error`)."""
        executor = Executor(graph)
        with torch.no_grad():
            runs = [arrays(executor.run(batch.map(torch.from_numpy), fetch=self.names)) for batch in self.feeds]
        alone = [output.batch_axis is None for output in graph.interface.outputs]  # repeated by the executor
        got = [[run[n][0] if one else run[n] for n, one in zip(self.names, alone, strict=True)] for run in runs]
        return dict(zip(self.names, _errors(self.outputs, got), strict=True))

    def require(self, graph: Graph) -> OriginalComparison:
        """Compares the canonical graph with the original.

        Raises:
            CheckError: an output differs by more than float noise; names the rewrite after which it does.
        """
        errors = self.errors(graph)
        if (beyond := self._beyond_noise(errors)) is not None:
            name, error, allowed = beyond
            raise CheckError(
                f"verification: output {name!r} of the canonical graph differs from the model in "
                f"{self.original.runtime} by {_amount(error)}, where float noise is below {allowed:.1e}, "
                f"{self._first_rewrite(self.names.index(name), allowed)}; please report the model"
            )
        return self._record(errors)

    def require_folded(self, folded: Graph, before: OriginalComparison) -> OriginalComparison:
        """Compares the folded graph too and returns the worse error of the two for each output.

        Raises:
            CheckError: an output differs by more than float noise.
        """
        errors = self.errors(folded)
        if (beyond := self._beyond_noise(errors)) is not None:
            name, error, allowed = beyond
            raise CheckError(
                f"verification: folding scales into the float model moved output {name!r} by {_amount(error)} "
                f"from the model in {self.original.runtime}, where float noise is below {allowed:.1e}; turn the folds "
                "off one by one in a recipe (fold, fold_heads) and report the model"
            )
        return self._record({name: max(error, before.errors[name]) for name, error in errors.items()})

    def _record(self, errors: dict[str, float]) -> OriginalComparison:
        rounded = {name: float(f"{error:.2e}") for name, error in errors.items()}
        return OriginalComparison(runtime=self.original.runtime, images=sum(map(len, self.batches)), errors=rounded)

    def _beyond_noise(self, errors: dict[str, float]) -> tuple[str, float, float] | None:
        """Returns the output that is farthest beyond float noise as (name, error, what is allowed), or None."""
        if max(errors.values()) <= TOLERANCE:
            return None
        roundoff = self.original.roundoff()
        tolerance = max(TOLERANCE, ROUNDINGS * roundoff)
        if max(errors.values()) <= tolerance:
            return None
        noise = _noise(self.original.open(), self.batches, self.outputs, roundoff)
        allowed = {name: max(tolerance, ROUNDINGS / NUDGE * n) for name, n in zip(self.names, noise, strict=True)}
        beyond = [(name, error, allowed[name]) for name, error in errors.items() if not error <= allowed[name]]
        return max(beyond, key=lambda b: b[1] / b[2], default=None)

    def _first_rewrite(self, index: int, allowed: float) -> str:
        """Says after which rewrite output `index` first differs: canonicalizes again, and runs every state."""
        for name, model in rewrite(self.original.model()):
            outputs = [str(model.graph.outputs[index].name)]
            try:
                session = open_session(model, outputs)
                got = [session.run(outputs, as_input(session, batch)) for batch in self.batches]
            except Exception:  # a state between two rewrites need not run
                continue
            (error,) = _errors([[batch[index]] for batch in self.outputs], got)
            if not error <= allowed:
                return f"first after the rewrite {name}"
        last = "the executor does not" if self.feeds is self.batches else "the executor, or its normalization, does not"
        return f"though ONNX Runtime computes it as the model does after every rewrite: {last}"


def compare_with_original(
    source: Source, batches: Sequence[Examples[np.ndarray]], feeds: Sequence[Examples[np.ndarray]]
) -> tuple[OriginalComparison, Truth | None]:
    """Runs the original of `source` on `batches`, lets go of it, and compares the canonical graph, which takes them as
    `feeds`.

    Returns: (the errors, what it computes); or, where it cannot be run, (why, None).

    Raises:
        CheckError: an output differs by more than float noise; names the rewrite after which it does.
    """
    truth = _ask(source, batches, feeds)
    return (truth, None) if isinstance(truth, OriginalComparison) else (truth.require(source.graph), truth)


def _ask(
    source: Source, batches: Sequence[Examples[np.ndarray]], feeds: Sequence[Examples[np.ndarray]]
) -> Truth | OriginalComparison:
    if source.original is None:
        return OriginalComparison(unavailable="there is only the graph, without a file or module it was made from")
    try:
        run = source.original.open()
        outputs = [run(batch) for batch in batches]
    except Exception as error:  # whatever a runtime raises; ONNX Runtime's types are not importable
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return OriginalComparison(unavailable=f"{source.original.runtime} cannot run it: {reason}")
    finally:
        gc.collect()
    names = [output.name for output in source.graph.interface.outputs]
    if any(len(batch) != len(names) for batch in outputs):
        reason = f"it gives {len(outputs[0])} tensors, the graph has {len(names)} outputs"
        return OriginalComparison(unavailable=reason)
    return Truth(source.original, batches, feeds, outputs, names)


def _amount(error: float) -> str:
    return f"{error:.1e} of its size" if math.isfinite(error) else "its shape or by numbers that are not finite"


def _errors(wanted: Sequence[Batch], got: Sequence[Batch]) -> list[float]:
    """Returns the error of every output over all batches."""
    return [_error(list(a), list(b)) for a, b in zip(zip(*wanted, strict=True), zip(*got, strict=True), strict=True)]


def _error(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """Returns how far the batches of one output are apart.

    Of numbers the larger of |got - wanted| / |wanted| in the root mean square and at the largest values, so that
    neither a wrong place among many nor a small one beside large values is overlooked; of integers the share of places
    that differ. Where both are NaN or the same infinity they are equal; where one is, or shapes differ, it is infinite.
    """
    if any(a.shape != b.shape for a, b in zip(wanted, got, strict=True)):
        return math.inf
    a, b = (np.concatenate([batch.reshape(-1) for batch in batches]) for batches in (wanted, got))
    if not np.issubdtype(a.dtype, np.floating):
        return float((a != b).mean()) if a.size else 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differ.any():
        return 0.0
    if not np.isfinite(a[differ]).all() or not np.isfinite(b[differ]).all():
        return math.inf
    size = np.abs(a[np.isfinite(a)])
    if not size.any():
        return math.inf
    off = np.where(differ, b - a, 0.0) if np.isfinite(a).all() else (b - a)[differ]
    largest = float(np.abs(off).max() / size.max())
    return max(largest, math.sqrt(float(np.square(off).sum()) / float(np.square(size).sum())))


def _noise(run: Run, batches: Sequence[Examples[np.ndarray]], outputs: Sequence[Batch], roundoff: float) -> list[float]:
    """Returns the error of every output of the original when its floating-point inputs move by `NUDGE` roundings.

    This is how much of rounding arrives at an output: little at most, but all of it where a network decides by small
    differences (which queries are the best, in which order).
    """
    signs = np.random.default_rng(0)

    def nudged(values: np.ndarray) -> np.ndarray:
        if not np.issubdtype(values.dtype, np.floating):
            return values
        moved: np.ndarray = values * (1 + NUDGE * roundoff * signs.choice([-1.0, 1.0], values.shape))
        return moved.astype(values.dtype)

    return _errors(outputs, [run(batch.map(nudged)) for batch in batches])
