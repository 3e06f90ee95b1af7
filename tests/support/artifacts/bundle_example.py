"""A small bundle to write, and a way to see all that is on the disk."""

from __future__ import annotations

from qvit_deploy.artifacts.bundle import write_bundle

SITE = {"name": "blocks.0.qkv", "kind": "linear", "role": "post_layernorm", "w_bits": 4, "a_bits": 8}
SITE |= {"params": 12, "macs": 34, "score": 0.5}
SUMMARY = {"mean_w_bits": 4.0, "mean_a_bits": 8.0, "weight_bytes": 6, "float_weight_bytes": 48}
SUMMARY |= {"bitops": 1088, "float_bitops": 34816}
MANIFEST = {
    "source": {"model": "demo:vit"},
    "recipe": {"score": "lrp"},
    "sites": [SITE],
    "summary": SUMMARY,
    "verification": {"sqnr_db": 31.5},
    "preprocess": {"input_size": [3, 8, 8]},
}
FILES = {"model.onnxruntime.onnx": b"onnx", "report.html": b"<html>"}


def write(out, manifest=MANIFEST, files=FILES, force=False):
    return write_bundle(out, manifest=manifest, files=files, force=force)


def tree(folder):
    """Every path below `folder`, with contents."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
