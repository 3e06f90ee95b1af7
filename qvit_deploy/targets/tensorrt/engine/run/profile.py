"""Profiles engines: attributes TensorRT's times of layers to the sites whose ONNX nodes they run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qvit_deploy.artifacts.measurement import Profile, SiteTime
from qvit_deploy.errors import InputError
from qvit_deploy.targets.profiling import RUNS, WARM_UP, per_run
from qvit_deploy.targets.tensorrt.engine.run import engine_runner as engine_runtime
from qvit_deploy.targets.tensorrt.engine.run.layer_info import Layer, read_layers
from qvit_deploy.targets.tensorrt.engine.run.runner import EngineFileRunner


def profile_engine(path: Path, batch: int | None, plugins: tuple[Path, ...], sites: Sequence[str]) -> Profile:
    """Profiles an engine with TensorRT's IProfiler.

    Args:
        sites: names of the sites that layers are attributed to.

    Raises:
        InputError: the engine cannot be run here, or takes another batch.
    """
    runner = EngineFileRunner(path, batch, engine_runtime.opener(path, plugins))
    try:
        times = runner.engine.layer_times(WARM_UP + RUNS)
        layers = read_layers(runner.engine.layer_info())
    finally:
        runner.close()
    means = {name: per_run(durations) for name, durations in times.items()}
    if not sum(means.values()) > 0:
        raise InputError(f"{path}: TensorRT's profiler reported no layer that took any time")
    return attribute_layers(means, layers, sites)


def attribute_layers(milliseconds: Mapping[str, float], layers: Iterable[Layer], sites: Sequence[str]) -> Profile:
    """Sums the times of layers by site, or by the layer's type where it belongs to none.

    The time of a layer fused from several sites is attributed to all of them together, under their joined names.

    Args:
        milliseconds: layer -> time per run.
        layers: the engine inspector's description; a layer that it does not list is attributed by its name.
        sites: names of the sites.
    """
    known = {layer.name: layer for layer in layers}
    product: dict[str, float] = {}
    outside: dict[str, float] = defaultdict(float)
    for name, duration in milliseconds.items():
        layer = known.get(name)
        joined = _joined_sites(name, layer, sites)
        if joined:
            product[joined] = product.get(joined, 0.0) + duration
        else:
            outside[(layer.kind if layer is not None else "") or "layer"] += duration
    return Profile(
        sites=tuple(SiteTime(name=name, product_ms=duration) for name, duration in product.items()),
        outside_ms=dict(outside),
        total_ms=sum(milliseconds.values()),
    )


def _joined_sites(name: str, layer: Layer | None, sites: Sequence[str]) -> str:
    """Returns the sites whose nodes a layer runs, joined by " + "; "" if there are none."""
    nodes = layer.nodes if layer is not None and layer.nodes else re.split(r" \+ |,|\{|\}", name)
    layer_sites: dict[str, None] = {}
    for node in nodes:
        matching = [s for s in sites if node.strip() == s or node.strip().startswith((f"{s}/", f"{s}."))]
        if matching:
            layer_sites[max(matching, key=len)] = None
    return " + ".join(layer_sites)
