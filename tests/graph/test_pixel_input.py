from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.pixel_input import normalized_pixels, with_pixel_input
from qvit_deploy.graph.query import names_with_gradient
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.relevance.lrp import site_relevance
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.targets.onnxruntime.runtime import outputs, session
from qvit_deploy.tasks.classify import largest_logit
from tests.support.graphs.quantizable_graphs import mixed_vit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)
NORMALIZED = Preprocess(input_size=(3, 16, 16), mean=MEAN, std=STD).normalized(PIXELS)


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.5,), (0.25,)), ((0.0,), (1.0,))])
def test_the_graph_normalizes_as_the_preprocessing_does(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    graph = mixed_vit()
    pixels = with_pixel_input(graph, mean, std)
    onnx.checker.check_model(pixels.to_proto(), full_check=True)
    assert [(v.name, v.dtype) for v in pixels.inputs] == [("image", ir.DataType.UINT8)]
    assert [v.dtype for v in graph.inputs] == [ir.DataType.FLOAT]
    normalized = Preprocess(input_size=(3, 16, 16), mean=mean, std=std).normalized(PIXELS)
    expected = outputs(session(graph.serialize(), 1), Examples.images(normalized))["logits"]
    runtime = outputs(session(pixels.serialize(), 1), Examples.images(PIXELS))["logits"]
    executed = Executor(pixels).run(Examples.images(torch.from_numpy(PIXELS)))["logits"].detach().numpy()
    for logits in (runtime, executed):
        assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


def test_normalized_values_are_two_roundings_off_at_most() -> None:
    pixels = with_pixel_input(mixed_vit(), MEAN, STD)
    names = [v.name or "" for node in pixels.nodes() for v in node.outputs if normalized_pixels(v) is not None]
    assert names == ["image.float", "image.centred", "image.normalized"]
    computed = Executor(pixels).run(Examples.images(torch.from_numpy(PIXELS)), fetch=[names[-1]])[names[-1]].numpy()
    exact = (PIXELS / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    assert np.abs(computed - exact).max() < 4e-7


def test_sites_are_those_of_the_float_graph() -> None:
    graph = mixed_vit()
    by_name = {site.name: site for site in find_sites(graph)}
    sites = find_sites(with_pixel_input(graph, MEAN, STD))
    assert [(s.name, s.role) for s in sites] == [(s.name, s.role) for s in by_name.values()]
    assert sites[0].role == "image"


@pytest.mark.parametrize("rules", ["gradient", "attnlrp", "relp"])
def test_relevance_is_that_of_the_float_graph(rules: str) -> None:
    """Pixels are integers, which have no gradient: the backward pass has to end behind their cast."""
    graph, rule_set = mixed_vit(), RULE_SETS[rules]
    pixels = with_pixel_input(graph, MEAN, STD)
    assert names_with_gradient(pixels) > names_with_gradient(graph) - {"image"}
    scores = [
        site_relevance(
            g, find_sites(g), [Examples.images(torch.from_numpy(x))], rule_set, largest_logit, lambda _: None
        )
        for g, x in ((graph, NORMALIZED), (pixels, PIXELS))
    ]
    assert scores[0].values == pytest.approx(scores[1].values, rel=1e-4)
    assert min(scores[1].values.values()) > 0


@pytest.mark.parametrize(
    ("mean", "std", "reason"),
    [
        ((0.5,), (1e-42,), r"make no normalization of pixels that float32 holds"),
        ((1e39,), (1.0,), r"make no normalization of pixels that float32 holds"),
    ],
)
def test_numbers_that_float32_does_not_hold_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        with_pixel_input(mixed_vit(), mean, std)


def test_graphs_without_one_float_image_are_refused() -> None:
    with pytest.raises(InputError, match="'image' takes uint8 pixels already"):
        with_pixel_input(with_pixel_input(mixed_vit(), MEAN, STD), MEAN, STD)
    two = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 21]> g (float[N,3,8,8] a, float[N,3,8,8] b) => (float[N,3,8,8] y) '
        "{ y = Add (a, b) }"
    )
    with pytest.raises(InputError, match=r"no image input, or several \(its inputs: a, b\)"):
        with_pixel_input(Graph(ir.from_proto(two), "two"), MEAN, STD)


def test_names_of_the_model_are_left_alone() -> None:
    graph = mixed_vit().clone()
    first = next(iter(graph.nodes()))
    first.outputs[0].name = "image.float"
    pixels = with_pixel_input(graph, MEAN, STD)
    names = [v.name for node in pixels.nodes() for v in node.outputs]
    assert len(set(names)) == len(names) and "image.float.1" in names
