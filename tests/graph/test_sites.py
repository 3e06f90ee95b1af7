from __future__ import annotations

import numpy as np

from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.sites import SMALLEST_REDUCTION, Site, ends, find_sites, float_layers
from tests.support.graphs.quantizable_graphs import canonical, mixed_vit
from tests.support.graphs.relevance_graphs import Builder
from tests.support.graphs.several_outputs import two_heads


def sites_of(graph: Graph) -> dict[str, Site]:
    sites = find_sites(graph)
    assert len({s.name for s in sites}) == len(sites)
    return {s.name: s for s in sites}


def test_names_kinds_and_roles() -> None:
    sites = sites_of(mixed_vit())
    assert {name: (s.kind, s.role) for name, s in sites.items()} == {
        "stem": ("conv", "image"),
        "patch": ("linear", "post_gelu"),
        "attn.q": ("linear", "post_layernorm"),
        "attn.k": ("linear", "post_layernorm"),
        "attn.v": ("linear", "post_layernorm"),
        "attn.qk": ("matmul_qk", "query"),
        "attn.av": ("matmul_av", "post_softmax"),
        "attn.proj": ("linear", "other"),
        "fc1": ("linear", "post_layernorm"),
        "fc2": ("linear", "post_gelu"),
        "head": ("linear", "post_layernorm"),
    }


def test_what_a_site_reads_and_writes() -> None:
    graph = mixed_vit()
    sites = sites_of(graph)
    nodes = {n.outputs[0].name: n for n in graph.nodes()}
    for site in sites.values():
        operands = [v.name for v in nodes[site.product].inputs if v is not None]
        assert operands[:2] == [site.input, site.second or site.weight]
        if site.kind == "linear":
            assert nodes[site.output].op_type == "Add"
            assert [v.name for v in nodes[site.output].inputs if v is not None] == [site.product, site.bias]
        else:
            assert site.output == site.product
        weight = constant(graph.initializers[site.weight]) if site.weight else np.empty(0)
        assert weight is not None and site.params == weight.size
    scaled = nodes[sites["attn.qk"].input].inputs[0]  # query times the scale, which comes first
    assert scaled is not None and scaled.name == "q_heads_out"
    assert (sites["attn.qk"].second, sites["attn.av"].second) == ("k_heads_out", "v_heads_out")


def test_linears_without_a_bias() -> None:
    sites = sites_of(mixed_vit(head_bias=False, qkv_bias=False))
    assert sites["attn.k"].bias is None and sites["attn.k"].output == sites["attn.k"].product
    assert sites["head"].bias is None and sites["attn.q"].bias is not None


def test_timm_s_vit(tiny_vit: Graph) -> None:
    sites = sites_of(tiny_vit)
    assert list(sites)[:4] == ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.qk", "blocks.0.attn.av"]
    assert list(sites)[-1] == "head" and len(sites) == 2 + 2 * 6
    assert sites["patch_embed.proj"].role == "image" and sites["patch_embed.proj"].kind == "linear"
    assert sites["blocks.1.mlp.fc2"].role == "post_gelu" and sites["head"].role == "post_layernorm"


def test_timm_s_swin(tiny_swin: Graph) -> None:
    sites = sites_of(tiny_swin)
    assert len(sites) == 2 + 4 * 6 + 1
    assert sites["layers.1.downsample.reduction"].bias is None
    assert sites["layers.0.blocks.1.attn.qkv"].role == "post_layernorm"  # through the roll and the windows
    assert {s.kind for s in sites.values()} == {"linear", "matmul_qk", "matmul_av"}


def test_reductions_too_short_for_any_integer_kernel_are_no_sites() -> None:
    """CaiT's talking heads mix 4 heads with a 4 x 4 matrix; a 3-channel 2 x 2 convolution sums 12 terms."""
    b = Builder()
    x = b.op("Conv", "image", b.normal(16, 3, 2, 2, name="stem.weight"), kernel_shape=[2, 2], pads=[1, 1, 0, 0])
    x = b.op("Transpose", b.op("Reshape", x, b.constant([0, 16, 64])), perm=[0, 2, 1])
    x = b.linear(x, 16, SMALLEST_REDUCTION - 1, "narrow")
    x = b.linear(x, SMALLEST_REDUCTION - 1, 16, "mix")
    pooled = b.op("ReduceMean", x, b.constant([1]), keepdims=0)
    assert set(sites_of(canonical(b, b.linear(pooled, 16, 5, "head", "logits"), (3, 8, 8)))) == {"narrow", "head"}


