"""What a bundle or an ONNX file is, as one JSON-ready dictionary; needs no torch and runs nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from qvit_deploy.bundle import read_bundle
from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import constant

PRODUCTS = ("MatMul", "Gemm", "Conv")


def describe(path: Path) -> dict[str, Any]:
    """A description of the bundle or .onnx file at `path`.

    Raises:
        InputError: nothing is there, or it is neither.
        BundleError: the bundle is damaged.
    """
    if path.is_dir():
        bundle = read_bundle(path)
        manifest = bundle.manifest.model_dump(mode="json", by_alias=True)
        models = {n: describe_onnx(bundle.path_of(n)) for n in bundle.manifest.files if n.endswith(".onnx")}
        return {"type": "bundle", "manifest": manifest, "models": models}
    if not path.is_file():
        raise InputError(f"no bundle or .onnx file at {path}")
    return {"type": "onnx", **describe_onnx(path)}


def describe_onnx(path: Path) -> dict[str, Any]:
    """Inputs, outputs, operators and every matrix product with the width of its operands."""
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf and onnx_ir raise their own types on files that are not ONNX
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as ONNX: {reason}") from error
    graph = model.graph
    if not len(graph):
        raise InputError(f"{path} cannot be read as ONNX: it holds no operators")
    products = [_product(node) for node in graph if node.op_type in PRODUCTS]
    return {
        "bytes": path.stat().st_size,
        "opset": {domain or "ai.onnx": version for domain, version in sorted(model.opset_imports.items())},
        "producer": model.producer_name,
        "inputs": {v.name: _shape(v) for v in graph.inputs if not v.is_initializer()},
        "outputs": {v.name: _shape(v) for v in graph.outputs},
        "operators": dict(sorted(Counter(_op(node) for node in graph).items())),
        "products": products,
        "quantized_products": sum(p["quantized"] for p in products),
    }


def _op(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _shape(value: ir.Value) -> list[int | str | None]:
    if value.shape is None:
        return []
    return [d if isinstance(d, int) else d.value for d in value.shape]


def _product(node: ir.Node) -> dict[str, Any]:
    operands = [_operand(v) for v in list(node.inputs)[:2] if v is not None]
    return {
        "name": node.name or (node.outputs[0].name or ""),
        "op": node.op_type,
        "operands": operands,
        "quantized": all(o["bits"] is not None for o in operands),
    }


def _operand(value: ir.Value) -> dict[str, Any]:
    """Where an operand comes from and the bits its integers need (None for floating point)."""
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
        return {"tensor": value.name, "bits": None}
    codes = dequantize.inputs[0]
    stored = constant(codes)
    if stored is not None:
        return {"tensor": codes.name, "bits": _needed_bits(int(stored.min()), int(stored.max()))}
    return {"tensor": codes.name, "bits": _clipped_bits(codes)}


def _needed_bits(low: int, high: int) -> int:
    """Smallest signed width that holds the codes low..high."""
    return max(max(high, 0).bit_length(), max(-low - 1, 0).bit_length()) + 1


def _clipped_bits(codes: ir.Value) -> int:
    """Width of activation codes: that of the Clip before the QuantizeLinear, or the container's."""
    quantize = codes.producer()
    clip = quantize.inputs[0].producer() if quantize is not None and quantize.inputs[0] is not None else None
    if clip is None or clip.op_type != "Clip" or len(clip.inputs) < 3 or quantize is None:
        return 8
    scale, low, high = constant(quantize.inputs[1]), constant(clip.inputs[1]), constant(clip.inputs[2])
    if scale is None or low is None or high is None:
        return 8
    first, last = int(np.rint(low / scale)), int(np.rint(high / scale))
    # Probabilities have codes from 0 on, without a sign.
    return last.bit_length() if first == 0 else min(8, _needed_bits(first, last))
