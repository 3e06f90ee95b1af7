"""Every grid of an attention operand: what the product reads, in both runtimes, is what the grid says."""

from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
import onnx
import pytest
import torch

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.formats.grids.scaled import HeadGrid, RowGrid
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.recipe import Granularity, SoftmaxCodes
from qvit_deploy.targets.onnxruntime.runtime import fusion, run, session
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, fixed_batch, mixed_vit

KINDS: tuple[SoftmaxCodes, ...] = tuple(k for k in get_args(SoftmaxCodes) if k != "auto")
BITS = (2, 4, 7, 8)
WAYS = list(product(KINDS, (False, True), ("tensor", "head")))


@pytest.fixture(scope="module", params=WAYS, ids=lambda w: f"{w[0]}-{'rows' if w[1] else 'whole'}-{w[2]}")
def calibrated(request: pytest.FixtureRequest) -> Calibrated:
    softmax, rows, granularity = request.param
    return calibrate(mixed_vit(), BITS, True, 6, softmax, rows, granularity)


def in_onnxruntime(graph: Graph, images: torch.Tensor, names: list[str]) -> list[np.ndarray]:
    proto = graph.to_proto()
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    return run(session(proto.SerializeToString(), 1), Examples.images(images.numpy()), graph.static_batch, names)


def read_by_product(grid: Grid, x: torch.Tensor) -> torch.Tensor:
    """The operand before the product's output takes the rest back."""
    if isinstance(grid, HeadGrid):
        return grid.grid.apply(x * torch.tensor(grid.factors)[:, None, None])
    if isinstance(grid, RowGrid):
        return grid.grid.apply(x / x.amax(-1, keepdim=True))
    return grid.apply(x)


@pytest.mark.parametrize("bits", BITS)
def test_operands_are_those_of_the_grids_and_outputs_their_products(calibrated: Calibrated, bits: int) -> None:
    plan = calibrated.plan({"attn.qk": (bits, bits), "attn.av": (bits, bits)}, "none")
    emitted = emit_qdq(calibrated.graph, plan)
    onnx.checker.check_model(emitted.to_proto(), full_check=True)
    for site in plan.products().values():
        names = [site.site.input, site.second, site.site.output]
        left, right, output = (torch.from_numpy(a) for a in in_onnxruntime(emitted, calibrated.images, names))
        node = emitted.product(site.site.name)
        assert node is not None
        operands = [v.name or "" for v in node.inputs if v is not None]
        assert operands == [o.value for o in emitted.sites[site.site.name].operands]
        with torch.no_grad():
            taps = {n: (lambda _, x=x: x) for n, x in ((names[0], left), (names[1], right))}
            fetched = Executor(emitted).run(Examples.images(calibrated.images), taps=taps, fetch=[*operands, names[2]])
        for grid, x, name in ((site.grid, left, operands[0]), (site.second_grid, right, operands[1])):
            assert torch.equal(fetched[name], read_by_product(grid, x))
        grids = (site.grid, left), (site.second_grid, right)
        expected = torch.matmul(*(g.apply(x) - g.shift for g, x in grids))
        for computed in (output, fetched[names[2]]):
            torch.testing.assert_close(computed, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("bits", BITS)
def test_all_products_but_those_with_log_codes_run_on_integers(calibrated: Calibrated, bits: int) -> None:
    plan = calibrated.plan((bits, bits), "none")
    in_float = sum(not s.grid.on_integers for s in plan.sites.values())
    fused = fusion(emit_qdq(calibrated.graph, plan).serialize())
    assert fused.integer_products == 10 - in_float  # all sites but the convolution


@pytest.mark.parametrize("bits", BITS)
def test_zero_points_are_zero_and_containers_int8_but_for_log_codes(calibrated: Calibrated, bits: int) -> None:
    plan = calibrated.plan((bits, bits), "none")
    log = not plan.sites["attn.av"].grid.on_integers
    for node in emit_qdq(calibrated.graph, plan).nodes():
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constant(node.inputs[2])
            assert zero is not None and not zero.any()
            probabilities = (node.outputs[0].name or "").startswith(plan.sites["attn.av"].site.input)
            assert zero.dtype == (np.uint16 if log and probabilities else np.int8)


@pytest.mark.parametrize("bits", [2, 4])
def test_gradients_pass_through_the_codes_of_probabilities(calibrated: Calibrated, bits: int) -> None:
    """Relevance must reach queries and keys of a quantized graph as it does in float."""
    emitted = emit_qdq(calibrated.graph, calibrated.plan({"attn.av": (8, bits)}, "none"))
    query = next(s.input for s in calibrated.sites if s.name == "attn.qk")
    gradients = []
    for graph in (calibrated.graph, emitted):
        leaf: dict[str, torch.Tensor] = {}

        def watch(x: torch.Tensor, leaf: dict[str, torch.Tensor] = leaf) -> torch.Tensor:
            leaf["x"] = x.detach().requires_grad_()
            return leaf["x"]

        Executor(graph).run(Examples.images(calibrated.images), {query: watch})["logits"][:, 0].sum().backward()
        assert leaf["x"].grad is not None
        gradients.append(leaf["x"].grad.flatten())
    assert torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.5


def test_one_table_of_powers_serves_all_sites(tiny_vit: Graph) -> None:
    calibrated = calibrate(tiny_vit, (4,), True, 4, "log-sqrt2")
    emitted = emit_qdq(tiny_vit, calibrated.plan((4, 4), "none"))
    assert [n for n in emitted.initializers if constant(emitted.initializers[n]).size > 60_000] == ["log2.2.q4"]  # type: ignore[union-attr]


@pytest.mark.parametrize("granularity", ["tensor", "head"])
def test_swin_windows_and_a_fixed_batch(tiny_swin: Graph, granularity: Granularity) -> None:
    for graph in (tiny_swin, fixed_batch(mixed_vit(), 4)):
        calibrated = calibrate(graph, (4,), True, 4, "levels", True, granularity)
        emitted = emit_qdq(graph, calibrated.plan((4, 4), "none"))
        onnx.checker.check_model(emitted.to_proto(), full_check=True)
        with torch.no_grad():
            expected = Executor(emitted).run(Examples.images(calibrated.images[:4]))["logits"].numpy()
        got = run(
            session(emitted.serialize(), 1), Examples.images(calibrated.images[:4].numpy()), emitted.static_batch
        )[0]
        assert np.abs(got - expected).max() <= 1e-2 * np.abs(expected).max()