def test_one_weight_used_twice_makes_two_sites() -> None:
    b = Builder()
    x = b.op("Reshape", "image", b.constant([0, 4, 16]))
    weight = b.normal(16, 16, scale=0.25, name="shared.weight")
    x = b.op("Gelu", b.op("MatMul", b.op("Gelu", b.op("MatMul", x, weight)), weight))
    pooled = b.op("ReduceMean", x, b.constant([1]), keepdims=0)
    sites = sites_of(canonical(b, b.linear(pooled, 16, 5, "head", "logits"), (1, 4, 16)))
    assert len(sites) == 3 and len({s.weight for s in sites.values()}) == 3


def test_products_of_activations_that_are_no_attention_are_no_sites() -> None:
    b = Builder()
    x = b.op("Reshape", "image", b.constant([0, 4, 16]))
    gram = b.op("MatMul", x, b.op("Transpose", x, perm=[0, 2, 1]))
    pooled = b.op("ReduceMean", b.op("MatMul", gram, x), b.constant([1]), keepdims=0)
    assert set(sites_of(canonical(b, b.linear(pooled, 16, 5, "head", "logits"), (1, 4, 16)))) == {"head"}


def test_layers_with_weights_that_are_no_sites_are_listed() -> None:
    b = Builder()
    maps = b.op("Conv", "image", b.normal(8, 3, 3, 3, name="stem.weight"))
    up = b.op(
        "ConvTranspose", maps, b.normal(8, 4, 2, 2, name="up.weight"), b.normal(4, name="up.bias"), strides=[2, 2]
    )
    few = b.op("Conv", up, b.normal(4, 1, 3, 3, name="depthwise.weight"), group=4)  # sums 9 terms
    mean = b.op("GlobalAveragePool", b.op("Mul", few, b.normal(4, 1, 1, name="gain")))
    graph = canonical(b, b.op("Flatten", mean, name="logits"), (3, 8, 8), "up")
    sites = find_sites(graph)
    assert [site.name for site in sites] == ["stem"]
    assert [(layer.name, layer.operator, layer.params) for layer in float_layers(graph, sites)] == [
        ("up", "ConvTranspose", 8 * 4 * 4),
        ("depthwise", "Conv", 4 * 9),
    ]
    assert float_layers(mixed_vit(), find_sites(mixed_vit())) == ()


def test_convolutions_of_sequences_and_videos_stay_in_float() -> None:
    """Targets quantize those of images; plans hold kernels [out, in, height, width]."""
    for sizes in ([64], [2, 4, 8]):
        b = Builder()
        x = b.op("Reshape", "image", b.constant([0, 3, *sizes]))
        y = b.op("Conv", x, b.normal(8, 3, *[2] * len(sizes), name="video.weight"))
        graph = canonical(b, b.op("Flatten", y, name="logits"), (3, 8, 8), "video")
        assert find_sites(graph) == () and [layer.name for layer in float_layers(graph, ())] == ["video"]


def test_the_ends_are_the_first_site_with_weights_and_the_last_of_each_output() -> None:
    assert ends(mixed_vit()) == ("stem", "head")
    assert ends(two_heads()) == ("trunk.0", "class_head", "mask_head")
    assert ends(two_heads(with_best=True)) == ("trunk.0", "class_head", "mask_head", "best_head")
    assert ends(two_heads(only="logits")) == ("trunk.0", "class_head")


def test_an_output_inside_of_the_trunk_has_its_last_site_too() -> None:
    b = Builder()
    x = b.linear(b.linear(b.op("Reshape", "image", b.constant([0, 4, 192])), 192, 16, "a"), 16, 16, "b")
    b.linear(b.linear(x, 16, 16, "c"), 16, 16, "d", "y")
    graph = b.graph("y", (3, 16, 16))
    graph.model.graph.outputs.append(next(v for n in graph.nodes() for v in n.outputs if v.name == x))
    assert ends(graph) == ("a", "d", "b")


def test_too_few_sites_to_leave_any_have_no_ends() -> None:
    b = Builder()
    x = b.linear(b.op("Reshape", "image", b.constant([0, 4, 192])), 192, 16, "a")
    b.linear(x, 16, 16, "b", "y")
    assert ends(b.graph("y", (3, 16, 16))) == ()
