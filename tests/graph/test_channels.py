from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qvit_deploy.graph.channels import norm_groups
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from tests.support.graphs.quantizable_graphs import canonical, mixed_vit
from tests.support.graphs.relevance_graphs import Builder

WIDTH = 16
Body = Callable[[Builder, str, str], str]
"""(builder, tokens [batch, 4, 16], their norm) -> the output."""


def groups(body: Body) -> list[set[str]]:
    """The sites of every group, in a graph whose one LayerNorm is read as `body` says."""
    b = Builder()
    x = b.op("Reshape", "image", b.constant([0, 4, WIDTH]))
    norm = b.layer_norm(x, WIDTH, "norm")
    graph = canonical(b, body(b, x, norm), (1, 4, WIDTH))
    return [set(g.sites) for g in norm_groups(graph, find_sites(graph))]


def fc(b: Builder, x: str, name: str = "fc") -> str:
    return b.linear(x, WIDTH, WIDTH, name)


def head(b: Builder, x: str) -> str:
    return b.linear(b.op("ReduceMean", x, b.constant([1]), keepdims=0), WIDTH, 5, "head", "logits")


def test_all_readers_of_one_norm_are_one_group() -> None:
    graph = mixed_vit()
    groups = {g.norm: set(g.sites) for g in norm_groups(graph, find_sites(graph))}
    assert list(groups.values()) == [{"attn.q", "attn.k", "attn.v"}, {"fc1"}, {"head"}]


def roll(b: Builder, x: str) -> str:
    ends = [b.op("Slice", x, *(b.constant([v]) for v in cut)) for cut in ((1, 9, 1), (0, 1, 1))]
    return b.op("Concat", *ends, axis=1)


def windows(b: Builder, x: str) -> str:
    cut = b.op("Reshape", x, b.constant([0, 2, 2, WIDTH]))
    return b.op("Reshape", b.op("Transpose", cut, perm=[0, 2, 1, 3]), b.constant([-1, 2, WIDTH]))


def token(b: Builder, x: str) -> str:
    return b.op("Unsqueeze", b.op("Gather", x, b.constant(np.int64(0)), axis=1), b.constant([1]))


@pytest.mark.parametrize("move", [roll, windows, token])
def test_moving_tokens_around_keeps_the_channels(move: Callable[[Builder, str], str]) -> None:
    def body(b: Builder, x: str, norm: str) -> str:
        moved = fc(b, move(b, norm))
        return head(b, b.op("Reshape", moved, b.constant([0, -1, WIDTH])) if move is windows else moved)

    assert groups(body) == [{"fc"}]


def residual(b: Builder, x: str, norm: str) -> str:
    return head(b, b.op("Add", norm, fc(b, norm)))


def pooling(b: Builder, x: str, norm: str) -> str:
    return head(b, norm)


def padding(b: Builder, x: str, norm: str) -> str:
    wide = b.op("Pad", norm, b.constant([0, 0, 0, 0, 2, 0]))
    return head(b, fc(b, wide))


def channels_moved(b: Builder, x: str, norm: str) -> str:
    swapped = b.op("Transpose", b.op("Reshape", norm, b.constant([0, 4, 4, 4])), perm=[0, 1, 3, 2])
    return head(b, fc(b, b.op("Reshape", swapped, b.constant([0, 4, WIDTH]))))


def channels_merged(b: Builder, x: str, norm: str) -> str:
    return b.linear(b.op("Reshape", norm, b.constant([0, 4 * WIDTH])), 4 * WIDTH, 5, "head", "logits")


def channels_cut(b: Builder, x: str, norm: str) -> str:
    half = b.op("Slice", norm, b.constant([0]), b.constant([WIDTH // 2]), b.constant([2]))
    return head(b, fc(b, b.op("Concat", half, half, axis=2)))


def other_tokens_after(b: Builder, x: str, norm: str) -> str:
    return head(b, fc(b, b.op("Concat", norm, x, axis=1)))


def other_tokens_before(b: Builder, x: str, norm: str) -> str:
    return head(b, fc(b, b.op("Concat", x, norm, axis=1)))


def also_the_output(b: Builder, x: str, norm: str) -> str:
    fc(b, norm)
    return b.op("Identity", norm)


def attention_product(b: Builder, x: str, norm: str) -> str:
    own = b.op("Softmax", b.op("MatMul", norm, b.op("Transpose", x, perm=[0, 2, 1])), axis=-1)
    return head(b, b.op("MatMul", own, fc(b, norm)))


@pytest.mark.parametrize(
    "body",
    [
        residual, pooling, padding, channels_moved, channels_merged, channels_cut, other_tokens_after,
        other_tokens_before, also_the_output, attention_product,
    ],
)  # fmt: skip
def test_a_norm_whose_channels_something_else_sees_is_left_out(body: Body) -> None:
    assert groups(body) == []


def test_two_norms_with_the_same_parameters_are_two_groups() -> None:
    def body(b: Builder, x: str, norm: str) -> str:
        again = b.op("LayerNormalization", fc(b, norm), "norm.weight", "norm.bias", name="again", axis=-1)
        return head(b, fc(b, again, "second"))

    assert groups(body) == [{"fc"}, {"second"}]


def test_swin_s_windows_and_merged_patches(tiny_swin: Graph) -> None:
    groups = norm_groups(tiny_swin, find_sites(tiny_swin))
    read = [site for g in groups for site in g.sites]
    blocks = [f"layers.{i}.blocks.{j}." for i in (0, 1) for j in (0, 1)]
    expected = {b + s for b in blocks for s in ("attn.qkv", "mlp.fc1")} | {"layers.1.downsample.reduction"}
    assert set(read) == expected and len(read) == len(expected)
