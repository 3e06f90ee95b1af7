from __future__ import annotations

import pytest

from qvit_deploy.report.labels import LONGEST, Label, printable, runs, site_labels


@pytest.mark.parametrize(
    ("name", "block", "leaf"),
    [
        ("blocks.3.attn.qkv", "blocks.3", "qkv"),
        ("layers.2.blocks.0.mlp.fc1", "layers.2.blocks.0", "fc1"),
        ("layers.1.downsample.reduction", "layers.1", "reduction"),
        ("/encoder/layer.7/attention/query", "encoder.layer.7", "query"),
        ("patch_embed.proj", "", "patch_embed.proj"),
        ("head", "", "head"),
        ("features.0.0", "features.0", "0"),
        ("onnx::MatMul_1234", "", "onnx::MatMul_1234"),
        ("", "", ""),
    ],
)
def test_a_name_is_cut_after_its_last_number(name: str, block: str, leaf: str) -> None:
    assert site_labels([name]) == [Label(block, leaf)]


def test_a_leaf_that_a_block_has_twice_keeps_its_path() -> None:
    labels = site_labels(["layer.0.attention.dense", "layer.0.dense", "layer.0.query", "layer.1.dense"])
    assert [label.leaf for label in labels] == ["attention.dense", "dense", "query", "dense"]


def test_long_leaves_keep_both_ends() -> None:
    (label,) = site_labels(["model.backbone.patch_embedding.projection"])
    assert len(label.leaf) <= LONGEST
    assert label.leaf.startswith("model") and label.leaf.endswith("ojection")


def test_numbers_and_pattern_of_a_block() -> None:
    assert Label("layers.2.blocks.0", "fc1").number == "2.0"
    assert Label("layers.2.blocks.0", "fc1").pattern == "layers.#.blocks.#"


def test_runs_are_neighbours_of_one_block_and_single_sites_outside() -> None:
    labels = site_labels(["stem", "neck", "blocks.0.a", "blocks.0.b", "blocks.1.a", "head"])
    assert [(first, last) for _, first, last in runs(labels)] == [(0, 0), (1, 1), (2, 3), (4, 4), (5, 5)]


def test_what_cannot_be_seen_is_shown() -> None:
    assert printable("a\x00b\u202ec\nd é層") == "a�b�c�d é層"
