"""One small quantized model per site shape and width, emitted as a compile emits it: what a width costs, alone.

Writing them needs the compile half; measuring a folder of them (`latency_table`) does not, so that a device without
torch can be measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnx_ir as ir
from onnx import shape_inference
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from qvit_deploy.allocate.latency import SCHEMA as LATENCY_SCHEMA
from qvit_deploy.allocate.latency import LatencyTable
from qvit_deploy.bench.environment import environment
from qvit_deploy.bench.measure import Plan, medians_ms
from qvit_deploy.bench.schema import read_json
from qvit_deploy.bundle import read_bundle
from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph
from qvit_deploy.graph.sites import Site, find_sites
from qvit_deploy.progress import Progress

INDEX = "index.json"
SCHEMA = "qvit-deploy/site-models/1"
OVERHEAD = "overhead.onnx"
"""A model that does next to nothing: what every run costs beside its site."""

Width = tuple[int, int]
"""(weight bits, activation bits)."""


class Index(BaseModel):
    """`index.json` of a folder of site models: site -> width (`w4a4`) -> file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_id: Annotated[str, Field(alias="schema", pattern=f"^{SCHEMA}$")]
    target: str
    batch: PositiveInt
    sites: Mapping[str, Mapping[str, Annotated[str, Field(pattern=r"^[\w.-]+\.onnx$")]]]


@dataclass(frozen=True)
class _Shape:
    """What of a site decides how long it takes; sites with equal ones share a model."""

    op_type: str
    x: tuple[int, ...]
    second: tuple[int, ...]
    bias: bool
    attributes: tuple[tuple[str, tuple[int, ...]], ...]


def write_site_models(bundle: Path, folder: Path, widths: Sequence[Width], batch: int, target: str) -> None:
    """Writes models of all sites of the bundle into `folder`.

    Raises:
        InputError: the compile half is not installed, the target has no models of sites yet, or a site's shape cannot
            be told.
    """
    if target != "onnxruntime":
        raise InputError(f"--sites emits models for onnxruntime only, not for {target!r}")
    found = read_bundle(bundle)
    wanted = {s.name for s in found.manifest.sites}
    graph = Graph(ir.load(found.path_of("model.float.onnx")), "float")
    shapes = _tensor_shapes(graph, batch)
    nodes = {v.name: n for n in graph.nodes() for v in n.outputs}
    files: dict[tuple[_Shape, Width], str] = {}
    sites: dict[str, dict[str, str]] = {}
    for site in (s for s in find_sites(graph) if s.name in wanted):
        shape = _shape(site, nodes[site.product], shapes)
        sites[site.name] = {}
        for width in widths:
            key = shape, width
            if key not in files:
                files[key] = f"{len(files)}.w{width[0]}a{width[1]}.onnx"
                (folder / files[key]).write_bytes(_emitted(shape, site, width))
            sites[site.name]["w{}a{}".format(*width)] = files[key]
    (folder / OVERHEAD).write_bytes(_overhead())
    index = {"schema": SCHEMA, "target": target, "batch": batch, "sites": sites}
    (folder / INDEX).write_text(json.dumps(index, indent=1))


def latency_table(folder: Path, plan: Plan, progress: Progress | None = None) -> LatencyTable:
    """Times the models in `folder`, all in turn in the same processes.

    A site's time is the median of its blocks less that of a model that does nothing.

    Raises:
        InputError: the folder is not what `write_site_models` writes, or a model cannot be run here.
    """
    index = read_index(folder)
    names = sorted({name for site in index.sites.values() for name in site.values()})
    times = medians_ms([folder / OVERHEAD, *(folder / name for name in names)], plan, progress)
    overhead, *own = times
    # A site cannot take no time, but may take less than what a run's own cost varies by.
    taken = {name: max(t - overhead, overhead / 100) for name, t in zip(names, own, strict=True)}
    where = environment()
    device = where.board or where.cpu
    how = f"{index.target} {where.versions.get(index.target, 'unknown')}; {plan.threads} threads"
    return LatencyTable(
        schema=LATENCY_SCHEMA,
        device=device,
        fingerprint="; ".join([device, how, *([where.power_mode] if where.power_mode else [])]),
        batch_size=index.batch,
        sites={site: {w: taken[name] for w, name in widths.items()} for site, widths in index.sites.items()},
    )


def read_index(folder: Path) -> Index:
    """Raises InputError."""
    try:
        return Index.model_validate(read_json(folder / INDEX))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{folder / INDEX}: {where}: {first['msg']}") from None


