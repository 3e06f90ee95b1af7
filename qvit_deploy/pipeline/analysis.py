"""What is known of a model before formats are chosen: from it, an allocation under any budget takes no time."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from functools import partial
from pathlib import Path

import torch

from qvit_deploy.allocate.choose import choose, require_feasible, site_options
from qvit_deploy.allocate.cost import Allocation, Option, SiteCost
from qvit_deploy.allocate.patterns import kept_in_float, require_matches
from qvit_deploy.artifacts.latency_table import LatencyTable, read_latency, site_latencies
from qvit_deploy.cache.stages import StageCache, numerics
from qvit_deploy.calibrate.observe import Observation, observe, site_macs, site_tensors
from qvit_deploy.calibrate.products import ProductSample, observe_products
from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site, ends, find_sites
from qvit_deploy.pipeline.fold import AFTER_FOLD, SCORED_AT_ONCE, fold
from qvit_deploy.pipeline.inputs import Batches, Inputs
from qvit_deploy.progress import Stopwatch
from qvit_deploy.quantize.calibration import Calibration, RoundedCalibration
from qvit_deploy.quantize.plan import Grids, site_weights
from qvit_deploy.quantize.ranges.activations import activation_grids
from qvit_deploy.quantize.ranges.attention import attention_grids
from qvit_deploy.quantize.rounding.prequantized import prequantize_weights
from qvit_deploy.quantize.scoring.rank import SCORES, LossTable, rank_sites
from qvit_deploy.recipe import BUDGETS, Recipe, narrowest

Menu = Mapping[str, tuple[Option, ...]]
"""Site name -> the widths it may get."""

TableKey = tuple[str, str, int]

OPEN_CHOICES = {*BUDGETS, "uniform", "score", "rules", "seed"}
"""Fields of the recipe that one analysis answers for any values of: what a score ranks by, and budgets."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """A calibrated model, what its sites cost, and what every format loses there by one or several scores.

    Attributes:
        folded: the float model the plan rounds, without the factors in front of what nothing absorbs: it differs from
            the quantized graph at its sites only.
        costs: of all sites in the order of the graph, those `in_float` among them.
        in_float: sites that stay in float because the recipe names them.
        tables: `table_key` of a recipe -> its loss table.
        latency: the recipe's latency table, if it has one.
        stages: keeps the results of stages.
        basis: what the calibration depends on besides the basis of `stages`, JSON.
    """

    calibration: Calibration
    folded: Graph
    costs: tuple[SiteCost, ...]
    in_float: tuple[Site, ...]
    tables: Mapping[TableKey, LossTable]
    latency: LatencyTable | None
    stages: StageCache
    basis: Sequence[object]

    def table(self, recipe: Recipe) -> LossTable:
        """Returns the loss table of `recipe`, one of those the analysis was made for."""
        return self.tables[table_key(recipe)]

    def allocate(self, recipe: Recipe) -> Allocation:
        """Returns the widths with the least loss inside the budget of `recipe`. Raises BudgetError."""
        errors = self.table(recipe).errors
        options = menu(recipe, self.calibration.sites, self.calibration.graph)
        loss = {n: {o: errors[n].at(o.weights, o.activations) for o in choices} for n, choices in options.items()}
        return choose(recipe, self.costs, options, loss)

    def loss(self, recipe: Recipe, allocation: Allocation) -> float:
        """Returns what `allocation` loses, in the unit of the score of `recipe`."""
        errors = self.table(recipe).errors
        return math.fsum(errors[name].at(o.weights, o.activations) for name, o in allocation.items())


def table_key(recipe: Recipe) -> TableKey:
    """Returns the choices of a recipe that decide its loss table."""
    return recipe.score, recipe.rules, recipe.seed


def menu(recipe: Recipe, sites: Sequence[Site], graph: Graph) -> Menu:
    """Returns the widths `recipe` lets every site of `graph` choose from that is quantized."""
    return site_options(recipe, [s.name for s in sites], ends(graph))


def site_costs(
    sites: Sequence[Site],
    observations: Mapping[str, Observation],
    weights: Mapping[str, torch.Tensor],
    latencies: Mapping[str, Mapping[Option, int]],
    in_float: Collection[str],
) -> tuple[SiteCost, ...]:
    """Returns the sizes of every site, with the nanoseconds of its options where `latencies` has them.

    Args:
        in_float: names of those that stay in float.
    """
    costs = []
    for site in sites:
        weight = weights.get(site.name)
        macs = site_macs(site, observations, None if weight is None else tuple(weight.shape))
        elements = observations[site.input].elements
        latency = latencies.get(site.name, {})
        costs.append(SiteCost(site.name, site.params, macs, elements, site.name not in in_float, latency))
    return tuple(costs)


def analyse(inputs: Inputs, recipes: Sequence[Recipe], watch: Stopwatch, cache: Path | None = None) -> Analysis:
    """Does everything before the choice of widths, once for all `recipes`: they may differ in `OPEN_CHOICES`.

    Args:
        cache: folder to keep the results of stages in.

    Raises:
        InputError: the model has nothing to quantize, the latency table does not fit it, or `cache` cannot be written.
        BudgetError: the budget of one of the recipes cannot be met; raised before the long stages.
        ValueError: the recipes differ in something else.
    """
    recipe, batches = recipes[0], inputs.batches
    shared = recipe.model_dump(exclude=OPEN_CHOICES)
    if any(other.model_dump(exclude=OPEN_CHOICES) != shared for other in recipes):
        raise ValueError(f"recipes of one analysis differ in {', '.join(sorted(OPEN_CHOICES))} alone")
    latency = None if recipe.latency_table is None else read_latency(recipe.latency_table)
    stages = _open_cache(cache, inputs, watch)
    basis = [recipe.model_dump(mode="json", exclude=AFTER_FOLD), narrowest(recipe), batches.size]
    source = inputs.source.graph
    _sites(source, recipe)
    folding = partial(fold, source, recipe, batches, inputs.task, watch)
    folded, graph, importance = stages.result("fold", basis, watch, folding)
    # A graph from the cache has the name of the file it was first read from.
    folded, graph = replace(folded, name=source.name), replace(graph, name=source.name)
    sites, in_float = _sites(graph, recipe)
    everything = tuple(s for s in find_sites(graph) if s in sites or s in in_float)
    weights = site_weights(graph, everything)
    executor = Executor(graph)
    basis = [*basis, recipe.attention]
    observing = partial(_observe, executor, sites, everything, importance, recipe, batches, watch)
    observations, products = stages.result("observe", basis, watch, observing)
    menus = [menu(r, sites, graph) for r in recipes]
    options = {s.name: sorted({o for m in menus for o in m[s.name]}) for s in sites}
    latencies = {} if latency is None else site_latencies(latency, str(recipe.latency_table), options)
    costs = site_costs(everything, observations, weights, latencies, {s.name for s in in_float})
    weights = {s.name: weights[s.name] for s in sites if s.weight}
    for r, m in zip(recipes, menus, strict=True):
        require_feasible(r, costs, m)
    formats = tuple(sorted({f for choices in options.values() for o in choices for f in (o.weights, o.activations)}))
    attention = recipe.softmax, recipe.softmax_rows, recipe.attention_granularity

    def ranges() -> Grids:
        with watch.stage("ranges"):
            activations = activation_grids(sites, observations, weights, formats)
            return {**activations, **attention_grids(sites, products, formats, *attention)}

    basis = [*basis, [f.short for f in formats], attention]
    grids = stages.result("ranges", basis, watch, ranges)
    calibration = Calibration(executor, sites, observations, weights, grids, formats, products, importance)
    tables = _tables(calibration, menus, recipes, inputs, watch, stages, basis)
    gc.collect()  # backward passes leave cycles too
    return Analysis(calibration, folded, costs, in_float, tables, latency, stages, basis)


def _open_cache(folder: Path | None, inputs: Inputs, watch: Stopwatch) -> StageCache:
    if folder is None:
        return StageCache(None, [])
    start = time.perf_counter()
    basis = [inputs.source.graph.digest(), inputs.task.text, inputs.batches.images.digest, numerics()]
    watch.add("cache", time.perf_counter() - start)
    return StageCache(folder, basis)


def _observe(
    executor: Executor,
    sites: Sequence[Site],
    everything: Sequence[Site],
    importance: Mapping[str, torch.Tensor],
    recipe: Recipe,
    batches: Batches,
    watch: Stopwatch,
) -> tuple[dict[str, Observation], dict[str, ProductSample]]:
    count = len(batches.images)
    with watch.stage("observe", count) as advance:
        observations = observe(executor, batches, site_tensors(everything), count, recipe.seed, importance, advance)
        return observations, observe_products(executor, batches, sites, count, recipe.seed)


def _tables(
    calibration: Calibration,
    menus: Sequence[Menu],
    recipes: Sequence[Recipe],
    inputs: Inputs,
    watch: Stopwatch,
    stages: StageCache,
    basis: Sequence[object],
) -> dict[TableKey, LossTable]:
    """Returns the loss table of every score of `recipes`. Weights are prequantized for the first that is not in the
    cache."""
    free = {name for m in menus for name, choices in m.items() if len(choices) > 1}
    compensate = recipes[0].compensate
    fitted, judged = inputs.batches.halves(recipes[0].seed)

    @once
    def with_weights() -> RoundedCalibration:
        run, sites, formats = calibration.executor, calibration.sites, calibration.formats
        weights, importance = calibration.weights, calibration.importance
        with watch.stage("weights", len(weights)) as advance:
            feedback = fitted if free and compensate == "gptq" else None
            rounded = prequantize_weights(run, sites, weights, importance, formats, feedback, advance)
        return calibration.with_weights(rounded)

    def table(recipe: Recipe) -> LossTable:
        scored, rounded = judged.sample(SCORES[recipe.score].images, recipe.seed, SCORED_AT_ONCE), with_weights()
        with watch.stage("relevance", len(scored.images)) as advance:
            return rank_sites(rounded, recipe, free, scored, inputs.task, advance)

    return {
        key: stages.result("relevance", [*basis, sorted(free), compensate, key], watch, partial(table, r))
        for key, r in {table_key(r): r for r in recipes}.items()
    }


def _sites(graph: Graph, recipe: Recipe) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
    """Returns (the sites to quantize, those that stay in float because the recipe names them). Raises InputError."""
    known = find_sites(graph)
    offered = tuple(s for s in known if s.weight is not None or recipe.attention == "integer")
    if not any(s.weight is not None for s in offered):
        raise InputError(
            f"model {graph.name!r} has nothing to quantize: no linear or convolution with constant weights was found"
        )
    require_matches(recipe, [s.name for s in known], [s.name for s in offered])
    names = kept_in_float(recipe, (s.name for s in known))
    in_float = tuple(s for s in offered if s.name in names)
    sites = tuple(s for s in offered if s.name not in names)
    if not any(s.weight is not None for s in sites):
        raise InputError(f"--keep-float {' '.join(recipe.keep_float)} leaves no layer to quantize")
    return sites, in_float
