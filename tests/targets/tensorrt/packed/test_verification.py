"""Logarithmic attention as an operator: its codes are the executor's, and what is wrong with one is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from qvit_deploy.artifacts.engine_record import Batch, BuildOptions
from qvit_deploy.commands.build import build
from qvit_deploy.commands.inspect import describe
from qvit_deploy.emit.names import codes_name
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.edit import add_constant
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.recipe import Granularity, SoftmaxCodes
from qvit_deploy.targets.onnxruntime.tensors import probe
from qvit_deploy.targets.tensorrt import verification as half_verification
from qvit_deploy.targets.tensorrt.engine.run.check import products
from qvit_deploy.targets.tensorrt.half.emission import emit_tensorrt
from qvit_deploy.targets.tensorrt.packed.attention import ATTRIBUTES, OPERATOR, pack_attention
from qvit_deploy.targets.tensorrt.packed.linear import pack_linears
from qvit_deploy.targets.tensorrt.packed.norm import NORM_ATTRIBUTES, pack_norms, producing_norm
from qvit_deploy.targets.tensorrt.packed.verification import inlined
from qvit_deploy.targets.tensorrt.verification import HalfVerification, verify_half
from tests.support.graphs.half_graphs import half, packed, wide_vit
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit

GRIDS: list[tuple[SoftmaxCodes, bool, Granularity]] = [
    ("log2", False, "tensor"),
    ("log2", True, "head"),
    ("log-sqrt2", False, "head"),
    ("log-sqrt2", True, "tensor"),
]


def verified(calibrated: Calibrated, plan: Plan, changed: Callable[[Graph], None] | None = None) -> HalfVerification:
    emitted = packed(calibrated, plan)
    if changed is not None:
        emitted = replace(emitted, graph=emitted.graph.clone())
        changed(emitted.graph)
    return verify_half(
        calibrated.graph, emit_qdq(calibrated.graph, plan), emitted, Examples.images(calibrated.images.numpy())
    )


def calibrated_for(softmax: SoftmaxCodes, rows: bool, granularity: Granularity, gain: float = 1.0) -> Calibrated:
    graph = wide_vit(gain=gain)
    return calibrate(graph, (4,), attention=True, softmax=softmax, rows=rows, granularity=granularity)


@pytest.fixture(scope="module")
def logarithmic() -> Calibrated:
    return calibrated_for("log-sqrt2", True, "tensor")


@pytest.fixture(scope="module")
def plan(logarithmic: Calibrated) -> Plan:
    return half_scales(logarithmic.plan((4, 4)))


@pytest.mark.parametrize(("softmax", "rows", "granularity"), GRIDS)
def test_codes_are_those_of_the_onnxruntime_file(softmax: SoftmaxCodes, rows: bool, granularity: Granularity) -> None:
    calibrated = calibrated_for(softmax, rows, granularity)
    plan = half_scales(calibrated.plan((4, 4)))
    verification = verified(calibrated, plan)
    linears = pack_norms(pack_linears(half(calibrated, plan)), emit_tensorrt(calibrated.graph, plan).graph)
    alone = verify_half(
        calibrated.graph, emit_qdq(calibrated.graph, plan), linears, Examples.images(calibrated.images.numpy())
    )  # fmt: skip
    probabilities, values = 4 * 2 * 16 * 16, 4 * 16 * 32
    assert verification.code_mismatches == 0 and verification.codes == alone.codes + probabilities + values
    assert verification.packed == alone.packed + 1 == 9 and list(verification.in_float) == ["attn.qk"]
    assert verification.worst_site_error < 1e-3


@pytest.mark.parametrize(
    "graph", [wide_vit(bias_before_softmax=True), wide_vit(tokens=67), mixed_vit()], ids=["bias", "odd", "narrow"]
)
def test_other_shapes(graph: Graph) -> None:
    """Scores with a bias, keys that fill no tile, heads of 8 channels."""
    calibrated = calibrate(graph, (4,), attention=True, softmax="log2")
    plan = half_scales(calibrated.plan((4, 4)))
    verification = verified(calibrated, plan)
    assert verification.code_mismatches == 0 and "attn.av" in packed(calibrated, plan).packed
    assert "attn.qk" in verification.in_float and "attn.av" not in verification.in_float


@pytest.mark.parametrize(("softmax", "rows", "granularity"), GRIDS)
def test_codes_are_those_of_the_executor(softmax: SoftmaxCodes, rows: bool, granularity: Granularity) -> None:
    """The executor runs the planned graph on the file's own probabilities and values."""
    calibrated = calibrated_for(softmax, rows, granularity)
    plan = half_scales(calibrated.plan((4, 4)))
    graph, inside = inlined(packed(calibrated, plan), emit_qdq(calibrated.graph, plan))
    site = plan.sites["attn.av"].site
    ours = [c for c in inside if c.reference.startswith((site.input, f"{site.second}."))]
    assert [c.reference for c in ours] == [codes_name(site.input, Int(4)), codes_name(site.second or "", Int(4))]
    images = calibrated.images.numpy()
    got = dict(
        zip(
            names := [n for c in ours for n in (c.name, c.source)],
            probe(graph, Examples.images(images), names),
            strict=True,
        )
    )
    seen: dict[str, np.ndarray] = {}

    def feed(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: torch.from_numpy(got[name].astype(np.float32))

    def read(name: str) -> Callable[[torch.Tensor], None]:
        return lambda x: seen.update({name: x.numpy()})

    taps = {c.reference_source: feed(c.source) for c in ours} | {c.reference: read(c.reference) for c in ours}
    with torch.no_grad():
        Executor(emit_qdq(calibrated.graph, plan)).run(Examples.images(calibrated.images), taps=taps)
    for code in ours:
        wanted = code.expected(seen[code.reference].astype(np.int64))
        np.testing.assert_array_equal(got[code.name], wanted)
        assert len(np.unique(wanted)) > 7


def test_products_that_pass_float16_stay_float32() -> None:
    """The operator reads what is widened for it, and makes float32."""
    calibrated = calibrated_for("log2", True, "tensor")
    plan = half_scales(calibrated.plan((4, 4)))
    emitted = pack_linears(half(calibrated, plan))
    wide = replace(emitted, graph=emitted.graph.clone())
    product = next(n for n in wide.graph.nodes() if n.outputs[0].name == plan.sites["attn.av"].site.product)
    product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    after = pack_attention(wide, plan)
    (call,) = [n for n in after.graph.nodes() if n.op_type == OPERATOR]
    assert [v.dtype for v in (*call.inputs, *call.outputs) if v is not None] == [ir.DataType.FLOAT] * 3


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_wrong_number_is_found(logarithmic: Calibrated, plan: Plan, attribute: str) -> None:
    def change(graph: Graph) -> None:
        (call,) = [n for n in graph.nodes() if n.name == "attn.av.qvit"]
        old = call.attributes[attribute]
        moved = [*old.value[:-1], 3.0] if isinstance(old.value, tuple | list) else old.value + 1
        call.attributes[attribute] = ir.Attr(attribute, old.type, moved)

    with pytest.raises(CheckError, match=r"'attn.av' was not emitted as planned"):
        verified(logarithmic, plan, change)


def norm_of(graph: Graph) -> ir.Node:
    """The operator whose codes attn.q reads."""
    (call,) = [n for n in graph.nodes() if n.name == "attn.q.qvit"]
    norm = producing_norm(call)
    assert norm is not None and norm.op_type == "LayerNormQuantize4"
    return norm


@pytest.mark.parametrize("attribute", NORM_ATTRIBUTES)
def test_a_wrong_number_of_a_norm_is_found(logarithmic: Calibrated, plan: Plan, attribute: str) -> None:
    """By its attributes, or, those of the body alone, by its codes."""

    def change(graph: Graph) -> None:
        norm = norm_of(graph)
        old = norm.attributes[attribute]
        norm.attributes[attribute] = ir.Attr(attribute, old.type, old.value + 1)

    attributes = attribute in ("y_scale", "y_shift", "y_bits", "c")
    with pytest.raises(CheckError, match=r"was not emitted as planned" if attributes else r"codes of 'norm1.*' differ"):
        verified(logarithmic, plan, change)


@pytest.mark.parametrize("index", [1, 2])
def test_wrong_weights_of_a_norm_are_found(logarithmic: Calibrated, plan: Plan, index: int) -> None:
    def change(graph: Graph) -> None:
        norm = norm_of(graph)
        old = constant(norm.inputs[index])
        assert old is not None
        norm.replace_input_with(index, add_constant(graph.model.graph, "wrong", np.float32(old + 0.3)))

    with pytest.raises(CheckError, match=r"codes of 'norm1.*' differ"):
        verified(logarithmic, plan, change)


def test_codes_of_another_norm_are_found(logarithmic: Calibrated, plan: Plan) -> None:
    def change(graph: Graph) -> None:
        (fc1,) = [n for n in graph.nodes() if n.name == "fc1.qvit"]
        fc1.replace_input_with(0, norm_of(graph).outputs[0])

    with pytest.raises(CheckError, match=r"'fc1' was not emitted as planned"):
        verified(logarithmic, plan, change)


def test_a_norm_that_does_not_pack_its_codes_is_found(logarithmic: Calibrated, plan: Plan) -> None:
    """The codes are right and their bytes are not: what is read of them shows it."""

    def change(graph: Graph) -> None:
        function = next(f for f in graph.model.functions.values() if f.name == "LayerNormQuantize4")
        high, low = [n for n in function if n.op_type == "Slice"][1::-1]
        ir.convenience.replace_all_uses_with([high.outputs[0], low.outputs[0]], [low.outputs[0], high.outputs[0]])

    with pytest.raises(CheckError, match=r"gives an output off by|takes the SQNR"):
        verified(logarithmic, plan, change)


@pytest.mark.parametrize(("op_type", "index"), [("Where", 2), ("Round", 0), ("Clip", 0)])
def test_a_wrong_body_is_found(logarithmic: Calibrated, plan: Plan, op_type: str, index: int) -> None:
    """Without its rows' largest, with codes that are no integers, without the ends of the values' codes."""

    def change(graph: Graph) -> None:
        function = next(f for f in graph.model.functions.values() if f.name == OPERATOR)
        node = [n for n in function if n.op_type == op_type][-1]
        source = node.inputs[index]
        assert source is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], source)

    with pytest.raises(CheckError, match=r"codes of '.*' differ"):
        verified(logarithmic, plan, change)