def _tensor_shapes(graph: Graph, batch: int) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor whose sizes are all known for `batch` images."""
    proto = graph.to_proto()
    del proto.graph.value_info[:]
    fixed = graph.static_batch
    if fixed not in (None, batch):
        raise InputError(f"the model takes batches of {fixed} only; leave --batch out")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    inferred = shape_inference.infer_shapes(proto, data_prop=True).graph
    found = {t.name: tuple(t.dims) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dimensions = value.type.tensor_type.shape.dim
        if all(d.HasField("dim_value") for d in dimensions):
            found[value.name] = tuple(d.dim_value for d in dimensions)
    return found


def _shape(site: Site, node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> _Shape:
    second = site.weight or site.second or ""
    for name in (site.input, second):
        if name not in shapes:
            raise InputError(
                f"site {site.name!r}: the shape of {name!r} depends on the image; it cannot be timed alone"
            )
    attributes = tuple(
        (n, tuple(a.as_ints())) for n, a in sorted(node.attributes.items()) if n != "group" and n != "auto_pad"
    )
    if "group" in node.attributes:
        attributes += (("group", (node.attributes["group"].as_int(),)),)
    return _Shape(node.op_type, shapes[site.input], shapes[second], site.bias is not None, attributes)


def _emitted(shape: _Shape, site: Site, width: Width) -> bytes:
    """The site alone, quantized; weights are random, which does not change the time of integer products."""
    try:
        from qvit_deploy.emit.qdq import emit_qdq
        from qvit_deploy.quantize.activations import ActivationGrid
        from qvit_deploy.quantize.grid import code_range
        from qvit_deploy.quantize.plan import Plan as QuantizationPlan
        from qvit_deploy.quantize.plan import SitePlan
    except ImportError as error:
        raise InputError(
            f"emitting site models needs {error.name}; write them where the compile half is installed (bench --sites "
            "--site-models FOLDER) and bring the folder here"
        ) from error
    w_bits, a_bits = width
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(shape.x), type=float32)
    inputs, initializers, random = [x], [], np.random.default_rng(0)
    channels = shape.second[0] if shape.op_type == "Conv" else shape.second[-1]
    if site.weight is None:
        second = ir.Value(name="second", shape=ir.Shape(shape.second), type=float32)
        inputs.append(second)
    else:
        weight = random.standard_normal(shape.second).astype(np.float32)
        second = ir.Value(name="site.weight", shape=ir.Shape(shape.second), type=float32, const_value=ir.tensor(weight))
        initializers.append(second)
    attributes = {n: list(v) if n != "group" else v[0] for n, v in shape.attributes}
    operands = [x, second]
    bias = None
    if shape.bias:
        array = np.zeros(channels, np.float32)
        bias = ir.Value(name="site.bias", shape=ir.Shape(array.shape), type=float32, const_value=ir.tensor(array))
        initializers.append(bias)
    if bias is not None and shape.op_type == "Conv":
        operands.append(bias)
    product = ir.node(shape.op_type, operands, attributes, name="site/product")
    nodes = [product]
    if bias is not None and shape.op_type != "Conv":
        nodes.append(ir.node("Add", [product.outputs[0], bias], name="site/Add"))
    for i, node in enumerate(nodes):
        node.outputs[0].name, node.outputs[0].type = f"y{i}", float32
    graph = ir.Graph(
        inputs,
        [nodes[-1].outputs[0]],
        nodes=nodes,
        initializers=initializers,
        opset_imports={"": CANONICAL_OPSET},
        name="site",
    )
    alone = Site(
        name="site", kind=site.kind, role=site.role, input="x", second=None if site.weight else "second",
        weight="site.weight" if site.weight else None, bias="site.bias" if shape.bias else None, product="y0",
        output=nodes[-1].outputs[0].name or "", params=site.params,
    )  # fmt: skip
    grid = ActivationGrid(a_bits, 3.0 / code_range(a_bits)[1], 0.0)
    low, high = code_range(w_bits)
    plan = SitePlan(
        site=alone,
        w_bits=w_bits,
        a_bits=a_bits,
        grid=grid,
        second_grid=ActivationGrid(w_bits, 3.0 / high, 0.0) if site.weight is None else None,
        codes=None if site.weight is None else random.integers(low, high + 1, shape.second).astype(np.int8),
        weight_scale=None if site.weight is None else np.full(channels, 0.01, np.float32),
        bias=np.zeros(channels, np.float32) if shape.bias else None,
    )
    return emit_qdq(Graph(ir.Model(graph, ir_version=10), "site"), QuantizationPlan({"site": plan})).serialize()


def _overhead() -> bytes:
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 1]) for n in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "nothing", value[:1], value[1:])
    opset = onnx.helper.make_opsetid("", CANONICAL_OPSET)
    return bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())
