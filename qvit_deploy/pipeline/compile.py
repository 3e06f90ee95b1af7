"""The compiler, top to bottom: trace, calibrate, relevance, allocate, quantize, emit, verify, write."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qvit_deploy.allocate.cost import Allocation, Option, SiteCost, total_cost
from qvit_deploy.artifacts.bundle import Bundle, check_output, write_bundle
from qvit_deploy.artifacts.manifest import SCHEMA, FileRecord, SiteRecord, Summary, validate
from qvit_deploy.calibrate.extremes import tensor_extremes
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend import Source
from qvit_deploy.graph.sites import Site
from qvit_deploy.lint.emitted import lint_emitted
from qvit_deploy.pipeline.analysis import Analysis, analyse
from qvit_deploy.pipeline.inputs import Inputs, open_inputs
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.quantize.rounding.distill import distill
from qvit_deploy.quantize.rounding.plan_weights import build_plan
from qvit_deploy.recipe import FUSED_PROFILE, HALF_PROFILES, OPENVINO_PROFILE, PACKED_PROFILE, Profile, Recipe
from qvit_deploy.report.compile.page import render_report
from qvit_deploy.targets.onnxruntime.verification import fold_error, verify
from qvit_deploy.targets.onnxruntime_fused.emission import emit_fused
from qvit_deploy.targets.onnxruntime_fused.verification import verify_fused
from qvit_deploy.targets.openvino.emission import emit_openvino
from qvit_deploy.targets.openvino.runtime import require_openvino
from qvit_deploy.targets.openvino.verification import verify_openvino
from qvit_deploy.targets.tensorrt.half.emission import emit_tensorrt
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph, to_half
from qvit_deploy.targets.tensorrt.packed.emission import pack_half
from qvit_deploy.targets.tensorrt.verification import verify_half

if TYPE_CHECKING:
    from torch import nn

VERIFIED_IMAGES = 32


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
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles `model` into the bundle `out`.

    Args:
        model: MODEL of the command line, a `Source`, or a torch module (then `preprocess` gives its input size).
        calib: DATA of the command line; unlabelled images are enough.
        preprocess: overrides what the model's source says.
        skip_bad_images: leave out calibration images that cannot be read instead of stopping.
        cache: folder to keep the results of stages in, so that another compile of the model need not repeat them.

    Raises:
        InputError: anything handed in cannot be used; nothing is written.
        BudgetError: no allocation fits; names the smallest possible.
        CheckError: verification failed; nothing is written.
    """
    recipe = recipe or Recipe.load(None)
    watch = Stopwatch(progress)
    check_output(Path(out), force)
    if OPENVINO_PROFILE in recipe.targets:
        require_openvino(f"--target {OPENVINO_PROFILE}")
    inputs = open_inputs(
        model, calib, recipe, checkpoint=checkpoint, pretrained=pretrained, preprocess=preprocess,
        skip_bad_images=skip_bad_images, watch=watch,
    )  # fmt: skip
    analysis = analyse(inputs, [recipe], watch, cache)
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
            cpu = emit_fused(emitted)
            profiles[FUSED_PROFILE] = verify_fused(emitted, cpu, plan, seen).as_dict()
            lints[FUSED_PROFILE] = lint_emitted(cpu.model, FUSED_PROFILE)
            files[f"model.{FUSED_PROFILE}.onnx"] = cpu.serialize()
        if OPENVINO_PROFILE in recipe.targets:
            cpu = emit_openvino(emitted)
            profiles[OPENVINO_PROFILE] = verify_openvino(inputs.source.graph, emitted, cpu, plan, seen).as_dict()
            lints[OPENVINO_PROFILE] = lint_emitted(cpu.model, OPENVINO_PROFILE)
            files[f"model.{OPENVINO_PROFILE}.onnx"] = cpu.serialize()
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


def build(
    inputs: Inputs, analysis: Analysis, allocation: Allocation, recipe: Recipe, watch: Stopwatch
) -> tuple[Plan, EmittedGraph]:
    """Rounds the weights to the formats of `allocation` and writes the quantized graph."""
    known, batches = analysis.calibration, inputs.batches
    formats = {name: (o.weights, o.activations) for name, o in allocation.items()}

    def planned() -> Plan:
        with watch.stage("round", len(known.sites)) as advance:
            plan = build_plan(known, formats, recipe.compensate, batches, recipe.seed, advance)
        if not recipe.distill_epochs:
            return plan
        with watch.stage("distill", recipe.distill_epochs) as advance:
            return distill(known, plan, batches, recipe.distill_epochs, recipe.seed, advance)

    chosen = {name: o.text for name, o in allocation.items()}
    basis = [*analysis.basis, chosen, recipe.compensate, recipe.seed, recipe.distill_epochs]
    plan = analysis.kept.result("plan", basis, watch, planned)
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
        written.append((pack_half(half, emitted.graph, plan), [PACKED_PROFILE]))
    return written


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
