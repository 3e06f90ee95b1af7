"""Components are found in the graphs of all families, float and quantized."""

from __future__ import annotations

import pytest
import timm
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend.torch_module import from_torch
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.patching.components import find_components
from tests.support.graphs.relevance_graphs import Builder


def _kinds(graph: Graph) -> list[str]:
    return [c.kind for c in find_components(graph)]


def test_a_vit_has_four_per_block_and_the_output(small_vit: Graph) -> None:
    components = find_components(small_vit)
    assert [c.kind for c in components] == [*["residual", "head", "attention", "mlp"] * 2, "residual"]
    assert [components[i].tensor for i in (0, 1, 3)] == ["embedded", "blocks.0.mixed", "blocks.0.mlp"]
    assert components[4].tensor == "blocks.0.out" and components[4].name == "blocks.1 residual"
    assert components[-1].name == "output residual" and components[-1].block == 2


SMALL = {
    "swinv2": (
        "swinv2_tiny_window8_256", dict(img_size=32, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4))
    ),
    "beit": ("beit_base_patch16_224", dict(img_size=32, embed_dim=24, depth=2, num_heads=2)),
    "eva": ("eva02_tiny_patch14_224", dict(img_size=28, embed_dim=24, depth=2, num_heads=2)),
    "cait": ("cait_xxs24_224", dict(img_size=32, embed_dim=24, depth=2, num_heads=2)),
}  # fmt: skip


@pytest.mark.parametrize("family", [pytest.param(f, marks=[] if f == "swinv2" else pytest.mark.slow) for f in SMALL])
def test_families(family: str) -> None:
    """Post-norm, LayerScale, rotary embeddings, gated MLPs, talking heads, class attention."""
    name, size = SMALL[family]
    torch.manual_seed(0)
    graph = from_torch(timm.create_model(name, num_classes=4, **size).eval(), (3, *[size["img_size"]] * 2), family)
    kinds = _kinds(graph)
    # Class attention: the first such block starts from a constant token, so only its MLP and the second block's
    # attention are skips around something that depends on the image.
    blocks = {"swinv2": 4, "beit": 2, "eva": 2, "cait": 2 + 1}[family]
    assert kinds.count("attention") == kinds.count("head") == blocks
    assert kinds.count("residual") == blocks + 1
    tensors = {c.tensor for c in find_components(graph)}
    assert len(tensors) == len(kinds)
    with torch.no_grad():
        Executor(graph).run(Examples.images(torch.randn(2, *graph.interface.image_size)), fetch=sorted(tensors))


def test_parallel_branches(builder: Builder) -> None:
    """x + attention(x) + mlp(x): the second sum's trunk is the first sum, from which the MLP does not come."""
    b = builder
    x = b.op("MatMul", b.op("Reshape", "image", b.constant([0, 4, 6])), b.normal(6, 8), name="x")
    k = b.op("Transpose", b.linear(x, 8, 8, "a.k"), perm=[0, 2, 1])
    pattern = b.op("Softmax", b.op("MatMul", b.linear(x, 8, 8, "a.q"), k), axis=-1)
    first = b.op("Add", x, b.linear(b.op("MatMul", pattern, b.linear(x, 8, 8, "a.v")), 8, 8, "a.proj", "attended"))
    out = b.op("Add", first, b.linear(b.op("Gelu", b.linear(x, 8, 8, "a.fc1")), 8, 8, "a.fc2", "fed"), name="out")
    graph = b.graph(b.linear(b.op("ReduceMean", out, b.constant([1]), keepdims=0), 8, 3, "head"), (4, 2, 3))
    tensors = [(c.kind, c.tensor) for c in find_components(graph)]
    assert tensors == [("residual", "x"), ("attention", "attended"), ("mlp", "fed"), ("residual", "out")]


def test_a_graph_without_attention(builder: Builder) -> None:
    x = builder.linear(builder.op("Flatten", "image"), 12, 4, "fc1")
    graph = builder.graph(builder.linear(builder.op("Add", x, builder.op("Gelu", x)), 4, 3, "fc2"), (3, 2, 2))
    with pytest.raises(InputError, match="no attention with a skip connection"):
        find_components(graph)
