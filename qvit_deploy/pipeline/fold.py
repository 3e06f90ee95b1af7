"""The float graph brought to ranges that quantize well, before anything else is calibrated."""

from __future__ import annotations

import gc

from torch import Tensor

from qvit_deploy.allocate.patterns import kept_in_float
from qvit_deploy.calibrate.heads import head_pairs
from qvit_deploy.calibrate.observe import observe
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.channels import norm_groups
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.pipeline.inputs import Batches
from qvit_deploy.progress import Stopwatch
from qvit_deploy.quantize.folds.absorb import absorb_scales
from qvit_deploy.quantize.folds.equalize import equalizable, equalize
from qvit_deploy.quantize.folds.heads import fold_heads
from qvit_deploy.quantize.folds.norms import channel_fold, fold_norms
from qvit_deploy.recipe import BUDGETS, Recipe, narrowest
from qvit_deploy.relevance.importance import row_importance
from qvit_deploy.relevance.objective import objective_on
from qvit_deploy.relevance.rule_sets import RULE_SETS, fitting
from qvit_deploy.tasks.task import Task

SCORED_AT_ONCE = 2
"""A backward pass holds every activation of its batch: 0.4 GB an image for ViT-B at 224."""
SCORED_IMAGES = 32
"""Images a score is averaged over: relevance costs six forward passes an image, the rest of calibration one."""

AFTER_FOLD = {
    *BUDGETS, "uniform", "bits", "separate_bits", "first_last_bits", "latency_table", "score", "rules", "attention",
    "widths", "softmax", "softmax_rows", "attention_granularity", "compensate", "distill_epochs", "targets", "task",
}  # fmt: skip
"""Fields of a recipe that the folds do not depend on (but on the narrowest width)."""


def fold(
    graph: Graph, recipe: Recipe, batches: Batches, task: Task, watch: Stopwatch
) -> tuple[Graph, Graph, dict[str, Tensor]]:
    """Brings the channels of `graph` to ranges that quantize well, without changing the function that it computes.

    Returns: (the graph with every fold that parameters absorb; the same with an explicit factor and shift per channel
        where nothing absorbs them; importance of the rows of every tensor that a linear reads).
    """
    graph, count = absorb_scales(graph), len(batches.images)
    sites = find_sites(graph)
    groups = norm_groups(graph, sites) if recipe.fold else ()
    scores, values = head_pairs(graph, sites) if recipe.fold_heads else ((), ())
    already_folded = {name for g in groups for name in g.sites} | {v.projection.site for v in values}
    bits, in_float = narrowest(recipe), kept_in_float(recipe, (s.name for s in sites))
    readers = equalizable(graph, sites, already_folded | in_float) if recipe.equalize else {}
    heads = [c for p in scores for c in (p.query, p.key)] + [c for v in values for c in (v.value, v.projection)]
    # In an order: rows are sampled tensor after tensor, and the order of a set of names changes with every process.
    tensors = dict.fromkeys([*readers, *(g.norm for g in groups), *(c.tensor for c in heads)])
    importance: dict[str, Tensor] = {}
    if recipe.row_importance != "none":
        names = dict.fromkeys([*tensors, *(s.input for s in sites if s.kind == "linear" and s.role != "image")])
        scored = batches.sample(SCORED_IMAGES, recipe.seed, SCORED_AT_ONCE)
        with watch.stage("importance", len(scored.images)) as advance:
            rules = fitting(RULE_SETS[recipe.row_importance], graph, "row importance")
            objective = objective_on(graph, scored, task, recipe.seed)
            importance = row_importance(graph, names, scored, rules, objective, advance)
        gc.collect()  # backward passes leave cycles that hold every activation
    with watch.stage("fold", count) as advance:
        observations = observe(Executor(graph), batches, tensors, count, recipe.seed, importance, advance)
        graph = fold_heads(graph, sites, scores, values, observations)
        folded = fold_norms(
            graph, sites, groups, {g.norm: channel_fold(observations[g.norm], recipe.fold_clip, bits) for g in groups}
        )
        sites = find_sites(folded)  # some have a bias now
        readers = {name: tuple(s for s in sites if s.input == name) for name in readers}
        graph, renamed = equalize(folded, readers, observations, bits)
    return folded, graph, importance | {new: importance[old] for old, new in renamed.items() if old in importance}
