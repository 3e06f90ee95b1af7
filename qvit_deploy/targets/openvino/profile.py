"""Where a run's time goes in OpenVINO: its profiler, layers given back to the sites they came from.

OpenVINO fuses what stands around a product into it: the bias, GELU, the residual addition, the next quantizer. All of
that counts as the product's. What quantizes its input alone counts as quantizing; a quantizer that was fused with a
LayerNorm does not, and is named after both.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from qvit_deploy.artifacts.measurement import Profile, SiteTime
from qvit_deploy.emit.names import site_of_weight
from qvit_deploy.targets.openvino.runner import OpenVinoRunner
from qvit_deploy.targets.openvino.runtime import PRODUCTS, Layer, openvino_precision
from qvit_deploy.targets.profiling import RUNS, WARM_UP, per_run
from qvit_deploy.targets.runtime import RunSettings

_QUANTIZER = re.compile(r"\.QuantizeLinear(\.|$)")


def profile_openvino(path: Path, settings: RunSettings) -> Profile:
    """Profiles a file for OpenVINO.

    Raises:
        InputError: the file cannot be loaded, or takes another batch.
    """
    runner = OpenVinoRunner(path, settings, openvino_precision(path), profiled=True)
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(WARM_UP + RUNS):
        runner.run_ns()
        for name, duration in runner.model.layer_ms().items():
            times[name].append(duration)
    return attribute(runner.model.layers(), {name: per_run(durations) for name, durations in times.items()})


def attribute(layers: Sequence[Layer], milliseconds: Mapping[str, float]) -> Profile:
    """Times of layers added up by site, or by kind where there is none."""
    known = {layer.name: layer for layer in layers}
    product: dict[str, float] = {}
    quantize: dict[str, float] = defaultdict(float)
    outside: dict[str, float] = defaultdict(float)
    owners: dict[str, str] = {}
    for layer in layers:
        site = _site(layer, known)
        if site is not None:
            product[site] = product.get(site, 0.0) + milliseconds.get(layer.name, 0.0)
            owners.setdefault(layer.inputs[0][0], site)
    for layer in layers:
        duration, reader = milliseconds.get(layer.name, 0.0), owners.get(layer.name)
        if _site(layer, known) is not None:
            continue
        if reader is not None and layer.originals and all(_QUANTIZER.search(name) for name in layer.originals):
            quantize[reader] += duration
        else:
            outside[_kind(layer)] += duration
    return Profile(
        sites=tuple(SiteTime(name=n, product_ms=t, quantize_ms=quantize[n]) for n, t in product.items()),
        outside_ms={kind: t for kind, t in sorted(outside.items(), key=lambda item: -item[1]) if t > 0},
        total_ms=sum(milliseconds.values()),
    )


def _site(layer: Layer, known: Mapping[str, Layer]) -> str | None:
    """The site whose constant weight the product `layer` reads."""
    if layer.kind not in PRODUCTS or len(layer.inputs) < 2:
        return None
    weight: Layer | None = known.get(layer.inputs[1][0])
    while weight is not None and weight.inputs:  # a Transpose or Reshape that was folded
        weight = known.get(weight.inputs[0][0])
    return None if weight is None else site_of_weight(weight.name)


def _kind(layer: Layer) -> str:
    """The operators that were fused, by the names of their nodes: `LayerNormalization, QuantizeLinear`."""
    last = [re.split(r"[/.]", name.removesuffix(".unsigned"))[-1] for name in layer.originals]
    return ", ".join(dict.fromkeys(re.sub(r"_\d+$", "", name) for name in last)) or layer.kind
