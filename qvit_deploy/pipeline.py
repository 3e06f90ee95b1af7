"""The compiler, top to bottom: trace, calibrate, relevance, allocate, quantize, emit, verify, write."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from qvit_deploy.allocate.choose import require_feasible
from qvit_deploy.allocate.cost import Allocation, Option, SiteCost, total_cost
from qvit_deploy.allocate.latency import read_latency, site_latencies
from qvit_deploy.analysis import Analysis, menu, site_costs, table_key
from qvit_deploy.bundle import Bundle, check_output, write_bundle
from qvit_deploy.calibrate.extremes import tensor_extremes
from qvit_deploy.calibrate.heads import head_pairs
from qvit_deploy.calibrate.observe import observe, site_tensors
from qvit_deploy.calibrate.products import observe_products
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.emit.attention_carrier import pack_attention
from qvit_deploy.emit.carrier import pack_linears
from qvit_deploy.emit.fused import emit_fused
from qvit_deploy.emit.precision import HalfGraph, to_half
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.emit.tensorrt import emit_tensorrt
from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend import Source
from qvit_deploy.graph.channels import norm_groups
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site, find_sites
from qvit_deploy.inputs import Batches, Inputs, open_inputs
from qvit_deploy.manifest import SCHEMA, FileRecord, SiteRecord, Summary, validate
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.quantize.absorb import absorb_scales
from qvit_deploy.quantize.activations import activation_grids
from qvit_deploy.quantize.ahead import round_ahead
from qvit_deploy.quantize.attention import attention_grids
from qvit_deploy.quantize.calibration import Calibration
from qvit_deploy.quantize.distill import distill
from qvit_deploy.quantize.equalize import equalizable, equalize
from qvit_deploy.quantize.fold import channel_fold, fold_norms
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.quantize.heads import fold_heads
from qvit_deploy.quantize.plan import Plan, site_weights
from qvit_deploy.quantize.rank import rank_sites
from qvit_deploy.quantize.rounding import build_plan
from qvit_deploy.recipe import FUSED_PROFILE, HALF_PROFILES, PACKED_PROFILE, Profile, Recipe, narrowest
from qvit_deploy.relevance.importance import row_importance
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.report.html import render_report
from qvit_deploy.targets.fused_verification import verify_fused
from qvit_deploy.targets.half_verification import verify_half
from qvit_deploy.targets.lint.emitted import lint_emitted
from qvit_deploy.targets.verification import fold_error, verify

if TYPE_CHECKING:
    from torch import nn

SCORED_AT_ONCE = 2
"""A backward pass holds every activation of its batch: 0.4 GB an image for ViT-B at 224."""
VERIFIED_IMAGES = 32
SCORED_IMAGES = 32
"""Images a score is averaged over: relevance costs six forward passes an image, the rest of calibration one."""
EXACT_IMAGES = 8
"""Images of the exact sensitivity, which costs hundreds of forward passes an image (`quantize.exact`)."""


@dataclass(frozen=True)
class Compiled:
    """What a compile leaves behind: the bundle and how long each stage took (not part of the bundle, which is
    reproducible byte for byte)."""

    bundle: Bundle
    seconds: Mapping[str, float]
    skipped_images: tuple[tuple[str, str], ...]


def compile(
    model: str | Source | nn.Module,
    out: str | Path,
    *,
    calib: str | None = None,
    recipe: Recipe | None = None,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    preprocess: Preprocess | None = None,
    force: bool = False,
    skip_bad_images: bool = False,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles `model` into the bundle `out`.

    Args:
        model: MODEL of the command line, a `Source`, or a torch module (then `preprocess` gives its input size).
        calib: DATA of the command line; unlabelled images are enough.
        preprocess: overrides what the model's source says.
        skip_bad_images: leave out calibration images that cannot be read instead of stopping.

    Raises:
        InputError: anything handed in cannot be used; nothing is written.
        BudgetError: no allocation fits; names the smallest possible.
        CheckError: verification failed; nothing is written.
    """
    recipe = recipe or Recipe.load(None)
    watch = Stopwatch(progress)
    check_output(Path(out), force)
    inputs = open_inputs(
        model, calib, recipe, checkpoint=checkpoint, pretrained=pretrained, preprocess=preprocess,
        skip_bad_images=skip_bad_images, watch=watch,
    )  # fmt: skip
    analysis = analyse(inputs, [recipe], watch)
    with watch.stage("allocate"):
        allocation = analysis.allocate(recipe)
    plan, emitted = build(inputs, analysis, allocation, recipe, watch)
    half = emit_half(inputs, analysis, plan, recipe, watch)
    facts, folded = _facts(inputs, analysis, allocation, recipe), analysis.folded
    del analysis  # half of the memory, and verification loads the models again
    gc.collect()
    with watch.stage("verify"):
        seen = np.concatenate(list(inputs.batches.sample(VERIFIED_IMAGES, recipe.seed).arrays()))
        checked = verify(inputs.source.graph, emitted, plan, seen).as_dict()
        checked["fold_error"] = fold_error(inputs.source.graph, folded, seen)
        files = {"model.onnxruntime.onnx": emitted.serialize(), "model.float.onnx": folded.serialize()}
        lints = {"onnxruntime": lint_emitted(emitted.model, "onnxruntime")}
        profiles: dict[str, dict[str, Any]] = {}
        if FUSED_PROFILE in recipe.targets:
            fused = emit_fused(emitted)
            profiles[FUSED_PROFILE] = verify_fused(emitted, fused, plan, seen).as_dict()
            lints[FUSED_PROFILE] = lint_emitted(fused.model, FUSED_PROFILE)
            files[f"model.{FUSED_PROFILE}.onnx"] = fused.serialize()
        for written, names in half:
            profiles |= dict.fromkeys(names, verify_half(inputs.source.graph, emitted, written, seen).as_dict())
            lints |= {str(name): lint_emitted(written.graph.model, name) for name in names}
            files |= {f"model.{name}.onnx": written.graph.serialize() for name in names}
        checked |= {"lint": lints, "profiles": profiles} if profiles else {"lint": lints}
    with watch.stage("write"):
        records = {n: FileRecord.of(c) for n, c in files.items()}
        manifest = validate({**facts, "verification": checked, "files": records}, "the manifest")
        files["report.html"] = render_report(manifest)
        bundle = write_bundle(Path(out), manifest=manifest, files=files, force=force)
    return Compiled(bundle, watch.seconds, inputs.batches.images.skipped)


