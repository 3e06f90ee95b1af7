"""The compiler, top to bottom: trace, calibrate, relevance, allocate, quantize, emit, verify, write."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from qvit_deploy.allocate.choose import choose, require_feasible, site_options
from qvit_deploy.allocate.cost import Allocation, Option, SiteCost, total_cost
from qvit_deploy.bundle import Bundle, check_output, write_bundle
from qvit_deploy.calibrate.observe import Observation, observe, site_macs, site_tensors
from qvit_deploy.calibrate.products import observe_products
from qvit_deploy.data.images import ImageSet, open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend import Source, load_model
from qvit_deploy.graph.channels import norm_groups
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site, find_sites
from qvit_deploy.manifest import SCHEMA, FileRecord, SiteRecord, Summary, validate
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.quantize.absorb import absorb_scales
from qvit_deploy.quantize.activations import activation_grids
from qvit_deploy.quantize.attention import attention_grids
from qvit_deploy.quantize.fold import ChannelRange, channel_fold, fold_norms
from qvit_deploy.quantize.plan import build_plan, site_weights
from qvit_deploy.quantize.rank import rank_sites
from qvit_deploy.recipe import Recipe
from qvit_deploy.report.html import render_report
from qvit_deploy.targets.verification import verify

if TYPE_CHECKING:
    from torch import nn

SCORED_AT_ONCE = 2
"""A backward pass holds every activation of its batch: 0.4 GB an image for ViT-B at 224."""
VERIFIED_IMAGES = 32
SCORED_IMAGES = 32
"""Images relevance is averaged over: it costs six forward passes an image, the rest of calibration one."""


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
    with watch.stage("trace"):
        source = _source(model, checkpoint, pretrained, preprocess)
        preprocess = _preprocess(source, preprocess)
        gc.collect()  # tracing leaves cycles that hold the weights several times over
    with watch.stage("read images"):
        images = _calibration_images(calib, model, preprocess, recipe, skip_bad_images)
    static = source.graph.static_batch
    batches = _Batches(images, static or recipe.batch_size, static is not None)

    float_graph = source.graph
    graph = absorb_scales(float_graph)
    if recipe.fold:
        graph = _fold(graph, recipe, batches, watch)
    sites = _sites(graph, recipe)
    weights = site_weights(graph, sites)
    executor = Executor(graph)
    tensors = site_tensors(sites)
    with watch.stage("observe", len(images)) as advance:
        observations = observe(executor, batches, tensors, len(images), recipe.seed, advance)
    costs = [_cost(site, observations, weights) for site in sites]
    options = site_options(recipe, [s.name for s in sites], [s.name for s in sites if s.weight])
    widths = sorted({bits for choices in options.values() for o in choices for bits in (o.w_bits, o.a_bits)})
    require_feasible(recipe, costs, options)
    with watch.stage("ranges"):
        products = observe_products(executor, batches, sites, len(images), recipe.seed)
        chosen = recipe.softmax, recipe.softmax_rows, recipe.attention_granularity
        grids = {
            **activation_grids(sites, observations, weights, widths),
            **attention_grids(sites, products, widths, *chosen),
        }
    with watch.stage("relevance", min(SCORED_IMAGES, len(images))) as advance:
        scored = batches.sample(SCORED_IMAGES, recipe.seed, SCORED_AT_ONCE)
        errors, scores = rank_sites(
            recipe.score, recipe.rules, graph, sites, observations, weights, grids, widths, scored, products, advance
        )
    gc.collect()  # so do the backward passes
    with watch.stage("allocate"):
        loss = {n: {o: errors[n].at(o.w_bits, o.a_bits) for o in choices} for n, choices in options.items()}
        allocation = choose(recipe, costs, options, loss)
    with watch.stage("round", len(images)) as advance:
        bits = {name: (o.w_bits, o.a_bits) for name, o in allocation.items()}
        plan = build_plan(graph, sites, bits, grids, recipe.compensate, batches, advance, executor)
    with watch.stage("emit"):
        emitted = emit_qdq(graph, plan)
    del executor, observations, weights, grids, products  # half of the memory, and verification loads the models again
    gc.collect()
    with watch.stage("verify"):
        seen = np.concatenate(list(batches.sample(VERIFIED_IMAGES, recipe.seed).arrays()))
        checked = verify(float_graph, emitted, plan, seen)
    with watch.stage("write"):
        files = {"model.onnxruntime.onnx": emitted.serialize(), "model.float.onnx": float_graph.serialize()}
        facts = {
            "schema": SCHEMA,
            "source": {"model": source.description, "preprocess": preprocess.model_dump(mode="json")},
            "recipe": recipe.model_dump(mode="json"),
            "calibration": {"images": len(images), "sha256": images.digest},
            "relevance": {"method": scores.method, "images": scores.images, "firings": dict(scores.firings)},
            "sites": [
                _record(s, c, allocation[s.name], scores.values[s.name]) for s, c in zip(sites, costs, strict=True)
            ],
            "summary": _summary(costs, allocation),
            "verification": checked.as_dict(),
        }
        manifest = validate({**facts, "files": {n: FileRecord.of(c) for n, c in files.items()}}, "the manifest")
        files["report.html"] = render_report(manifest)
        bundle = write_bundle(Path(out), manifest=manifest, files=files, force=force)
    return Compiled(bundle, watch.seconds, images.skipped)


class _Batches:
    """Calibration images as torch batches, decoded again on every pass so that none is kept."""

    def __init__(self, images: ImageSet, size: int, static: bool) -> None:
        self.images = images
        self.size = size
        self.static = static

    def sample(self, count: int, seed: int, at_once: int | None = None) -> _Batches:
        """`count` of the images, balanced over the classes when they are labelled, in batches of `at_once`."""
        size = self.size if at_once is None or self.static else min(at_once, self.size)
        return _Batches(self.images.subset(count, seed), size, self.static)

    def arrays(self) -> Iterator[np.ndarray]:
        for pixels, _ in self.images.batches(self.size):
            if self.static and len(pixels) < self.size:
                pixels = np.resize(pixels, (self.size, *pixels.shape[1:]))
            yield pixels

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (torch.from_numpy(pixels) for pixels in self.arrays())


def _source(
    model: str | Source | nn.Module, checkpoint: Path | None, pretrained: bool, preprocess: Preprocess | None
) -> Source:
    if isinstance(model, Source):
        return model
    if isinstance(model, str):
        return load_model(model, checkpoint=checkpoint, pretrained=pretrained)
    from qvit_deploy.frontend.torch_module import from_torch

    if preprocess is None:
        raise InputError("a torch module does not say how its images are prepared; pass preprocess=Preprocess(...)")
    name = type(model).__name__
    return Source(from_torch(model, preprocess.input_size, name), None, f"torch module {name}")


def _preprocess(source: Source, override: Preprocess | None) -> Preprocess:
    if override is None and source.preprocess is None:
        raise InputError(
            f"{source.description} does not say how its images are prepared; pass --preprocess F.json with "
            "input_size, mean and std"
        )
    preprocess = override or Preprocess.model_validate(source.preprocess)
    if preprocess.input_size != source.graph.image_shape:
        raise InputError(
            f"preprocessing makes {'x'.join(map(str, preprocess.input_size))} images, the model takes "
            f"{'x'.join(map(str, source.graph.image_shape))} (channels x height x width)"
        )
    return preprocess


def _calibration_images(
    calib: str | None, model: object, preprocess: Preprocess, recipe: Recipe, skip_bad: bool
) -> ImageSet:
    if calib is None:
        if not (isinstance(model, str) and model.startswith("demo:")):
            raise InputError("calibration images are needed: pass --calib with an image folder or an .npz file")
        calib = "demo:fashion-mnist"
    return open_images(
        calib, preprocess, limit=recipe.calibration_images, seed=recipe.seed, skip_bad=skip_bad, minimum=2
    )


def _fold(graph: Graph, recipe: Recipe, batches: _Batches, watch: Stopwatch) -> Graph:
    """`graph` with every post-LayerNorm channel brought to one range (the function stays the same)."""
    sites = find_sites(graph)
    groups = norm_groups(graph, sites)
    count = len(batches.images)
    with watch.stage("fold", count) as advance:
        seen = observe(Executor(graph), batches, [g.norm for g in groups], count, recipe.seed, advance)
        ranges = {n: ChannelRange(o.channel_low, o.channel_high) for n, o in seen.items()}
        folds = {name: channel_fold(channels, recipe.fold_clip) for name, channels in ranges.items()}
        return fold_norms(graph, sites, groups, folds)


def _sites(graph: Graph, recipe: Recipe) -> tuple[Site, ...]:
    found = find_sites(graph)
    sites = tuple(s for s in found if s.weight is not None or recipe.attention == "integer")
    if not any(s.weight is not None for s in sites):
        raise InputError(
            f"model {graph.name!r} has nothing to quantize: no linear or convolution with constant weights was found"
        )
    return sites


def _cost(site: Site, observations: Mapping[str, Observation], weights: Mapping[str, torch.Tensor]) -> SiteCost:
    elements = observations[site.input].elements
    weight = weights.get(site.name)
    shape = None if weight is None else tuple(weight.shape)
    return SiteCost(site.name, site.params, site_macs(site, observations, shape), elements)


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


def _summary(costs: list[SiteCost], allocation: Allocation) -> Summary:
    cost = total_cost(costs, allocation)
    return Summary(
        mean_w_bits=cost.mean_w_bits,
        mean_a_bits=cost.mean_a_bits,
        weight_bytes=cost.weight_bytes,
        float_weight_bytes=4 * sum(c.params for c in costs),
        bitops=cost.bitops,
        float_bitops=32 * 32 * sum(c.macs for c in costs),
    )
