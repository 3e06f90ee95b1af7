"""Where sites are in an emitted graph, and that names read from a file lead to them."""

from __future__ import annotations

import pytest

from qvit_deploy.emit import names
from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.quantize.plan import Plan, ProductPlan
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit


@pytest.fixture(scope="module")
def plan() -> Plan:
    calibrated = calibrate(mixed_vit(head_bias=False), (4,), True, 6, "log2", True, "head")
    return calibrated.plan((4, 4), "bias")


@pytest.fixture(scope="module", params=[True, False], ids=["onnxruntime", "tensorrt"])
def emitted(request: pytest.FixtureRequest, plan: Plan) -> EmittedGraph:
    return emit_qdq(mixed_vit(head_bias=False), plan, request.param)


def test_every_site_is_where_emission_says(emitted: EmittedGraph, plan: Plan) -> None:
    values = {v.name: v for n in emitted.nodes() for v in n.outputs}
    tensors = {**values, **emitted.initializers, **{v.name: v for v in emitted.inputs}}
    assert list(emitted.sites) == list(plan.sites)
    for name, site in emitted.sites.items():
        product = emitted.product(name)
        assert product is not None and site.output in values
        assert [v.name for v in product.inputs[:2] if v is not None] == [o.value for o in site.operands]
        for operand in site.operands:
            assert operand.codes in tensors and (operand.source is None or operand.source in tensors)
            assert values[operand.value].producer().op_type in ("DequantizeLinear", "Mul")  # type: ignore[union-attr]
        weighted = not isinstance(plan.sites[name], ProductPlan)
        assert (site.operands[1].source is None) == weighted == (site.operands[1].codes in emitted.initializers)


def test_a_clone_knows_them_and_other_graphs_do_not(emitted: EmittedGraph) -> None:
    copy = emitted.clone()
    assert copy.sites is emitted.sites and copy.product("fc1") not in (None, emitted.product("fc1"))
    assert emitted.product("nowhere") is None


def test_names_of_constants_lead_to_their_sites(emitted: EmittedGraph, plan: Plan) -> None:
    for name, site in plan.weights().items():
        codes = names.weight_codes(name, site.format)
        written = [codes, names.weight_scale(name), names.weight_zero(name)]
        assert set(written) <= set(emitted.initializers)
        assert {names.site_of_weight(n) for n in written} == {name} == {names.site_of_weight_codes(codes)}
        assert names.site_of_bias(names.bias(name)) == name == names.site_of_call(names.call(name))
    assert names.site_of_weight("fc1.output") is names.site_of_bias("fc1.weight") is None
    assert names.without_raw(names.raw("logits")) == names.without_raw("logits") == "logits"
