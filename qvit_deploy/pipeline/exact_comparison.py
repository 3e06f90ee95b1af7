"""How far estimated maps can be trusted: against exact patching, as circuits, and against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.patching.agreement import Agreement, Summary, compare, random_map, summarise
from qvit_deploy.patching.components import KINDS, Component, Kind
from qvit_deploy.patching.exact import circuit_metric
from qvit_deploy.patching.faithfulness import FaithfulnessCurve, cmd, cpr
from qvit_deploy.patching.relp import Direction, ordered
from qvit_deploy.pipeline.explain import Explanation, Maps, PairMaps, Truth, image_batch
from qvit_deploy.pipeline.model_files import ModelFile
from qvit_deploy.targets.onnxruntime.input_patch import patched_outputs
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Metric, Task, arrays

Tensor = torch.Tensor

CIRCUIT_KINDS: tuple[Kind, ...] = ("attention", "mlp")
"""Circuits are made of what the blocks write; the residual stream is the sum of that."""

CROSS_CHECKED = 3
"""Patches that ONNX Runtime repeats by graph surgery."""

FLOAT_TOLERANCE = 1e-3
"""Largest difference of patched outputs between ONNX Runtime and the executor, relative to the largest value."""


@dataclass(frozen=True, eq=False)
class ExactComparison:
    """How far an explanation can be trusted.

    Attributes:
        agreement: kind -> method -> how its maps agree with exact patching, over pairs.
        circuits: method -> (mean CPR, mean CMD) over the pairs where they are defined.
        cross_check: largest difference of patched outputs, ONNX Runtime against the executor, relative to the largest
            value of the output.
    """

    agreement: Mapping[Kind, Mapping[str, Summary]]
    circuits: Mapping[str, tuple[float | None, float | None]]
    cross_check: float


def compare_with_exact(model: ModelFile, explanation: Explanation, task: Task = CLASSIFY) -> ExactComparison:
    """Compares the estimated maps of `explanation` with the exact ones that it has too.

    Raises:
        CheckError: ONNX Runtime does not agree with the executor on a patched float graph.
    """
    cross_check = _cross_check(model, explanation.components, explanation.pairs[0], explanation.direction, task)
    agreement = _agreement(explanation.components, explanation.pairs, explanation.rules)
    metric = task.parse_metric(explanation.metric)
    circuits = _circuits(model, explanation.components, explanation.pairs, metric, explanation.rules)
    return ExactComparison(agreement, circuits, cross_check)


def _agreement(
    components: Sequence[Component], pairs: Sequence[PairMaps], rules: str
) -> dict[Kind, dict[str, Summary]]:
    result: dict[Kind, dict[str, Summary]] = {}
    for kind in KINDS:
        of_kind = [c for c in components if c.kind == kind]
        if not of_kind:
            continue
        agreements: dict[str, list[Agreement]] = {}
        for index, pair in enumerate(pairs):
            truth = _truth(pair)
            exact, reached = _joined(truth.exact, of_kind), _joined(pair.reached, of_kind)
            methods = {
                rules: _joined(pair.effects, of_kind),
                "gradient": _joined(truth.gradient, of_kind),
                "|difference|": _joined(pair.distances, of_kind),
                "random": random_map(exact.shape, index),
            }
            for method, estimate in methods.items():
                agreements.setdefault(method, []).append(compare(estimate, exact, reached))
        result[kind] = {method: summarise(of_pairs) for method, of_pairs in agreements.items()}
    return result


def _circuits(
    model: ModelFile, components: Sequence[Component], pairs: Sequence[PairMaps], metric: Metric, rules: str
) -> dict[str, tuple[float | None, float | None]]:
    nodes = [c for c in components if c.kind in CIRCUIT_KINDS]
    executor = Executor(model.graph)
    curves: dict[str, list[tuple[FaithfulnessCurve, FaithfulnessCurve]]] = {}
    for index, pair in enumerate(pairs):
        clean, corrupt = (Examples.images(torch.tensor(i)[None]) for i in (pair.pair.clean, pair.pair.corrupt))
        evaluate = circuit_metric(executor, nodes, clean, corrupt, metric)
        truth = _truth(pair)
        exact = _joined(truth.exact, nodes)
        # A circuit keeps what raises the metric towards the clean image's.
        sign = np.sign(pair.clean.metric - pair.corrupt.metric) or 1.0
        methods = {
            "exact": exact, rules: _joined(pair.effects, nodes), "gradient": _joined(truth.gradient, nodes),
            "|difference|": sign * _joined(pair.distances, nodes), "random": random_map(exact.shape, index),
        }  # fmt: skip
        for method, scores in methods.items():
            curves.setdefault(method, []).append((cpr(sign * scores, evaluate), cmd(scores, evaluate)))
    return {
        method: (_mean([c.area for c, _ in of_pairs]), _mean([d.distance for _, d in of_pairs]))
        for method, of_pairs in curves.items()
    }


def _cross_check(
    model: ModelFile, components: Sequence[Component], pair: PairMaps, direction: Direction, task: Task
) -> float:
    """Repeats whole-tensor patches of a few components in ONNX Runtime. Raises CheckError on a float graph."""
    executor = Executor(model.graph)
    clean, corrupt = (image_batch(model, image) for image in (pair.pair.clean, pair.pair.corrupt))
    base, source = ordered(clean, corrupt, direction)
    strongest = [max((c for c in components if c.kind == k), key=lambda c: float(np.abs(pair.effects[c]).max()))
                 for k in KINDS if any(c.kind == k for c in components)][-CROSS_CHECKED:]  # fmt: skip
    worst = 0.0
    with torch.no_grad():
        values = executor.run(source, fetch=[c.tensor for c in strongest])
        for component in strongest:
            value = values[component.tensor]
            by_executor = arrays(executor.run(base, {component.tensor: partial(_constant, value)}))
            by_runtime = patched_outputs(
                model.graph, base.map(torch.Tensor.numpy), component.tensor, value.cpu().numpy()
            )
            worst = max(worst, *task.relative_errors(by_executor, by_runtime).values())
    is_float = not any(n.op_type == "QuantizeLinear" for n in model.graph.nodes())
    if is_float and worst > FLOAT_TOLERANCE:
        raise CheckError(
            f"patched {task.words.signal} of ONNX Runtime differ from the executor's by {worst:.1e} of the largest "
            f"{task.words.signal.removesuffix('s')}"
        )
    return worst


def _truth(pair: PairMaps) -> Truth:
    assert pair.truth is not None  # the explanation was made with exact maps
    return pair.truth


def _joined(maps: Maps, components: Sequence[Component]) -> np.ndarray:
    return np.concatenate([maps[c] for c in components])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _constant(value: Tensor, _: Tensor) -> Tensor:
    return value
