"""Emits models of single sites as a compile emits them. Needs the compile half.

Weights are random, which does not change the time of integer products. For a target in half precision the inputs and
outputs of a model are float16, as they are inside the network, except the image, and a LayerNorm that only linears read
precedes its site, since it writes the site's codes there, in a plugin or in one kernel with the quantizer. The time of
a model of the LayerNorm alone is subtracted from that of such a site. What depends on the rest of the network is
missing: a tensor that float16 cannot hold, readers of one LayerNorm with different widths, a GELU that a kernel fuses
with its product. An attention product stands alone, so that TensorRT does not fuse it and runs it in float16 at every
width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx import shape_inference

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.bench.sites.models import OVERHEAD
from qvit_deploy.errors import InputError
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph, constant
from qvit_deploy.graph.query import nodes_by_output
from qvit_deploy.graph.sites import Kind, Site, find_sites
from qvit_deploy.quantize.plan import Plan, ProductPlan, SitePlan, WeightPlan
from qvit_deploy.targets.target import AnyTarget

Width = tuple[int, int]
"""(weight bits, activation bits)."""

FLOAT = ir.TensorType(ir.DataType.FLOAT)
NORMED = "normed"
RANGE, WEIGHT_SCALE = 3.0, 0.01
"""The largest quantized value of the normally distributed input, and the scale of the weights."""


@dataclass(frozen=True)
class SiteModels:
    """The models of all sites of a bundle.

    Attributes:
        sites: site -> width -> file.
        baselines: file -> the file whose time is subtracted; the overhead's where none is listed.
        models: file -> content.
    """

    sites: Mapping[str, Mapping[str, str]]
    baselines: Mapping[str, str]
    models: Mapping[str, bytes]


@dataclass(frozen=True)
class SiteShape:
    """The properties of a site that decide its time; sites with equal ones share a model.

    Attributes:
        x, second, y: shapes of the operands, `second` that of the weight if there is one, and of the product.
        image: whether it reads the image, which is float32 in every file.
        norm: whether it reads a LayerNorm that only linears read.
        attributes: of the product's node.
    """

    kind: Kind
    x: tuple[int, ...]
    second: tuple[int, ...]
    y: tuple[int, ...]
    bias: bool
    image: bool
    norm: bool
    attributes: tuple[tuple[str, tuple[int, ...]], ...]


def emit_sites(bundle: Bundle, widths: Sequence[Width], batch: int, target: AnyTarget) -> SiteModels:
    """Emits models of all sites of the bundle at these widths, and of the overhead. Equal models share a file.

    Args:
        batch: images per run.

    Raises:
        InputError: a site's shape depends on the image, or the model takes other batches.
    """
    bundle_sites = {s.name for s in bundle.manifest.sites if s.w_bits is not None}
    graph = Graph(ir.load(bundle.path_of("model.float.onnx")), "float")
    shapes = tensor_shapes(graph, batch)
    nodes = nodes_by_output(graph)
    sites: dict[str, dict[str, str]] = {}
    known: dict[tuple[SiteShape, Width], str] = {}
    files: dict[bytes, str] = {overhead(target): OVERHEAD}
    baselines: dict[str, str] = {}
    for site in (s for s in find_sites(graph) if s.name in bundle_sites):
        shape = site_shape(site, nodes[site.product], shapes)
        sites[site.name] = {}
        for width in widths:
            if (shape, width) not in known:
                content = emit_site(shape, width, target)
                name = files.setdefault(content, f"{len(files)}.w{width[0]}a{width[1]}.onnx")
                known[shape, width] = name
                if shape.norm and target.half_precision:
                    baselines[name] = files.setdefault(emit_norm(shape.x, target), f"{len(files)}.norm.onnx")
            sites[site.name]["w{}a{}".format(*width)] = known[shape, width]
    return SiteModels(sites, baselines, {name: content for content, name in files.items()})


def tensor_shapes(graph: Graph, batch: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor whose sizes are all known for `batch` images.

    Raises:
        InputError: the graph takes batches of another size.
    """
    proto = graph.to_proto()
    del proto.graph.value_info[:]
    fixed = graph.static_batch
    if fixed not in (None, batch):
        raise InputError(f"the model takes batches of {fixed} only; leave --batch out")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    inferred = shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {t.name: tuple(t.dims) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dimensions = value.type.tensor_type.shape.dim
        if all(d.HasField("dim_value") for d in dimensions):
            shapes[value.name] = tuple(d.dim_value for d in dimensions)
    return shapes


def site_shape(site: Site, node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> SiteShape:
    """Returns the properties of a site that its model has to have.

    Args:
        node: the site's product.
        shapes: of all tensors (`tensor_shapes`).

    Raises:
        InputError: its sizes depend on the image.
    """
    second = site.weight or site.second or ""
    for name in (site.input, second, site.product):
        if name not in shapes:
            raise InputError(
                f"site {site.name!r}: the shape of {name!r} depends on the image; it cannot be timed alone"
            )
    attributes = tuple(
        (n, tuple(a.as_ints())) for n, a in sorted(node.attributes.items()) if n != "group" and n != "auto_pad"
    )
    if "group" in node.attributes:
        attributes += (("group", (node.attributes["group"].as_int(),)),)
    image = site.role == "image"
    x, other, y = (shapes[name] for name in (site.input, second, site.product))
    return SiteShape(site.kind, x, other, y, site.bias is not None, image, _reads_norm(node), attributes)


def _reads_norm(product: ir.Node) -> bool:
    """Returns whether the product reads a LayerNorm over the last axis that only linears read."""
    value = product.inputs[0]
    norm = None if value is None else value.producer()
    if value is None or norm is None or norm.op_type != "LayerNormalization" or value.is_graph_output():
        return False
    last = norm.attributes.get_int("axis", -1) in (-1, -1 if value.shape is None else len(value.shape) - 1)
    return last and all(n.op_type == "MatMul" and i == 0 and constant(n.inputs[1]) is not None for n, i in value.uses())


def emit_site(shape: SiteShape, width: Width, target: AnyTarget) -> bytes:
    """Returns the file of the site alone, quantized to `width` (bits of the weight or second operand, of the input)."""
    graph, site = _float_site(shape if target.half_precision else replace(shape, norm=False))
    plan = Plan({site.name: _site_plan(site, shape, width)})
    return target.emit_part(graph, plan, {"second", site.output} | (set() if shape.image else {"x"}))


def emit_norm(x: tuple[int, ...], target: AnyTarget) -> bytes:
    """Returns the file of the LayerNorm alone that precedes sites, on an input of shape `x`."""
    value, node, constants = _norm(x)
    graph = ir.Graph(
        [value], node.outputs, nodes=[node], initializers=constants, opset_imports={"": CANONICAL_OPSET}, name="norm"
    )
    return target.emit_part(Graph(ir.Model(graph, ir_version=10), "norm"), Plan({}), ("x", NORMED))


def overhead(target: AnyTarget) -> bytes:
    """Returns the file of a model of one number, of the type that sites read and write in files of this target."""
    kind = onnx.TensorProto.FLOAT16 if target.half_precision else onnx.TensorProto.FLOAT
    value = [onnx.helper.make_tensor_value_info(n, kind, [1, 1]) for n in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "nothing", value[:1], value[1:])
    opset = onnx.helper.make_opsetid("", CANONICAL_OPSET)
    return bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())


def _float_site(shape: SiteShape) -> tuple[Graph, Site]:
    """Returns a float32 graph of the product and its bias, and the site in it."""
    convolution, weighted = shape.kind == "conv", shape.kind in ("conv", "linear")
    x = ir.Value(name="x", shape=ir.Shape(shape.x), type=FLOAT)
    inputs, initializers, random, nodes = [x], list[ir.Value](), np.random.default_rng(0), list[ir.Node]()
    if shape.norm:
        inputs[0], norm, constants = _norm(shape.x)
        nodes, x = [norm], norm.outputs[0]
        initializers += constants
    if weighted:
        weight = ir.tensor(random.standard_normal(shape.second).astype(np.float32))
        second = ir.Value(name="site.weight", shape=ir.Shape(shape.second), type=FLOAT, const_value=weight)
        initializers.append(second)
    else:
        second = ir.Value(name="second", shape=ir.Shape(shape.second), type=FLOAT)
        inputs.append(second)
    operands, bias = [x, second], None
    if shape.bias:
        zeros = ir.tensor(np.zeros(_channels(shape), np.float32))
        bias = ir.Value(name="site.bias", shape=ir.Shape([_channels(shape)]), type=FLOAT, const_value=zeros)
        initializers.append(bias)
    if bias is not None and convolution:
        operands.append(bias)
    attributes = {n: list(v) if n != "group" else v[0] for n, v in shape.attributes}
    product = ir.node("Conv" if convolution else "MatMul", operands, attributes, name="site/product")
    ends = [product]
    if bias is not None and not convolution:
        ends.append(ir.node("Add", [product.outputs[0], bias], name="site/Add"))
    for i, node in enumerate(ends):
        result = node.outputs[0]
        result.name, result.type, result.shape = f"y{i}", FLOAT, ir.Shape(shape.y)
    graph = ir.Graph(
        inputs, [ends[-1].outputs[0]], nodes=[*nodes, *ends], initializers=initializers,
        opset_imports={"": CANONICAL_OPSET}, name="site",
    )  # fmt: skip
    site = Site(
        name="site", kind=shape.kind, role="image" if shape.image else "other", input=x.name or "",
        second=None if weighted else "second", weight="site.weight" if weighted else None,
        bias="site.bias" if shape.bias else None, product="y0", output=f"y{len(ends) - 1}", params=0,
    )  # fmt: skip
    return Graph(ir.Model(graph, ir_version=10), "site"), site


def _norm(shape: tuple[int, ...]) -> tuple[ir.Value, ir.Node, list[ir.Value]]:
    """Returns (x, a LayerNorm of its last axis, the LayerNorm's constants)."""
    x = ir.Value(name="x", shape=ir.Shape(shape), type=FLOAT)
    constants = [
        ir.Value(name=name, shape=ir.Shape(shape[-1:]), type=FLOAT, const_value=ir.tensor(array.astype(np.float32)))
        for name, array in (("norm.weight", np.ones(shape[-1])), ("norm.bias", np.zeros(shape[-1])))
    ]
    node = ir.node("LayerNormalization", [x, *constants], {"axis": -1, "epsilon": 1e-6}, name="norm")
    result = node.outputs[0]
    result.name, result.type, result.shape = NORMED, FLOAT, ir.Shape(shape)
    return x, node, constants


def _site_plan(site: Site, shape: SiteShape, width: Width) -> SitePlan:
    """Returns a plan of the site with random codes."""
    weights, activations = map(Int, width)
    grid = ActivationGrid(activations, RANGE / activations.range[1])
    if site.weight is None:
        assert site.second is not None
        return ProductPlan(site, grid, site.second, ActivationGrid(weights, RANGE / weights.range[1]))
    low, high = weights.range
    codes = np.random.default_rng(0).integers(low, high + 1, shape.second).astype(np.int8)
    scale, bias = np.full(_channels(shape), WEIGHT_SCALE, np.float32), np.zeros(_channels(shape), np.float32)
    return WeightPlan(site, weights, grid, codes, scale, bias if shape.bias else None)


def _channels(shape: SiteShape) -> int:
    return shape.second[0] if shape.kind == "conv" else shape.second[-1]
