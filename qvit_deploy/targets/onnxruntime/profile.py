"""Where a run's time goes: ONNX Runtime's profiler, its nodes given back to the sites they came from.

ONNX Runtime profiles the graph it optimized, in which names have changed. What survives are the names of weights
(`<site>.weight...`) and of biases (`<site>.bias...`); attention products, which have neither, are known by their
output. Float convolutions that it moves to another memory layout lose both and count as outside.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from qvit_deploy.artifacts.measurement import Profile, SiteTime
from qvit_deploy.emit.names import site_of_bias, site_of_weight, without_raw
from qvit_deploy.errors import InputError
from qvit_deploy.graph.op_traits import QUANTIZERS, RESHAPES
from qvit_deploy.targets.onnxruntime.runner import OnnxRuntimeRunner
from qvit_deploy.targets.onnxruntime.runtime import FLOAT_CONVOLUTIONS, FLOAT_LINEARS, INTEGER_PRODUCTS
from qvit_deploy.targets.profiling import RUNS, WARM_UP, per_run

PRODUCTS = frozenset((*INTEGER_PRODUCTS, *FLOAT_LINEARS, *FLOAT_CONVOLUTIONS, "MatMulNBits", "NhwcFusedConv"))
QUANTIZING = QUANTIZERS | {"DynamicQuantizeLinear", "Clip"}
MOVES = RESHAPES | {"Transpose"}


@dataclass(frozen=True)
class Recorded:
    """Mean milliseconds per run of every node, by its name, and the graph they belong to."""

    milliseconds: Mapping[str, float]
    graph: onnx.GraphProto


def profile(path: Path, batch: int | None, threads: int, attention: Mapping[str, str]) -> Profile:
    """Profiles an .onnx file.

    Args:
        attention: output tensor -> site, of attention products.

    Raises:
        InputError: the file cannot be loaded, or takes another batch.
    """
    recorded = record(path, batch, threads)
    return attribute(recorded, attention)


def record(path: Path, batch: int | None, threads: int) -> Recorded:
    """Runs the file under ONNX Runtime's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        runner = OnnxRuntimeRunner(path, batch, threads, optimized_to=optimized, profile_to=Path(folder) / "profile")
        for _ in range(WARM_UP + RUNS):
            runner.run_ns()
        events = json.loads(runner.end_profiling().read_bytes())
        graph = onnx.load(str(optimized)).graph
    return Recorded(_milliseconds(path, events), graph)


def attribute(recorded: Recorded, attention: Mapping[str, str]) -> Profile:
    """Times of nodes added up by site, or by operator where there is none."""
    sites = _sites(recorded.graph, attention)
    product: dict[str, float] = {}
    quantize: dict[str, float] = defaultdict(float)
    outside: dict[str, float] = defaultdict(float)
    for node in recorded.graph.node:
        taken = recorded.milliseconds.get(node.name, 0.0)
        site = sites.get(node.output[0])
        if site is None:
            outside[node.op_type] += taken
        elif node.op_type in QUANTIZING:
            quantize[site] += taken
        else:
            product[site] = product.get(site, 0.0) + taken
    known = {node.name for node in recorded.graph.node}
    # Nodes that ONNX Runtime did not write into the graph it saved still took their time.
    outside["(unnamed)"] += sum(t for name, t in recorded.milliseconds.items() if name not in known)
    return Profile(
        sites=tuple(SiteTime(name=n, product_ms=t, quantize_ms=quantize[n]) for n, t in product.items()),
        outside_ms={op: t for op, t in sorted(outside.items(), key=lambda item: -item[1]) if t > 0},
        total_ms=sum(recorded.milliseconds.values()),
    )


def _milliseconds(path: Path, events: Iterable[Mapping[str, object]]) -> dict[str, float]:
    """Node name -> milliseconds per run."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            times[name.removesuffix("_kernel_time")].append(float(str(event["dur"])) / 1e3)
    if not times:
        raise InputError(f"{path}: ONNX Runtime's profiler recorded no operators")
    # A node that a subgraph runs several times has several events in each run.
    return {name: per_run(found) for name, found in times.items()}


def _sites(graph: onnx.GraphProto, attention: Mapping[str, str]) -> dict[str, str]:
    """First output of a node -> its site: of products, of additions of their biases, of quantizers before them."""
    constants = {tensor.name for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    # A constant weight may be behind a DequantizeLinear that was not fused.
    behind = {o: n.input[0] for o, n in makers.items() if n.op_type == "DequantizeLinear" and n.input[0] in constants}
    found: dict[str, str] = {}
    for node in graph.node:
        names = [behind.get(name, name) for name in node.input]
        site = None
        if node.op_type in PRODUCTS:
            owners = [s for name in names if name in constants and (s := site_of_weight(name))]
            site = owners[0] if owners else attention.get(without_raw(node.output[0]))
        elif node.op_type == "Add":
            owners = [s for name in names if name in constants and (s := site_of_bias(name))]
            before = next((found[name] for name in names if name in found), None)
            site = before if before in owners else None
        if site is not None:
            found[node.output[0]] = site
    for node in graph.node:
        if node.op_type in PRODUCTS and node.output[0] in found:
            for operand in node.input:
                _claim(operand, found[node.output[0]], makers, found)
    return found


def _claim(tensor: str, site: str, makers: Mapping[str, onnx.NodeProto], found: dict[str, str]) -> None:
    """Gives quantizers before a product to its site; of those with several readers to the first."""
    while (node := makers.get(tensor)) is not None and node.op_type in QUANTIZING | MOVES:
        if node.op_type in QUANTIZING:
            found.setdefault(node.output[0], site)
        tensor = node.input[0]
