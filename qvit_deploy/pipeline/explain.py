"""RelP on pairs of images: maps of every component, exact patching beside them, and how well the two agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from qvit_deploy.data.pairs.make import ImagePair
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.patching.agreement import Agreement, Summary, compare, random_map, summarise
from qvit_deploy.patching.components import KINDS, Component, Kind, find_components
from qvit_deploy.patching.exact import circuit_metric
from qvit_deploy.patching.faithfulness import FaithfulnessCurve, cmd, cpr
from qvit_deploy.patching.relp import Attribution, Direction, attribute
from qvit_deploy.pipeline.exact_maps import ExactMaps
from qvit_deploy.pipeline.model_files import ModelFile
from qvit_deploy.progress import Advance
from qvit_deploy.relevance.differentiable import check_differentiable
from qvit_deploy.relevance.rule_sets import RULE_SETS, RuleSet
from qvit_deploy.targets.onnxruntime.input_patch import patched_outputs
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.metrics import relative_error
from qvit_deploy.tasks.task import Metric, Task, arrays

Tensor = torch.Tensor

CIRCUIT_KINDS: tuple[Kind, ...] = ("attention", "mlp")
"""Circuits are made of what the blocks write; the residual stream is the sum of that."""

CROSS_CHECKED = 3
"""Patches that ONNX Runtime repeats by graph surgery."""

FLOAT_TOLERANCE = 1e-3
"""Largest difference of patched logits between ONNX Runtime and the executor, relative to the largest logit."""


@dataclass(frozen=True, eq=False)
class PairMaps:
    """One pair: its images, the model's answers, and its maps.

    Attributes:
        clean_class, corrupt_class: predicted.
        clean, corrupt: the metric on the two images.
        effects, distances: component -> float64 [cells], see `Attribution`; `reached` bool [cells].
        exact: component -> float64 [cells], when it was asked for.
    """

    pair: ImagePair
    clean_class: int
    corrupt_class: int
    clean: float
    corrupt: float
    effects: Mapping[Component, np.ndarray]
    distances: Mapping[Component, np.ndarray]
    reached: Mapping[Component, np.ndarray]
    gradient: Mapping[Component, np.ndarray] | None
    exact: Mapping[Component, np.ndarray] | None


@dataclass(frozen=True, eq=False)
class Explanation:
    """What `explain` found.

    Attributes:
        agreement: kind -> method -> how its maps agree with exact patching, over pairs; None without exact maps.
        circuits: method -> (mean CPR, mean CMD) over the pairs where they are defined; None without exact maps.
        cross_check: largest difference of patched logits, ONNX Runtime against the executor, relative to the largest
            logit; None without exact maps.
    """

    components: tuple[Component, ...]
    rules: str
    metric: str
    direction: Direction
    firings: Mapping[str, int]
    pairs: tuple[PairMaps, ...]
    agreement: Mapping[Kind, Mapping[str, Summary]] | None
    circuits: Mapping[str, tuple[float | None, float | None]] | None
    cross_check: float | None


def explain(
    model: ModelFile,
    pairs: Sequence[ImagePair],
    *,
    metric: str = "logit-diff",
    rules: str = "relp",
    secant_quantizers: bool = False,
    direction: Direction = "denoising",
    exact: ExactMaps | None = None,
    task: Task = CLASSIFY,
    advance: Advance = lambda _: None,
) -> Explanation:
    """Maps of all pairs; `advance` counts pairs.

    Args:
        metric: see `Task.parse_metric`.
        rules: name of a rule set.
        exact: computes the exact maps; they are left out when None.

    Raises:
        InputError: no such metric or rule set, a graph without attention or with an operator that has no backward
            pass, identical images.
        CheckError: ONNX Runtime does not agree with the executor on a patched float graph.
    """
    rule_set = rule_set_called(rules, secant_quantizers)
    check_differentiable(model.graph)
    measured, components = task.parse_metric(metric), find_components(model.graph)
    ruled = _Ruled(model, rule_set)
    plain = _Ruled(model, RULE_SETS["gradient"]) if exact is not None and rules != "gradient" else None
    found, cross_check = [], None
    for index, pair in enumerate(pairs):
        clean, corrupt = ruled.batched(pair.clean), ruled.batched(pair.corrupt)

        def maps(runner: _Ruled, clean: Tensor = clean, corrupt: Tensor = corrupt) -> Attribution:
            return attribute(
                runner.executor, runner.rule_set, components, clean, corrupt, measured, task, direction
            )  # fmt: skip

        made = maps(ruled)
        truth = None if exact is None else exact.of(pair, components)
        gradient = None if truth is None else made if plain is None else maps(plain)
        found.append(
            PairMaps(
                pair=pair,
                clean_class=int(made.clean_answers[0]),
                corrupt_class=int(made.corrupt_answers[0]),
                clean=float(made.clean[0]),
                corrupt=float(made.corrupt[0]),
                effects={c: m[0] for c, m in made.effects.items()},
                distances={c: m[0] for c, m in made.distances.items()},
                reached={c: m[0] for c, m in made.reached.items()},
                gradient=None if gradient is None else {c: m[0] for c, m in gradient.effects.items()},
                exact=truth,
            )
        )
        if truth is not None and index == 0:
            cross_check = _cross_check(model, components, clean, corrupt, found[0], direction, task)
        advance(1)
    agreement = None if exact is None else _agreement(components, found, rule_set.name)
    circuits = None if exact is None else _circuits(model, components, found, measured, rule_set.name)
    return Explanation(
        components, rule_set.name, metric, direction, ruled.firings, tuple(found), agreement, circuits, cross_check
    )


def rule_set_called(name: str, secant_quantizers: bool) -> RuleSet:
    """The rule set of that name. Raises InputError."""
    if name not in RULE_SETS:
        raise InputError(f"there is no rule set {name!r}; choose from {', '.join(RULE_SETS)}")
    return RULE_SETS[name].with_secant_quantizers() if secant_quantizers else RULE_SETS[name]


class _Ruled:
    """A model under a rule set, for one pair at a time."""

    def __init__(self, model: ModelFile, rule_set: RuleSet) -> None:
        self._rows = model.graph.static_batch or 1
        bound = rule_set.bind(model.graph, self._rows)
        self.rule_set, self.firings = rule_set, bound.firings
        self.executor = Executor(model.graph, overrides=bound.overrides)

    def batched(self, image: np.ndarray) -> Tensor:
        """[1, C, H, W], repeated to the batch of a graph that fixes one."""
        return torch.tensor(image)[None].expand(self._rows, *image.shape)


def _agreement(
    components: Sequence[Component], pairs: Sequence[PairMaps], rules: str
) -> dict[Kind, dict[str, Summary]]:
    result: dict[Kind, dict[str, Summary]] = {}
    for kind in KINDS:
        mine = [c for c in components if c.kind == kind]
        if not mine:
            continue
        agreements: dict[str, list[Agreement]] = {}
        for index, pair in enumerate(pairs):
            assert pair.exact is not None and pair.gradient is not None
            truth, reached = _joined(pair.exact, mine), _joined(pair.reached, mine)
            methods = {
                rules: _joined(pair.effects, mine),
                "gradient": _joined(pair.gradient, mine),
                "|difference|": _joined(pair.distances, mine),
                "random": random_map(truth.shape, index),
            }
            for method, estimate in methods.items():
                agreements.setdefault(method, []).append(compare(estimate, truth, reached))
        result[kind] = {method: summarise(found) for method, found in agreements.items()}
    return result


def _joined(maps: Mapping[Component, np.ndarray], components: Sequence[Component]) -> np.ndarray:
    return np.concatenate([maps[c] for c in components])


def _circuits(
    model: ModelFile, components: Sequence[Component], pairs: Sequence[PairMaps], metric: Metric, rules: str
) -> dict[str, tuple[float | None, float | None]]:
    mine = [c for c in components if c.kind in CIRCUIT_KINDS]
    executor = Executor(model.graph)
    areas: dict[str, list[tuple[FaithfulnessCurve, FaithfulnessCurve]]] = {}
    for index, pair in enumerate(pairs):
        assert pair.exact is not None and pair.gradient is not None
        clean, corrupt = (torch.tensor(i)[None] for i in (pair.pair.clean, pair.pair.corrupt))
        evaluate = circuit_metric(executor, mine, clean, corrupt, metric)
        truth = _joined(pair.exact, mine)
        # A circuit keeps what raises the metric towards the clean image's.
        sign = np.sign(pair.clean - pair.corrupt) or 1.0
        methods = {
            "exact": truth, rules: _joined(pair.effects, mine), "gradient": _joined(pair.gradient, mine),
            "|difference|": sign * _joined(pair.distances, mine), "random": random_map(truth.shape, index),
        }  # fmt: skip
        for method, scores in methods.items():
            areas.setdefault(method, []).append((cpr(sign * scores, evaluate), cmd(scores, evaluate)))
    return {
        method: (_mean([c.area for c, _ in curves]), _mean([d.distance for _, d in curves]))
        for method, curves in areas.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _cross_check(
    model: ModelFile,
    components: Sequence[Component],
    clean: Tensor,
    corrupt: Tensor,
    found: PairMaps,
    direction: Direction,
    task: Task,
) -> float:
    """Repeats whole-tensor patches of a few components in ONNX Runtime. Raises CheckError on a float graph."""
    executor = Executor(model.graph)
    base, source = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    chosen = [max((c for c in components if c.kind == k), key=lambda c: float(np.abs(found.effects[c]).max()))
              for k in KINDS if any(c.kind == k for c in components)][-CROSS_CHECKED:]  # fmt: skip
    worst = 0.0
    with torch.no_grad():
        values = executor.run(source, fetch=[c.tensor for c in chosen])
        for component in chosen:
            value = values[component.tensor]
            ours = arrays(executor.run(base, {component.tensor: partial(_constant, value)}))
            theirs = patched_outputs(model.graph, base.numpy(), component.tensor, value.cpu().numpy())
            worst = max(worst, relative_error(task.signal(ours), task.signal(theirs)))
    is_float = not any(n.op_type == "QuantizeLinear" for n in model.graph.nodes())
    if is_float and worst > FLOAT_TOLERANCE:
        raise CheckError(
            f"patched logits of ONNX Runtime differ from the executor's by {worst:.1e} of the largest logit"
        )
    return worst


def _constant(value: Tensor, _: Tensor) -> Tensor:
    return value