def analyse(inputs: Inputs, recipes: Sequence[Recipe], watch: Stopwatch) -> Analysis:
    """Everything before the choice of widths, once for all `recipes`: they may differ in budget, score and seed.

    Raises:
        InputError: the model has nothing to quantize, or the latency table does not fit it.
        BudgetError: the budget of one of the recipes cannot be met; found out before the long stages.
    """
    recipe, batches = recipes[0], inputs.batches
    latency = None if recipe.latency_table is None else read_latency(recipe.latency_table)
    folded, graph, importance = _fold(absorb_scales(inputs.source.graph), recipe, batches, watch)
    sites = _sites(graph, recipe)
    weights = site_weights(graph, sites)
    executor = Executor(graph)
    count = len(batches.images)
    with watch.stage("observe", count) as advance:
        observations = observe(executor, batches, site_tensors(sites), count, recipe.seed, importance, advance)
    menus = [menu(r, sites) for r in recipes]
    options = {s.name: sorted({o for m in menus for o in m[s.name]}) for s in sites}
    times = {} if latency is None else site_latencies(latency, str(recipe.latency_table), options)
    costs = site_costs(sites, observations, weights, times)
    for r, m in zip(recipes, menus, strict=True):
        require_feasible(r, costs, m)
    widths = tuple(sorted({bits for choices in options.values() for o in choices for bits in (o.w_bits, o.a_bits)}))
    with watch.stage("ranges"):
        products = observe_products(executor, batches, sites, count, recipe.seed)
        chosen = recipe.softmax, recipe.softmax_rows, recipe.attention_granularity
        grids = {
            **activation_grids(sites, observations, weights, widths),
            **attention_grids(sites, products, widths, *chosen),
        }
    free = {name for m in menus for name, choices in m.items() if len(choices) > 1}
    fitted, judged = batches.halves(recipe.seed)
    with watch.stage("weights", len(weights)) as advance:
        feedback = fitted if free and recipe.compensate == "gptq" else None
        rounded = round_ahead(executor, sites, weights, importance, widths, feedback, advance)
    calibration = Calibration(executor, sites, observations, weights, rounded, grids, widths, products, importance)
    tables = {}
    for r in {table_key(r): r for r in recipes}.values():
        scored = judged.sample(EXACT_IMAGES if r.score == "exact" else SCORED_IMAGES, r.seed, SCORED_AT_ONCE)
        with watch.stage("relevance", len(scored.images)) as advance:
            tables[table_key(r)] = rank_sites(calibration, r, free, scored, advance)
    gc.collect()  # backward passes leave cycles too
    return Analysis(replace(calibration, rounded={}), folded, costs, tables, latency)


