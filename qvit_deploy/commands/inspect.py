"""One run of `qvit-deploy inspect`: describes a bundle, an ONNX file or an engine as JSON; needs no torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.allocate.cost import packed_bytes, storage_bits
from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.artifacts.engine_record import read_engine
from qvit_deploy.artifacts.opening import EngineFile, artifact_at
from qvit_deploy.emit.local_functions import DOMAIN, writes_codes
from qvit_deploy.errors import InputError, reading
from qvit_deploy.frontend.budget import bounded_memory, require_few_nodes
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.op_traits import QUANTIZERS
from qvit_deploy.lint import OLDEST_TENSORRT, SEVERITIES, STRICTEST, LintTarget, findings, view_of
from qvit_deploy.lint.view import Operand, Product, View, integer
from qvit_deploy.targets.registry import REFERENCE, target_of_file
from qvit_deploy.targets.target import AnyTarget


def describe(path: Path, target: AnyTarget | None = None, version: tuple[int, int] = OLDEST_TENSORRT) -> dict[str, Any]:
    """Returns a description of the bundle or .onnx file at `path` with its lint findings, or an engine's record.

    Args:
        target: lint for it, and describe of a bundle's files the one that goes to it: its own, or else that of
            `REFERENCE`, which any other target can be given. None for all files, each linted for the target that fits
            it best (`linted_for`).
        version: (major, minor) of TensorRT, where files are linted for that.

    Raises:
        InputError: nothing is there, it is none of these, or an engine was changed since it was built.
        BundleError: the bundle is damaged.
    """
    artifact, rules = artifact_at(path), None if target is None else target.linted_for
    if isinstance(artifact, Bundle):
        manifest = artifact.manifest.model_dump(mode="json", by_alias=True)
        names = [n for n in artifact.manifest.files if n.endswith(".onnx")]
        if target is not None:
            names = [target.file if target.file in names else REFERENCE.file]
        models = {n: describe_onnx(artifact.path_of(n), rules, version) for n in names}
        return {"type": "bundle", "manifest": manifest, "models": models}
    if isinstance(artifact, EngineFile):
        return {"type": "engine", **read_engine(path).model_dump(mode="json", by_alias=True)}
    return {"type": "onnx", **describe_onnx(path, rules, version)}


def describe_onnx(path: Path, rules: LintTarget | None, version: tuple[int, int]) -> dict[str, Any]:
    """Returns inputs, outputs, operators, every matrix product with the width of its operands, and lint findings.

    Args:
        rules: whose lint rules; None for those of `linted_for`.

    Raises:
        InputError: the file is not ONNX.
    """
    with bounded_memory(path), reading(f"{path} cannot be read as ONNX"):
        # Weights are not looked for beside the file, as commands that run it do: that they lie elsewhere is a finding.
        proto = onnx.load(path, load_external_data=False)
        require_few_nodes(proto, str(path))
        model = ir.from_proto(proto)
        # Absolute: onnx_ir guards against weights outside the model's folder only when it knows the folder.
        ir.external_data.set_base_dir(model.graph, path.resolve().parent)
        if not len(model.graph):
            raise InputError(f"{path} cannot be read as ONNX: it holds no operators")
        return _describe(path, model, rules, version)


def _describe(path: Path, model: ir.Model, rules: LintTarget | None, version: tuple[int, int]) -> dict[str, Any]:
    owner = target_of_file(path.name)
    if owner is not None:
        model = owner.as_run(model)
    graph = model.graph
    view = view_of(model, rules or linted_for(path.name, model), version)
    operators = Counter(_op(node) for node in view.nodes)
    products = [_product(view, p) for p in view.products]
    products += [_packed(view, n) for n in view.custom() if n.domain == DOMAIN and not writes_codes(n)]
    lint_findings = findings(view)
    return {
        "bytes": path.stat().st_size,
        "opset": {domain or "ai.onnx": version for domain, version in sorted(model.opset_imports.items())},
        "producer": " ".join(filter(None, [model.producer_name, model.producer_version])),
        "inputs": {v.name: _shape(v) for v in graph.inputs if not v.is_initializer()},
        "input_types": {v.name: v.dtype.name.lower() for v in graph.inputs if v.dtype and not v.is_initializer()},
        "outputs": {v.name: _shape(v) for v in graph.outputs},
        "operators": dict(sorted(operators.items())),
        "quantizers": {op: operators[op] for op in QUANTIZERS},
        "products": products,
        "quantized_products": sum(p["quantized"] for p in products),
        "weight_bytes": sum(o["stored_bytes"] for p in products for o in p["operands"] if o["weight"]),
        "packed_weight_bytes": sum(o["packed_bytes"] for p in products for o in p["operands"] if o["weight"]),
        "lint": {
            "profile": view.target,
            "version": "{}.{}".format(*version) if view.versioned else None,
            "counts": {s: sum(f.severity == s for f in lint_findings) for s in SEVERITIES},
            "findings": [asdict(f) for f in lint_findings],
        },
    }


def linted_for(name: str, model: ir.Model) -> LintTarget:
    """Returns the lint target of a file where the user names none.

    It is that of its name in a bundle, else TensorRT for a file with Q/DQ pairs, and ONNX Runtime for the rest.
    """
    owner = target_of_file(name)
    if owner is not None:
        return owner.linted_for
    return STRICTEST if any(n.op_type in QUANTIZERS for n in model.graph.all_nodes()) else REFERENCE.linted_for


def _op(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _shape(value: ir.Value) -> list[int | str | None]:
    if value.shape is None:
        return []
    return [d if isinstance(d, int) else d.value for d in value.shape]


def _product(view: View, product: Product) -> dict[str, Any]:
    operands = [_operand(view, o) for o in product.operands if o.value is not None]
    return {
        "name": product.node.name or (product.node.outputs[0].name or ""),
        "op": product.node.op_type,
        "operands": operands,
        "quantized": len(operands) > 1 and all(o["bits"] is not None for o in operands),
    }


def _packed(view: View, node: ir.Node) -> dict[str, Any]:
    """Describes a node that one of our plugins runs, as `_product` describes others.

    It is a linear with packed weights (`targets.tensorrt.packed.linear`), or a softmax of scores and its product with
    the values (`targets.tensorrt.packed.attention`).
    """
    bits, weight = node.op_type.removeprefix("QLinearW")[:1], constant(node.inputs[1])
    linear, stored = bits.isdigit(), 0 if weight is None else weight.size
    first = integer(node, "x_bits" if linear else "bits", 8), False, 0
    second = int(bits) if linear else integer(node, "v_bits", 8), linear, stored
    operands = [
        {"tensor": v.name if v is not None else "", "bits": b, "weight": w, "stored_bytes": n, "packed_bytes": n}
        for v, (b, w, n) in zip(node.inputs, (first, second), strict=False)
    ]
    return {"name": node.name or "", "op": _op(node), "operands": operands, "quantized": True}


def _operand(view: View, operand: Operand) -> dict[str, Any]:
    """Describes an operand: its tensor, the bits of its codes, and a weight's bytes in the file and packed.

    Bits are None for floating point.
    """
    value = operand.quantizer.value if operand.quantizer is not None else operand.value
    assert value is not None
    bits = None if operand.quantizer is None else _bits(view, value)
    tensor = None if operand.of_data else view.tensor(value)
    stored = 0 if tensor is None else packed_bytes(storage_bits(tensor.size, _container(tensor.dtype)))
    packed = stored if bits is None or tensor is None else packed_bytes(storage_bits(tensor.size, bits))
    return {
        "tensor": value.name,
        "bits": bits,
        "weight": not operand.of_data,
        "stored_bytes": stored,
        "packed_bytes": packed,
    }


def _bits(view: View, codes: ir.Value) -> int:
    """Returns the width of codes: of a weight the bits they need, of an activation those of its Clip or container."""
    container = _container(codes.dtype)
    weight = view.constant(codes)
    if weight is not None:
        return min(container, _needed_bits(int(weight.min()), int(weight.max()))) if weight.size else container
    node = codes.producer()
    if node is not None and node.op_type == "Clip":  # Brevitas clips the codes
        return min(container, _clipped_bits(view, node, 1.0) or container)
    quantize = view.quantizer(node)
    clip = quantize.value.producer() if quantize is not None and quantize.value is not None else None
    if quantize is None or quantize.scale is None or quantize.scale.size != 1 or clip is None or clip.op_type != "Clip":
        return container
    return min(container, _clipped_bits(view, clip, float(quantize.scale.reshape(-1)[0])) or container)


def _container(dtype: ir.DataType | None) -> int:
    """Returns the bits of one element; 8 if the type has no width or is unknown."""
    known = dtype is not None and dtype not in (ir.DataType.STRING, ir.DataType.UNDEFINED)
    return int(dtype.bitwidth) if known and dtype is not None else 8


def _needed_bits(low: int, high: int) -> int:
    """Returns the smallest signed width that holds the codes low..high."""
    return max(max(high, 0).bit_length(), max(-low - 1, 0).bit_length()) + 1


def _clipped_bits(view: View, clip: ir.Node, scale: float) -> int | None:
    """Returns the width of the codes in the range of a Clip; None if the range is not known."""
    ends = [view.scalar(v) for v in [*clip.inputs, None, None][1:3]]
    if ends[0] is None or ends[1] is None or not np.all(np.isfinite([e / scale for e in ends if e is not None])):
        return None
    first, last = (int(np.rint(np.float32(e) / np.float32(scale))) for e in (ends[0], ends[1]))
    # Probabilities have unsigned codes, which begin at 0.
    return last.bit_length() if first == 0 else _needed_bits(first, last)
