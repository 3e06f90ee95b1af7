"""The body of SoftmaxLog2AV gives the codes of a `LogGrid`, every one, and its products."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx
import onnx.helper
import onnx.inliner
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from qvit_deploy.emit.local_functions import plugin_operators
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.formats.grids.probabilities import (
    FINE_TOP,
    LOG_BITS,
    LevelGrid,
    LogGrid,
    UnsignedGrid,
    log_codes,
    log_table,
)
from qvit_deploy.formats.grids.scaled import HeadGrid, ProbabilityGrid, RowGrid
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.examples import Examples
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.recipe import Granularity, SoftmaxCodes
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.tensorrt.packed.attention import (
    FUNCTION_FINE,
    FUNCTION_LOG_CODES,
    FUNCTION_PROBABILITIES,
    OPERATOR,
    PARTNER,
    pack_attention,
    packable,
)
from qvit_deploy.targets.tensorrt.packed.linear import pack_linears
from qvit_deploy.tasks.metrics import sqnr_db
from tests.support.graphs.attention_operator import one_attention, planned
from tests.support.graphs.half_graphs import half, types, wide_vit
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate

WIDTHS = [(bits, steps) for steps, widest in LOG_BITS.items() for bits in range(2, widest + 1)]


def open_body(model: onnx.ModelProto, fetch: list[str], cut: str = "") -> ort.InferenceSession:
    """The body in place of the operator, with tensors of it as outputs and, if given, one of it as an input."""
    opened = onnx.inliner.inline_local_functions(model)
    outputs = {n: o for n in (*fetch, cut) for node in opened.graph.node for o in node.output if o.startswith(n) and n}
    if cut:
        for node in [n for n in opened.graph.node if n.output[0] == outputs[cut]]:
            opened.graph.node.remove(node)
        opened.graph.input.append(onnx.helper.make_tensor_value_info(outputs[cut], onnx.TensorProto.FLOAT, None))
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=outputs[n]) for n in fetch)
    return ort.InferenceSession(opened.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("bits", "steps"), WIDTHS)
def test_every_value_of_the_fine_grid_has_its_code(bits: int, steps: int) -> None:
    site = planned(LogGrid(Int(bits), steps, 0.7), ActivationGrid(Int(8), 0.1, 0.0))
    runner = open_body(one_attention(site), [FUNCTION_FINE, FUNCTION_LOG_CODES], FUNCTION_PROBABILITIES)
    u = np.arange(FINE_TOP + 1, dtype=np.float32).reshape(1, 1, 256, 256)
    name = next(i.name for i in runner.get_inputs() if i.name.startswith(FUNCTION_PROBABILITIES))
    feed = {i.name: np.ones((1, 1, 256, 1), np.float32) for i in runner.get_inputs()}
    fine, codes = runner.run(None, {**feed, name: u * np.float32(site.grid.common.scale)})
    np.testing.assert_array_equal(fine, u)
    np.testing.assert_array_equal(codes.ravel(), log_table(bits, steps).numpy())


@pytest.mark.parametrize(("bits", "steps"), WIDTHS)
@pytest.mark.parametrize("by_row", [False, True])
def test_codes_and_products_of_random_scores(bits: int, steps: int, by_row: bool) -> None:
    grid = LogGrid(Int(bits), steps, 1.0 if by_row else float(np.float32(0.3)))
    site = planned(RowGrid(grid) if by_row else grid, ActivationGrid(Int(8), 1.0, 0.0))
    rng = np.random.default_rng(bits * steps)
    feed = {"scores": (3 * rng.standard_normal((2, 3, 9, 40))).astype(np.float32)}
    feed["values"] = np.tile(np.eye(40, dtype=np.float32), (2, 3, 1, 1))  # out: the probabilities
    model = one_attention(site)
    p, fine, codes = open_body(model, [FUNCTION_PROBABILITIES, FUNCTION_FINE, FUNCTION_LOG_CODES]).run(None, feed)
    share = torch.from_numpy(p / p.max(-1, keepdims=True) if by_row else p)
    np.testing.assert_array_equal(codes, log_codes(share, grid.largest, bits, steps).numpy())
    assert len(np.unique(codes)) == 2**bits and fine.max() <= FINE_TOP
    runner = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = runner.run(None, feed)
    np.testing.assert_array_equal(out, site.grid.apply(torch.from_numpy(p)).numpy())
    if (bits, steps) == (5, 2):
        value = ReferenceEvaluator(model).run(None, feed)[0]
        assert np.isclose(value, out, rtol=1e-6).mean() > 0.99  # its softmax has other last bits


@pytest.mark.parametrize("v_bits", [4, 6, 8])
def test_values_are_clipped_to_their_codes(v_bits: int) -> None:
    site = planned(LogGrid(Int(4), 1, 1.0), ActivationGrid(Int(v_bits), 0.25, 0.0))
    high = 2 ** (v_bits - 1)
    values = np.linspace(-2 * high, 2 * high, 201, dtype=np.float16).reshape(1, 1, 1, 201) * np.float16(0.25)
    model = one_attention(site, onnx.TensorProto.FLOAT16)
    runner = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = runner.run(None, {"scores": np.zeros((1, 1, 1, 1), np.float16), "values": values})
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out, np.clip(np.rint(values / np.float16(0.25)), -high, high - 1) * np.float16(0.25))


@pytest.mark.parametrize(
    ("grid", "values", "runs"),
    [
        (LogGrid(Int(4), 1, 1.0), ActivationGrid(Int(6), 0.1, 0.0), True),
        (RowGrid(LogGrid(Int(5), 2, 1.0)), HeadGrid(ActivationGrid(Int(4), 0.1, 0.0), (1.0, 2.0)), True),
        (LogGrid(Int(4), 1, 1.0), ActivationGrid(Int(5), 0.1, 0.0), False),
        (LogGrid(Int(4), 1, 1.0), ActivationGrid(Int(8), 0.1, 0.3), False),
        (UnsignedGrid(Int(4), 0.1), ActivationGrid(Int(8), 0.1, 0.0), False),
        (RowGrid(LevelGrid(Int(2), 0.1, (0, 3, 9, 127))), ActivationGrid(Int(8), 0.1, 0.0), False),
    ],
)
def test_what_the_kernel_can_run(grid: ProbabilityGrid | RowGrid, values: Grid, runs: bool) -> None:
    assert packable(planned(grid, values)) is runs


@lru_cache
def calibrated(softmax: SoftmaxCodes, rows: bool, granularity: Granularity, tokens: int = 16) -> Calibrated:
    graph = wide_vit(tokens=tokens)
    return calibrate(graph, (4,), attention=True, softmax=softmax, rows=rows, granularity=granularity)


def plan_of(calibrated: Calibrated) -> Plan:
    return half_scales(calibrated.plan((4, 4)))


@pytest.mark.parametrize(
    ("softmax", "rows", "granularity"), [("log2", False, "tensor"), ("log-sqrt2", True, "head"), ("log2", True, "head")]
)
def test_the_softmax_and_its_product_become_one_node(
    softmax: SoftmaxCodes, rows: bool, granularity: Granularity
) -> None:
    model = calibrated(softmax, rows, granularity)
    plan = plan_of(model)
    before = pack_linears(half(model, plan))
    after = pack_attention(before, plan)
    assert set(before.in_float) == {"attn.qk", "attn.av"} and after.in_float == {"attn.qk": PARTNER}
    assert after.packed == (*before.packed, "attn.av") and list(after.plan.sites) == [
        n for n in plan.sites if n != "attn.qk"
    ]
    operators = [n.op_type for n in after.graph.nodes()]
    assert operators.count(OPERATOR) == 1 and "Softmax" not in operators
    assert "Softmax" in [n.op_type for n in before.graph.nodes()]  # which stays as it is
    scales = sum(n.endswith(".heads") for node in after.graph.nodes() for n in (v.name or "" for v in node.outputs))
    assert scales == (granularity == "head")
    proto = after.graph.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert types(after.graph)[plan.sites["attn.av"].site.output] == "FLOAT16"
    assert f"qvit::{OPERATOR}:1" in plugin_operators(proto.SerializeToString())
    images = model.images.numpy()
    got, wanted = (run(session(g.serialize(), 1), Examples.images(images))[0] for g in (after.graph, before.graph))
    assert 5 < sqnr_db(wanted, got) < 30  # the probabilities were in float before


def test_other_codes_are_left_alone() -> None:
    model = calibrated("levels", True, "tensor")
    plan = plan_of(model)
    before = half(model, plan)
    assert "attn.av" in before.in_float and pack_attention(before, plan) is before
