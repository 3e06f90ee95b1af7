"""Profiles .onnx files with ONNX Runtime's profiler, and attributes the times of nodes to the sites they came from.

ONNX Runtime profiles the graph it optimized, in which nodes have new names. Those of weights (`<site>.weight...`) and
of biases (`<site>.bias...`) survive; attention products, which have neither, are recognized by their output. Float
convolutions that it converts to another memory layout lose both and count as outside.
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
from qvit_deploy.targets.runtime import RunSettings

PRODUCTS = frozenset((*INTEGER_PRODUCTS, *FLOAT_LINEARS, *FLOAT_CONVOLUTIONS, "MatMulNBits", "NhwcFusedConv"))
QUANTIZING = QUANTIZERS | {"DynamicQuantizeLinear", "Clip"}
MOVES = RESHAPES | {"Transpose"}


@dataclass(frozen=True)
class NodeTimes:
    """The mean time of every node.

    Attributes:
        milliseconds: name of a node -> milliseconds per run.
        graph: the optimized graph of the nodes.
    """

    milliseconds: Mapping[str, float]
    graph: onnx.GraphProto


def profile(path: Path, settings: RunSettings, attention: Mapping[str, str]) -> Profile:
    """Profiles an .onnx file.

    Args:
        attention: output tensor -> site, of attention products.

    Raises:
        InputError: the file cannot be loaded, or takes another batch.
    """
    return attribute(node_times(path, settings), attention)


def node_times(path: Path, settings: RunSettings) -> NodeTimes:
    """Runs the file under ONNX Runtime's profiler. Raises InputError."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        runner = OnnxRuntimeRunner(path, settings, optimized_to=optimized, profile_to=Path(folder) / "profile")
        for _ in range(WARM_UP + RUNS):
            runner.run_ns()
        events = json.loads(runner.end_profiling().read_bytes())
        graph = onnx.load(str(optimized)).graph
    return NodeTimes(_milliseconds(path, events), graph)


def attribute(times: NodeTimes, attention: Mapping[str, str]) -> Profile:
    """Sums the times of nodes by site, or by operator where they belong to none.

    Args:
        attention: output tensor -> site, of attention products.
    """
    sites = _sites(times.graph, attention)
    product: dict[str, float] = {}
    quantize: dict[str, float] = defaultdict(float)
    outside: dict[str, float] = defaultdict(float)
    for node in times.graph.node:
        milliseconds = times.milliseconds.get(node.name, 0.0)
        site = sites.get(node.output[0])
        if site is None:
            outside[node.op_type] += milliseconds
        elif node.op_type in QUANTIZING:
            quantize[site] += milliseconds
        else:
            product[site] = product.get(site, 0.0) + milliseconds
    known = {node.name for node in times.graph.node}
    # Some nodes that ran are missing from the graph that ONNX Runtime saved.
    outside["(unnamed)"] += sum(t for name, t in times.milliseconds.items() if name not in known)
    return Profile(
        sites=tuple(SiteTime(name=n, product_ms=t, quantize_ms=quantize[n]) for n, t in product.items()),
        outside_ms={op: t for op, t in sorted(outside.items(), key=lambda item: -item[1]) if t > 0},
        total_ms=sum(times.milliseconds.values()),
    )


def _milliseconds(path: Path, events: Iterable[Mapping[str, object]]) -> dict[str, float]:
    """Returns node name -> milliseconds per run."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            times[name.removesuffix("_kernel_time")].append(float(str(event["dur"])) / 1e3)
    if not times:
        raise InputError(f"{path}: ONNX Runtime's profiler recorded no operators")
    # A node that a subgraph runs several times has several events in each run.
    return {name: per_run(durations) for name, durations in times.items()}


def _sites(graph: onnx.GraphProto, attention: Mapping[str, str]) -> dict[str, str]:
    """Returns first output of a node -> its site, for products, additions of their biases and their quantizers."""
    constants = {tensor.name for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    # A constant weight may be dequantized by a DequantizeLinear that was not fused.
    codes = {o: n.input[0] for o, n in producers.items() if n.op_type == "DequantizeLinear" and n.input[0] in constants}
    sites: dict[str, str] = {}
    for node in graph.node:
        names = [codes.get(name, name) for name in node.input]
        site = None
        if node.op_type in PRODUCTS:
            owners = [s for name in names if name in constants and (s := site_of_weight(name))]
            site = owners[0] if owners else attention.get(without_raw(node.output[0]))
        elif node.op_type == "DequantizeLinear":
            site = sites.get(node.input[0])  # of the sums of a product
        elif node.op_type == "Add":
            owners = [s for name in names if name in constants and (s := site_of_bias(name))]
            product_site = next((sites[name] for name in names if name in sites), None)
            site = product_site if product_site in owners else None
        if site is not None:
            sites[node.output[0]] = site
    for node in graph.node:
        if node.op_type in PRODUCTS and node.output[0] in sites:
            for operand in node.input:
                _claim_quantizers(operand, sites[node.output[0]], producers, sites)
    return sites


def _claim_quantizers(tensor: str, site: str, producers: Mapping[str, onnx.NodeProto], sites: dict[str, str]) -> None:
    """Assigns the quantizers in front of an operand to its site, unless another site has them already."""
    while (node := producers.get(tensor)) is not None and node.op_type in QUANTIZING | MOVES:
        if node.op_type in QUANTIZING:
            sites.setdefault(node.output[0], site)
        tensor = node.input[0]
