"""Manifests for reports, from real names to hostile ones."""

from __future__ import annotations

from typing import Any

from qvit_deploy.artifacts.manifest import Manifest

VERIFIED = {
    "codes": 8_538_624,
    "code_mismatches": 0,
    "probe_images": 4,
    "images": 32,
    "worst_site": "blocks.1.mlp.fc2",
    "worst_site_error": 9.5e-6,
    "integer_products": 9,
    "expected_integer_products": 9,
    "logits_agreement": 0.96875,
    "logits_error": 0.2,
    "float_agreement": 0.875,
    "float_sqnr_db": 12.72,
    "optimized_ops": {"Add": 3, "MatMulIntegerToFloat": 9},
}
SUMMARY = {"mean_w_bits": 5.03, "mean_a_bits": 4.84, "weight_bytes": 13_500_672, "float_weight_bytes": 85_853_184}
SUMMARY |= {"bitops": 36_963_336_192, "float_bitops": 1_428_114_112_512}


def site(name: str, **changes: Any) -> dict[str, Any]:
    standard = {"kind": "linear", "role": "other", "w_bits": 4, "a_bits": 6, "params": 147_456, "macs": 9_584_640}
    return {"name": name, "score": 0.1, **standard, **changes}


def vit_sites(blocks: int) -> list[dict[str, Any]]:
    """patch_embed.proj, four sites a block, head; the head's score dwarfs the rest as it does in real models."""
    leaves = {"attn.qkv": "post_layernorm", "attn.proj": "other", "mlp.fc1": "post_layernorm", "mlp.fc2": "post_gelu"}
    inner = [
        site(f"blocks.{b}.{leaf}", role=role, w_bits=4 + 2 * (i % 3), score=0.01 * (i + 1))
        for b in range(blocks)
        for i, (leaf, role) in enumerate(leaves.items())
    ]
    return [site("patch_embed.proj", role="image", w_bits=8, score=0.01), *inner, site("head", w_bits=8, score=2.0)]


def swin_sites() -> list[dict[str, Any]]:
    """Two numbers a block, blocks of one site between the stages, attention products."""
    sites = [site("patch_embed.proj", kind="conv", role="image")]
    for layer in range(2):
        if layer:
            sites.append(site(f"layers.{layer}.downsample.reduction", role="post_layernorm"))
        for block in range(2):
            path = f"layers.{layer}.blocks.{block}"
            sites.append(site(f"{path}.attn.qkv", role="post_layernorm", score=0.3))
            sites.append(site(f"{path}.attn.qk", kind="matmul_qk", role="query", params=0))
            sites.append(site(f"{path}.attn.av", kind="matmul_av", role="post_softmax", params=0))
            sites.append(site(f"{path}.mlp.fc1", role="post_layernorm", score=0.2))
    return [*sites, site("head.fc")]


def manifest(sites: list[dict[str, Any]], **changes: Any) -> Manifest:
    facts = {
        "source": {"model": "demo:vit", "preprocess": {"input_size": [3, 112, 112], "mean": [0.5], "std": [0.5]}},
        "recipe": {"attention": "float", "bits": [4, 6, 8], "mean_bits": 5.0, "uniform": None},
        "calibration": {"images": 64, "sha256": "5" * 64},
        "relevance": {"method": "lrp:deep-taylor", "images": 32, "firings": {"norm": 25, "gate": 0}},
        "sites": sites,
        "summary": SUMMARY,
        "verification": VERIFIED,
        "files": {"model.onnxruntime.onnx": {"bytes": 22_229_902, "sha256": "a" * 64}},
    }
    return Manifest.model_validate({**facts, **changes})
