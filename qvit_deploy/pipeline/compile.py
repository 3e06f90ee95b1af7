"""The compiler, top to bottom: trace, calibrate, relevance, allocate, quantize, emit, verify, write."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qvit_deploy.allocate.cost import (
    Allocation,
    Option,
    SiteCost,
    bit_operations,
    packed_bytes,
    storage_bits,
    total_cost,
)
from qvit_deploy.artifacts.bundle import Bundle, check_output, write_bundle
from qvit_deploy.artifacts.manifest import SCHEMA, FileRecord, SiteRecord, Summary, validate
from qvit_deploy.artifacts.verification import Verification
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import QvitError
from qvit_deploy.frontend import Source
from qvit_deploy.frontend.input_shapes import NO_SHAPES, InputShapes
from qvit_deploy.graph.examples import concatenated
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site, float_layers
from qvit_deploy.lint.emitted import require_no_errors
from qvit_deploy.pipeline.analysis import Analysis, analyse
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.inputs import Inputs, open_inputs
from qvit_deploy.pipeline.views import viewed
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.quantize.rounding.distill import distill
from qvit_deploy.quantize.rounding.plan_weights import build_plan
from qvit_deploy.recipe import Recipe
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.report.compile.page import render_report
from qvit_deploy.targets.executor_outputs import fold_error
from qvit_deploy.targets.registry import REFERENCE, targets_of, with_known_targets
from qvit_deploy.targets.target import FLOAT, AnyTarget, EmissionJob, EmittedModel, VerificationJob, file_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Compiled:
    """The result of a compile: the bundle and how long each stage took (not part of the bundle, which is
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
    input_shapes: InputShapes = NO_SHAPES,
    force: bool = False,
    skip_bad_images: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles `model` into the bundle `out`: `compile_bundle` with the fields of `InputOptions` as arguments.

    Args:
        recipe: None for the default one.

    Raises:
        InputError, BudgetError, CheckError: as `compile_bundle`.
    """
    options = InputOptions(calib, checkpoint, pretrained, preprocess, input_shapes, skip_bad_images)
    recipe = Recipe.load(None) if recipe is None else recipe
    return compile_bundle(model, out, options, recipe, force=force, cache=cache, progress=progress)


def compile_bundle(
    model: str | Source | nn.Module,
    out: str | Path,
    options: InputOptions,
    recipe: Recipe,
    *,
    force: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles `model` into the bundle `out`.

    Args:
        model: MODEL of the command line, a `Source`, or a torch module (then `options.preprocess` gives its input
            size).
        force: replace a bundle that is there.
        cache: folder to keep the results of stages in, so that another compile of the model need not repeat them.

    Raises:
        InputError: anything handed in cannot be used; nothing is written.
        BudgetError: no allocation fits; names the smallest possible.
        CheckError: verification of the reference failed; nothing is written. Another target that cannot be emitted or
            fails is left out of the bundle, whose manifest says why (`left_out`).
    """
    recipe = with_known_targets(recipe)
    watch, targets = Stopwatch(progress), targets_of(recipe.targets)
    check_output(Path(out), force)
    for target in targets:
        target.require(f"--target {target.name}")
    inputs = open_inputs(model, options, recipe, watch)
    analysis = analyse(inputs, [recipe], watch, cache)
    with watch.stage("allocate"):
        allocation = analysis.allocate(recipe)
    plan, reference = build(inputs, analysis, allocation, recipe, watch)
    emitted, not_emitted = emit(targets, inputs, analysis, plan, reference, watch)
    facts, folded = _facts(inputs, analysis, allocation, recipe), analysis.folded
    del analysis  # half of the memory, and verification loads the models again
    gc.collect()
    with watch.stage("verify"):
        images = concatenated(list(inputs.measured.batches(recipe.batch_size)), np.concatenate)
        job = VerificationJob(
            float_graph=inputs.source.graph, reference=reference, plan=plan, images=images, task=inputs.task
        )
        verified, linted, not_verified = verify(emitted, job)
        left_out = not_emitted | not_verified
        views = viewed(inputs.source.graph, reference, images, inputs.task)
        verification = Verification.of(
            verified.pop(REFERENCE.name),
            verified,
            held_out=inputs.held_out is not None,
            fold_error=fold_error(inputs.source.graph, folded, images, inputs.task),
            original=inputs.truth.require_folded(folded, inputs.original) if inputs.truth else inputs.original,
            lint=linted,
        )
        files = {t.file: model.serialize() for t, model in emitted.items() if t.name not in left_out}
        files[file_of(FLOAT)] = folded.serialize()
    with watch.stage("write"):
        records = {n: FileRecord.of(c) for n, c in files.items()}
        tree = {**facts, "verification": verification, "files": records, "left_out": left_out}
        manifest = validate(tree, "the manifest")
        files["report.html"] = render_report(manifest, views)
        bundle = write_bundle(Path(out), manifest=manifest, files=files, force=force)
    return Compiled(bundle, watch.seconds, inputs.batches.images.skipped)


def build(
    inputs: Inputs, analysis: Analysis, allocation: Allocation, recipe: Recipe, watch: Stopwatch
) -> tuple[Plan, EmittedGraph]:
    """Rounds the weights to the formats of `allocation` and writes the quantized graph."""
    calibration, batches = analysis.calibration, inputs.batches
    formats = {name: (o.weights, o.activations) for name, o in allocation.items()}

    def round_weights() -> Plan:
        with watch.stage("round", len(calibration.sites)) as advance:
            plan = build_plan(calibration, formats, recipe.compensate, batches, recipe.seed, advance)
        if not recipe.distill_epochs:
            return plan
        with watch.stage("distill", recipe.distill_epochs) as advance:
            return distill(calibration, plan, batches, recipe.distill_epochs, recipe.seed, inputs.task, advance)

    chosen = {name: o.text for name, o in allocation.items()}
    basis = [*analysis.basis, chosen, recipe.compensate, recipe.seed, recipe.distill_epochs]
    plan = analysis.stages.result("plan", basis, watch, round_weights)
    for target in targets_of(recipe.targets):
        plan = target.prepare(plan)
    with watch.stage("emit"):
        return plan, emit_qdq(calibration.graph, plan)


def emit(
    targets: Sequence[AnyTarget],
    inputs: Inputs,
    analysis: Analysis,
    plan: Plan,
    reference: EmittedGraph,
    watch: Stopwatch,
) -> tuple[dict[AnyTarget, EmittedModel], dict[str, str]]:
    """Writes the model of every target; `reference` is the graph of `build`.

    Returns: (target -> its model; target -> why it has none).
    """
    batches = inputs.batches
    job = EmissionJob(
        graph=analysis.calibration.graph, plan=plan, reference=reference, batches=batches, images=len(batches.images),
        watch=watch,
    )  # fmt: skip
    emitted: dict[AnyTarget, EmittedModel] = {}
    left_out: dict[str, str] = {}
    for target in targets:
        try:
            emitted[target] = target.emit(job)
        except QvitError as error:
            if target is REFERENCE:
                raise
            left_out[target.name] = str(error)
    return emitted, left_out


def verify(
    emitted: Mapping[AnyTarget, EmittedModel], job: VerificationJob
) -> tuple[dict[str, Any], dict[str, dict[str, int]], dict[str, str]]:
    """Verifies and lints the model of every target.

    Returns: (target -> its verification; target -> rule -> number of the lint's findings; target -> why it failed, and
        is in neither of the others).

    Raises:
        QvitError: the reference failed, which all others are verified against.
    """
    verified: dict[str, Any] = {}
    linted: dict[str, dict[str, int]] = {}
    left_out: dict[str, str] = {}
    for target, model in emitted.items():
        try:
            proof, findings = target.verify(model, job), require_no_errors(target.lint(model.model), target.name)
        except QvitError as error:  # also an InputError, by which a runtime refuses the file
            if target is REFERENCE:
                raise
            left_out[target.name] = str(error)
        else:
            verified[target.name], linted[target.name] = proof, findings
    return verified, linted, left_out


def _facts(inputs: Inputs, analysis: Analysis, allocation: Allocation, recipe: Recipe) -> dict[str, Any]:
    """Returns what the manifest says before anything is verified or written."""
    images, scores = inputs.batches.images, analysis.table(recipe).scores
    image_name = inputs.source.graph.image_name  # a graph out of the cache has forgotten it
    graph, known = analysis.calibration.graph, {s.name: s for s in (*analysis.calibration.sites, *analysis.in_float)}
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "task": inputs.task.text,
        "source": {
            "model": inputs.source.description,
            "preprocess": _dumped(inputs.preprocess),
            **({} if image_name is None else {"image_name": image_name}),
        },
        "recipe": recipe.model_dump(mode="json"),
        "calibration": {"images": len(images), "sha256": images.digest},
        "relevance": {
            "method": scores.method,
            "images": scores.images,
            "firings": dict(scores.firings),
            **_row_importance(recipe, graph),
        },
        "sites": [_record(known[c.name], c, allocation.get(c.name), scores.values.get(c.name)) for c in analysis.costs],
        "in_float": [asdict(layer) for layer in float_layers(graph, tuple(known.values()))],
        "summary": _summary(analysis.costs, allocation),
    }
    if analysis.latency is not None:
        total = total_cost(analysis.costs, allocation).latency_ns
        assert total is not None
        measured = analysis.latency.model_dump(mode="json", include={"device", "fingerprint", "batch_size"})
        facts["latency"] = {**measured, "sites_ms": total / 1e6}
    return facts


def _row_importance(recipe: Recipe, graph: Graph) -> dict[str, str]:
    """Returns the rule set that rows were weighted by, where it is not the one that the recipe names."""
    if recipe.row_importance == "none":
        return {}
    used = RULE_SETS[recipe.row_importance].or_gradient(graph).name
    return {} if used == recipe.row_importance else {"row_importance": used}


def _dumped(preprocess: Preprocess | None) -> dict[str, Any] | None:
    return None if preprocess is None else preprocess.model_dump(mode="json")


def _record(site: Site, cost: SiteCost, option: Option | None, score: float | None) -> SiteRecord:
    return SiteRecord(
        name=site.name,
        kind=site.kind,
        role=site.role,
        w_bits=None if option is None else option.w_bits,
        a_bits=None if option is None else option.a_bits,
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
        float_weight_bytes=packed_bytes(storage_bits(sum(c.params for c in costs), None)),
        bitops=cost.bitops,
        float_bitops=bit_operations(sum(c.macs for c in costs), None, None),
    )