def build(
    inputs: Inputs, analysis: Analysis, allocation: Allocation, recipe: Recipe, watch: Stopwatch
) -> tuple[Plan, Graph]:
    """Rounds the weights to the widths of `allocation` and writes the quantized graph."""
    known, batches = analysis.calibration, inputs.batches
    with watch.stage("round", len(known.sites)) as advance:
        bits = {name: (o.w_bits, o.a_bits) for name, o in allocation.items()}
        plan = build_plan(known, bits, recipe.compensate, batches, recipe.seed, advance)
    if recipe.distill_epochs:
        with watch.stage("distill", recipe.distill_epochs) as advance:
            plan = distill(known, plan, batches, recipe.distill_epochs, recipe.seed, advance)
    if any(p in recipe.targets for p in HALF_PROFILES):
        plan = half_scales(plan)
    with watch.stage("emit"):
        return plan, emit_qdq(known.graph, plan)


def emit_half(
    inputs: Inputs, analysis: Analysis, plan: Plan, recipe: Recipe, watch: Stopwatch
) -> list[tuple[HalfGraph, list[Profile]]]:
    """Writes the graphs of the half-precision profiles, each with the profiles it serves; what float16 cannot hold is
    measured on the calibration images."""
    chosen = [p for p in recipe.targets if p in HALF_PROFILES]
    if not chosen:
        return []
    emitted = emit_tensorrt(analysis.calibration.graph, plan)
    with watch.stage("half", len(inputs.batches.images)) as advance:
        largest = tensor_extremes(Executor(emitted.graph), inputs.batches, advance)
    half = to_half(emitted, largest)
    plain = [p for p in chosen if p != PACKED_PROFILE]
    written = [(half, plain)] if plain else []
    if PACKED_PROFILE in chosen:
        written.append((pack_attention(pack_linears(half), plan), [PACKED_PROFILE]))
    return written


