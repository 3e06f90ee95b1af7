from __future__ import annotations

import numpy as np

from qvit_deploy.calibrate.observe import observe
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.quantize.folds.equalize import equalizable, equalize
from qvit_deploy.quantize.folds.norms import replace_constant
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import canonical, images_for, logits, mixed_vit
from tests.support.graphs.relevance_graphs import Builder


def equalized(graph: Graph, bits: int) -> tuple[Graph, dict[str, str]]:
    sites = find_sites(graph)
    readers = equalizable(graph, sites, {s.name for s in sites if s.role != "post_gelu"})
    images = images_for(graph, 6)
    seen = observe(Executor(graph), image_batches(images, 3), readers, 6, 0, {}, lambda _: None)
    return equalize(graph, readers, seen, bits)


def uneven() -> Graph:
    """A GELU whose channels have ranges from 0.01 to 10."""
    graph = mixed_vit()
    for name in ("fc1.weight", "fc1.bias"):
        array = constant(graph.initializers[name])
        assert array is not None
        replace_constant(graph.initializers[name], array * np.geomspace(0.01, 10, array.shape[-1]))
    return graph


def test_an_equalized_model_computes_the_same_and_keeps_its_sites() -> None:
    graph = uneven()
    changed, renamed = equalized(graph, 4)
    assert list(renamed.values()) == [f"{name}.equalized" for name in renamed] and renamed
    images = images_for(graph, 3, seed=99)
    before, after = logits(graph, images), logits(changed, images)
    assert np.abs(before - after).max() <= 1e-4 * np.abs(before).max()
    old, new = find_sites(graph), find_sites(changed)
    assert [(s.name, s.role, s.output) for s in old] == [(s.name, s.role, s.output) for s in new]
    assert {s.input for s in new} - {s.input for s in old} == set(renamed.values())


def test_channels_get_one_range() -> None:
    graph = uneven()
    changed, renamed = equalized(graph, 4)
    name = next(s.input for s in find_sites(graph) if s.name == "fc2")
    new, images = renamed[name], images_for(graph, 6)
    spread = []
    for g, tensor in ((graph, name), (changed, new)):
        x = Executor(g).run(Examples.images(images), fetch=[tensor])[tensor]
        deviation = x.reshape(-1, x.shape[-1]).std(0)
        spread.append(float(deviation.max() / deviation.min()))
    assert spread[1] < 0.1 * spread[0]


def test_tensors_whose_channels_are_alike_are_left_alone() -> None:
    b = Builder(0)
    x = b.op("Tanh", b.linear(b.op("Reshape", "image", b.constant([0, 4, 16])), 16, 32, "first"))
    y = b.op("ReduceMean", b.linear(x, 32, 16, "second"), b.constant([1]), keepdims=0)
    graph = canonical(b, b.linear(y, 16, 5, "head", "logits"), (1, 4, 16))
    sites = find_sites(graph)
    readers = equalizable(graph, sites, {"first", "head"})
    images = images_for(graph, 6)
    seen = observe(Executor(graph), image_batches(images, 3), readers, 6, 0, {}, lambda _: None)
    assert len(readers) == 1
    assert equalize(graph, readers, seen, 4)[1] == {}
