"""Where an engine's run time goes: TensorRT's times of layers, given back to the sites whose ONNX nodes they run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qvit_deploy.artifacts.measurement import Profile, SiteTime
from qvit_deploy.errors import InputError
from qvit_deploy.targets.profiling import RUNS, WARM_UP, per_run
from qvit_deploy.targets.tensorrt.engine import runtime as engine_runtime
from qvit_deploy.targets.tensorrt.engine.layer_info import Layer, read_layers
from qvit_deploy.targets.tensorrt.engine.runner import EngineFileRunner


def profile_engine(path: Path, batch: int | None, plugins: tuple[Path, ...], sites: Sequence[str]) -> Profile:
    """Profiles an engine with TensorRT's IProfiler.

    Args:
        sites: names that layers are given back to.

    Raises:
        InputError: the engine cannot be run here, or takes another batch.
    """
    runner = EngineFileRunner(path, batch, engine_runtime.opener(path, plugins))
    try:
        times = runner.engine.layer_times(WARM_UP + RUNS)
        layers = read_layers(runner.engine.layer_info())
    finally:
        runner.close()
    means = {name: per_run(found) for name, found in times.items()}
    if not sum(means.values()) > 0:
        raise InputError(f"{path}: TensorRT's profiler reported no layer that took any time")
    return attribute_layers(means, layers, sites)


def attribute_layers(milliseconds: Mapping[str, float], layers: Iterable[Layer], sites: Sequence[str]) -> Profile:
    """Times of layers added up by site, or by the layer's type where there is none.

    A layer fused from several sites goes to all of them together, under their joined names.

    Args:
        milliseconds: layer -> time per run.
        layers: what the engine inspector says of them; a layer it does not list is known by its name alone.
    """
    known = {layer.name: layer for layer in layers}
    product: dict[str, float] = {}
    outside: dict[str, float] = defaultdict(float)
    for name, taken in milliseconds.items():
        layer = known.get(name)
        owners = _owners(name, layer, sites)
        if owners:
            product[owners] = product.get(owners, 0.0) + taken
        else:
            outside[(layer.kind if layer is not None else "") or "layer"] += taken
    return Profile(
        sites=tuple(SiteTime(name=name, product_ms=taken) for name, taken in product.items()),
        outside_ms=dict(outside),
        total_ms=sum(milliseconds.values()),
    )


def _owners(name: str, layer: Layer | None, sites: Sequence[str]) -> str:
    nodes = layer.nodes if layer is not None and layer.nodes else re.split(r" \+ |,|\{|\}", name)
    found: dict[str, None] = {}
    for node in nodes:
        mine = [s for s in sites if node.strip() == s or node.strip().startswith((f"{s}/", f"{s}."))]
        if mine:
            found[max(mine, key=len)] = None
    return " + ".join(found)