def test_codes_that_differ_are_named(logarithmic: Calibrated, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of attributes, which comes first and finds it too, switched off."""

    def change(graph: Graph) -> None:
        (call,) = [n for n in graph.nodes() if n.name == "attn.av.qvit"]
        call.attributes["unit"] = ir.AttrFloat32("unit", call.attributes.get_float("unit") * 1.01)

    monkeypatch.setattr(half_verification, "_require_plan", lambda *_: None)
    with pytest.raises(CheckError, match=rf"codes of '{plan.sites['attn.av'].site.input}.q4' differ"):
        verified(logarithmic, plan, change)


def test_engines(logarithmic: Calibrated, plan: Plan, tmp_path: Path) -> None:
    """TensorRT-RTX builds the bodies; TensorRT wants the library, and its sites are looked for in plugins."""
    path = tmp_path / "model.tensorrt-plugin.onnx"
    path.write_bytes(packed(logarithmic, plan).graph.serialize())
    (product,) = [p for p in describe(path)["products"] if p["op"] == f"qvit::{OPERATOR}"]
    assert [o["bits"] for o in product["operands"]] == [4, 4] and not any(o["weight"] for o in product["operands"])
    described = products(path)
    assert (
        "attn.av" in described.plugins
        and described.quantized["attn.av"] == "attn.av.qvit"
        and described.attention == ()
    )
    with pytest.raises(InputError, match=r"runs in the plugins of libqvit_plugins.so"):
        build(path, "tensorrt", out=tmp_path / "a.engine")
    pytest.importorskip("tensorrt_rtx")
    varying = BuildOptions(batch=Batch.parse("1:2:4"))
    (built,) = build(path, "tensorrt-rtx", varying, sms=(86,), out=tmp_path / "a.engine")
    assert built.record.build.messages == () and built.record.build.layers > 100
