from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.ranges.clip import weight_scale
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit


def mean_output(graph: Graph, tensor: str, images: torch.Tensor) -> torch.Tensor:
    """Mean over images and tokens, float64 [channels]."""
    values = Executor(graph).run(Examples.images(images), fetch=[tensor])[tensor].double()
    return values.reshape(-1, values.shape[-1]).mean(0)


@pytest.mark.parametrize("compensate", ["none", "bias", "gptq"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_codes_and_scales_are_usable_at_every_width(bits: int, compensate: str) -> None:
    calibrated = calibrate(mixed_vit(), (bits,))
    plan = calibrated.plan((bits, bits), compensate)
    assert list(plan.sites) == list(plan.weights()) == [s.name for s in calibrated.sites]
    low, high = Int(bits).range
    for site in plan.weights().values():
        assert site.site.weight is not None
        source = constant(calibrated.graph.initializers[site.site.weight])
        assert source is not None and site.codes.shape == source.shape and site.codes.dtype == np.int8
        assert site.codes.min() >= low and site.codes.max() <= high
        assert site.weight_scale.dtype == np.float32 and (site.weight_scale > 0).all()
        assert np.isfinite(site.weight_scale).all() and site.grid.scale > 0
        assert site.bias is not None and np.isfinite(site.bias).all()


@pytest.mark.parametrize("compensate", ["bias", "gptq"])
@pytest.mark.parametrize("name", ["patch", "attn.k", "fc2", "head"])
def test_on_the_calibration_images_the_mean_output_stays(name: str, compensate: str) -> None:
    """For a site quantized alone, with and without a bias of its own."""
    graph = mixed_vit(head_bias=False, qkv_bias=False)
    calibrated = calibrate(graph, (3,))
    plan = calibrated.plan({name: (3, 3)}, compensate)
    assert list(plan.sites) == [name]
    output = plan.sites[name].site.output
    before, after = (mean_output(g, output, calibrated.images) for g in (graph, emit_qdq(graph, plan)))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))


def test_without_compensation_weights_are_rounded_to_nearest_and_biases_stay() -> None:
    graph = mixed_vit()
    calibrated = calibrate(graph, (4,))
    site = calibrated.plan({"fc2": (4, 4)}, "none").weights()["fc2"]
    weight = calibrated.weights["fc2"]
    np.testing.assert_array_equal(site.codes, Int(4).quantize(weight, weight_scale(weight, Int(4))).numpy())
    np.testing.assert_array_equal(site.bias, constant(graph.initializers["fc2.bias"]))
    assert site.grid == calibrated.grids[site.site.input, Int(4)]


def test_later_layers_make_good_what_earlier_ones_did() -> None:
    """fc2 is fitted to what fc1 at 3 bits gives it: its mean output is the float one's, which alone it would miss."""
    graph = mixed_vit()
    calibrated = calibrate(graph, (3,))
    together = emit_qdq(graph, calibrated.plan({"fc1": (3, 3), "fc2": (3, 3)}))
    output = "fc2.out" if any(s.output == "fc2.out" for s in calibrated.sites) else None
    output = output or next(s.output for s in calibrated.sites if s.name == "fc2")
    before, after = (mean_output(g, output, calibrated.images) for g in (graph, together))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))


def test_rows_that_matter_more_are_met_better() -> None:
    graph = mixed_vit()
    plain = calibrate(graph, (3,))
    site = next(s for s in plain.sites if s.name == "fc1")
    tokens = Executor(graph).run(Examples.images(plain.images[:1]), fetch=[site.input])[site.input].shape[1]
    first = torch.zeros(tokens)
    first[0] = tokens
    errors = []
    for importance in ({}, {site.input: first}):
        plan = replace(plain, importance=importance).plan({"fc1": (3, 3)}, "gptq")
        outputs = [
            Executor(g).run(Examples.images(plain.images), fetch=[site.output])[site.output]
            for g in (graph, emit_qdq(graph, plan))
        ]
        errors.append(float((outputs[0] - outputs[1])[:, 0].square().sum()))
    assert errors[1] < errors[0]


def test_a_linear_without_bias_gets_none_it_does_not_need() -> None:
    calibrated = calibrate(mixed_vit(head_bias=False, qkv_bias=False), (8,))
    plan = calibrated.plan((8, 8), "none")
    assert {name for name, s in plan.weights().items() if s.bias is None} == {"attn.k", "head"}


def test_attention_products_have_two_grids() -> None:
    calibrated = calibrate(mixed_vit(), (4, 8), attention=True)
    plan = calibrated.plan({"attn.qk": (4, 8), "attn.av": (8, 4)}, "bias")
    assert list(plan.products()) == list(plan.sites) == ["attn.qk", "attn.av"]
    for site in plan.products().values():
        assert (site.second_grid.format, site.grid.format) == (Int(site.w_bits), Int(site.a_bits))
        assert site.grid.shift == site.second_grid.shift == 0


def test_planning_again_gives_the_same_numbers() -> None:
    first, second = (calibrate(mixed_vit(), (4,)).plan((4, 4), "gptq") for _ in range(2))
    for name, site in first.sites.items():
        other = second.sites[name]
        assert site.grid == other.grid
        for mine, theirs in (
            (site.codes, other.codes),
            (site.weight_scale, other.weight_scale),
            (site.bias, other.bias),
        ):
            np.testing.assert_array_equal(mine, theirs)
