"""Small canonical models with every kind of site, written by hand so that no exporter is involved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.calibrate.observe import Observation, observe, site_tensors
from qvit_deploy.calibrate.products import ProductSample, observe_products
from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site, find_sites
from qvit_deploy.quantize.calibration import Calibration, RoundedCalibration
from qvit_deploy.quantize.plan import Grids, Plan, site_weights
from qvit_deploy.quantize.ranges.activations import activation_grids
from qvit_deploy.quantize.ranges.attention import attention_grids
from qvit_deploy.quantize.rounding.plan_weights import build_plan
from qvit_deploy.quantize.rounding.prequantized import prequantize_weights
from qvit_deploy.recipe import Compensation, Granularity, SoftmaxCodes
from tests.support.examples import image_batches
from tests.support.graphs.relevance_graphs import Builder

torch.set_num_threads(1)

WIDTH, HEADS, CLASSES = 16, 2, 5


def canonical(builder: Builder, output: str, image: tuple[int, ...], name: str = "small") -> Graph:
    """The builder's graph as a frontend hands it on: shapes inferred, patch embeddings as linears."""
    return canonicalize(builder.graph(output, image, name).model, name)


def mixed_vit(head_bias: bool = True, qkv_bias: bool = True, seed: int = 0) -> Graph:
    """3 x 16 x 16 images. An overlapping convolution stem, patches, one block with separate q, k and v, a final norm,
    the class token's row (rank 2) and the head."""
    b = Builder(seed)
    stem = b.normal(WIDTH, 3, 3, 3, scale=0.3, name="stem.weight")
    x = b.op("Conv", "image", stem, b.normal(WIDTH, scale=0.2), strides=[2, 2], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    x = b.op("Gelu", x)
    patch = b.normal(WIDTH, WIDTH, 4, 4, scale=0.1, name="patch.weight")
    x = b.op("Conv", x, patch, b.normal(WIDTH, scale=0.2), strides=[4, 4], kernel_shape=[4, 4])
    x = b.op("Transpose", b.op("Reshape", x, b.constant([0, WIDTH, 4])), perm=[0, 2, 1])
    x = b.op("Add", x, b.normal(1, 4, WIDTH, scale=0.5), name="embedded")
    x = b.op("Add", x, _attention(b, b.layer_norm(x, WIDTH, "norm1"), qkv_bias), name="middle")
    hidden = b.op("Gelu", b.linear(b.layer_norm(x, WIDTH, "norm2"), WIDTH, 4 * WIDTH, "fc1"), name="hidden")
    x = b.op("Add", x, b.linear(hidden, 4 * WIDTH, WIDTH, "fc2"), name="out")
    row = b.op("Gather", b.layer_norm(x, WIDTH, "norm"), b.constant(np.int64(0)), axis=1, name="row")
    return canonical(b, project(b, row, WIDTH, CLASSES, "head", head_bias, "logits"), (3, 16, 16), "mixed")


def project(b: Builder, x: str, rows: int, columns: int, module: str, bias: bool, name: str = "") -> str:
    if bias:
        return b.linear(x, rows, columns, module, name)
    return b.op("MatMul", x, b.normal(rows, columns, scale=rows**-0.5, name=f"{module}.weight"), name=name)


def _attention(b: Builder, x: str, bias: bool) -> str:
    depth = WIDTH // HEADS
    heads = {}
    for part in "qkv":
        wide = project(b, x, WIDTH, WIDTH, f"attn.{part}", bias or part != "k")
        split = b.op("Reshape", wide, b.constant([0, 4, HEADS, depth]))
        heads[part] = b.op("Transpose", split, perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3], name=f"{part}_heads")
    scores = b.op("Mul", b.op("MatMul", heads["q"], heads["k"]), b.constant(depth**-0.5))
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), heads["v"])
    joined = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.constant([0, 4, WIDTH]))
    return b.linear(joined, WIDTH, WIDTH, "attn.proj")


def fixed_batch(graph: Graph, size: int) -> Graph:
    """The same model as an exporter without a symbolic batch writes it."""
    proto = graph.to_proto()
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    return canonicalize(ir.from_proto(proto), graph.name)


def images_for(graph: Graph, count: int = 6, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, *graph.interface.image_size, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Calibrated:
    """A graph with everything that comes before the plan, for the widths it was asked for."""

    graph: Graph
    sites: tuple[Site, ...]
    observations: Mapping[str, Observation]
    weights: Mapping[str, torch.Tensor]
    grids: Grids
    products: Mapping[str, ProductSample]
    images: torch.Tensor
    importance: Mapping[str, torch.Tensor]

    def calibration(self) -> RoundedCalibration:
        formats = tuple(sorted({format for _, format in self.grids}))
        executor = Executor(self.graph)
        rounded = prequantize_weights(
            executor, self.sites, self.weights, self.importance, formats, None, lambda _: None
        )
        return Calibration(
            executor, self.sites, self.observations, self.weights, self.grids, formats, self.products, self.importance
        ).with_weights(rounded)

    def plan(self, widths: tuple[int, int] | Mapping[str, tuple[int, int]], compensate: Compensation = "bias") -> Plan:
        if isinstance(widths, tuple):
            widths = {site.name: widths for site in self.sites}
        formats = {name: (Int(w_bits), Int(a_bits)) for name, (w_bits, a_bits) in widths.items()}
        return build_plan(self.calibration(), formats, compensate, image_batches(self.images, 4), 0, lambda _: None)


def calibrate(
    graph: Graph,
    bits: tuple[int, ...],
    attention: bool = False,
    images: int = 6,
    softmax: SoftmaxCodes = "uniform",
    rows: bool = False,
    granularity: Granularity = "tensor",
) -> Calibrated:
    sites = tuple(s for s in find_sites(graph) if s.weight is not None or attention)
    pixels = images_for(graph, images)
    seen = observe(Executor(graph), image_batches(pixels, 4), site_tensors(sites), images, 0, {}, lambda _: None)
    weights = site_weights(graph, sites)
    products = observe_products(Executor(graph), image_batches(pixels, 4), sites, images, 0)
    formats = tuple(map(Int, bits))
    grids = {
        **activation_grids(sites, seen, weights, formats),
        **attention_grids(sites, products, formats, softmax, rows, granularity),
    }
    return Calibrated(graph, sites, seen, weights, grids, products, pixels, {})


def logits(graph: Graph, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return Executor(graph).run(Examples.images(images))["logits"].numpy()


def node_making(graph: Graph, output: str) -> ir.Node:
    return next(n for n in graph.nodes() if output in [v.name for v in n.outputs])