def _fold(graph: Graph, recipe: Recipe, batches: Batches, watch: Stopwatch) -> tuple[Graph, Graph, dict[str, Tensor]]:
    """(`graph` with its channels brought to ranges that quantize well, the function and the operators the same; that
    with factors in front of what nothing can absorb them; importance of the rows of every tensor a linear reads)."""
    sites, count = find_sites(graph), len(batches.images)
    groups = norm_groups(graph, sites) if recipe.fold else ()
    scores, values = head_pairs(graph, sites) if recipe.fold_heads else ((), ())
    taken = {name for g in groups for name in g.sites} | {v.projection.site for v in values}
    bits = narrowest(recipe)
    readers = equalizable(graph, sites, taken) if recipe.equalize else {}
    heads = [c for p in scores for c in (p.query, p.key)] + [c for v in values for c in (v.value, v.projection)]
    # In an order: rows are sampled tensor after tensor, and the order of a set of names changes with every process.
    tensors = dict.fromkeys([*readers, *(g.norm for g in groups), *(c.tensor for c in heads)])
    importance: dict[str, Tensor] = {}
    if recipe.row_importance != "none":
        names = dict.fromkeys([*tensors, *(s.input for s in sites if s.kind == "linear" and s.role != "image")])
        scored = batches.sample(SCORED_IMAGES, recipe.seed, SCORED_AT_ONCE)
        with watch.stage("importance", len(scored.images)) as advance:
            importance = row_importance(graph, names, scored, RULE_SETS[recipe.row_importance], advance)
        gc.collect()  # backward passes leave cycles that hold every activation
    with watch.stage("fold", count) as advance:
        seen = observe(Executor(graph), batches, tensors, count, recipe.seed, importance, advance)
        graph = fold_heads(graph, sites, scores, values, seen)
        folded = fold_norms(
            graph, sites, groups, {g.norm: channel_fold(seen[g.norm], recipe.fold_clip, bits) for g in groups}
        )
        sites = find_sites(folded)  # some have a bias now
        readers = {name: tuple(s for s in sites if s.input == name) for name in readers}
        graph, renamed = equalize(folded, readers, seen, bits)
    return folded, graph, importance | {new: importance[old] for old, new in renamed.items() if old in importance}


def _sites(graph: Graph, recipe: Recipe) -> tuple[Site, ...]:
    found = find_sites(graph)
    sites = tuple(s for s in found if s.weight is not None or recipe.attention == "integer")
    if not any(s.weight is not None for s in sites):
        raise InputError(
            f"model {graph.name!r} has nothing to quantize: no linear or convolution with constant weights was found"
        )
    return sites


def _facts(inputs: Inputs, analysis: Analysis, allocation: Allocation, recipe: Recipe) -> dict[str, Any]:
    """What the manifest says before anything is verified or written."""
    images, scores = inputs.batches.images, analysis.table(recipe).scores
    sites = zip(analysis.calibration.sites, analysis.costs, strict=True)
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "source": {"model": inputs.source.description, "preprocess": inputs.preprocess.model_dump(mode="json")},
        "recipe": recipe.model_dump(mode="json"),
        "calibration": {"images": len(images), "sha256": images.digest},
        "relevance": {"method": scores.method, "images": scores.images, "firings": dict(scores.firings)},
        "sites": [_record(s, c, allocation[s.name], scores.values[s.name]) for s, c in sites],
        "summary": _summary(analysis.costs, allocation),
    }
    if analysis.latency is not None:
        total = total_cost(analysis.costs, allocation).latency_ns
        assert total is not None
        measured = analysis.latency.model_dump(mode="json", include={"device", "fingerprint", "batch_size"})
        facts["latency"] = {**measured, "sites_ms": total / 1e6}
    return facts


def _record(site: Site, cost: SiteCost, option: Option, score: float) -> SiteRecord:
    return SiteRecord(
        name=site.name,
        kind=site.kind,
        role=site.role,
        w_bits=option.w_bits,
        a_bits=option.a_bits,
        params=cost.params,
        macs=cost.macs,
        score=score,
    )


def _summary(costs: Sequence[SiteCost], allocation: Allocation) -> Summary:
    cost = total_cost(costs, allocation)
    return Summary(
        mean_w_bits=cost.mean_w_bits,
        mean_a_bits=cost.mean_a_bits,
        weight_bytes=cost.weight_bytes,
        float_weight_bytes=4 * sum(c.params for c in costs),
        bitops=cost.bitops,
        float_bitops=32 * 32 * sum(c.macs for c in costs),
    )
