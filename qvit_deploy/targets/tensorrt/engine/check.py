"""Does an engine compute what its ONNX file does, on the kernels it was emitted for? Asked after a build on a device.

Fused kernels have been wrong without an error before (attention on sm_120, 2026), so the engine's logits are compared
with ONNX Runtime's of the same file. Where they differ, the activation codes of all quantizers say where it began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx

from qvit_deploy.emit.names import site_of_call, site_of_weight_codes
from qvit_deploy.errors import CheckError
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.tasks.metrics import agreement, sqnr_db

_STANDARD = ("", "ai.onnx")
LEAST_DB = 15.0
"""Least SQNR of the engine's logits against ONNX Runtime's. Rounded codes that fall the other way cost a few decibels
of the thirty or so that the two float types leave; a kernel that is wrong leaves none."""


class Runner(Protocol):
    """What the check needs of `engine_runtime.EngineRunner`."""

    def run(self, images: np.ndarray, /) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class EngineCheck:
    """The engine's logits against ONNX Runtime's on the CPU, same file, same images."""

    images: int
    sqnr_db: float
    agreement: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Products:
    """The nodes of an emitted file that TensorRT should run on something better than floats.

    Attributes:
        quantized: site -> name of its node, for products of two quantized operands.
        attention: those of them whose operands are both activations: they must be fused.
        plugins: sites of nodes with operators of our own.
    """

    quantized: dict[str, str]
    attention: tuple[str, ...]
    plugins: tuple[str, ...]


def check_logits(runner: Runner, model: bytes, images: np.ndarray, at_once: int) -> EngineCheck:
    """Runs `images` float32 [n, C, H, W] through both, `at_once` at a time.

    Raises:
        CheckError: they differ by more than rounding explains.
    """
    session = target.session(model)
    whole = images[: len(images) // at_once * at_once]
    expected = target.run(session, whole, at_once)[0]
    got = np.concatenate([runner.run(whole[i : i + at_once])[0] for i in range(0, len(whole), at_once)])
    found = EngineCheck(len(whole), sqnr_db(expected, got.astype(np.float32)), agreement(expected, got))
    if not np.isfinite(got).all() or found.sqnr_db < LEAST_DB:
        raise CheckError(
            f"the engine's logits are {found.sqnr_db:.1f} dB from ONNX Runtime's of the same file ({LEAST_DB:g} dB is "
            f"the least), top-1 agrees on {found.agreement:.0%}"
        )
    return found


def probed(model: bytes) -> tuple[bytes, list[str]]:
    """(the file with the codes of every quantizer as outputs too, and what operators of our own make, which quantize
    inside; their names in the order they are computed)."""
    proto = onnx.load_from_string(model)
    codes = [n.output[0] for n in proto.graph.node if n.op_type == "QuantizeLinear" or n.domain not in _STANDARD]
    known = {v.name: v for v in proto.graph.value_info}
    proto.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in codes)
    return proto.SerializeToString(), codes


def first_difference(
    names: Sequence[str], expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]
) -> str | None:
    """The first of `names` that is not finite or less than `LEAST_DB` from what was expected; None if none is."""
    for name in names:
        ours, theirs = expected[name].astype(np.float64), got[name].astype(np.float64)
        if ours.shape != theirs.shape or not np.isfinite(theirs).all() or sqnr_db(ours, theirs) < LEAST_DB:
            return name
    return None


def products(path: Path) -> Products:
    """What of the file at `path` should run on integers, in a fused attention or in a plugin."""
    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    pairs = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    quantized, attention, plugins = {}, [], []
    for node in graph.node:
        if node.domain not in _STANDARD:
            site = site_of_call(node.name)
            quantized[site] = node.name
            plugins.append(site)
        elif node.op_type in ("MatMul", "Conv") and all(name in pairs for name in node.input[:2]):
            codes = pairs[node.input[1]]
            site = site_of_weight_codes(codes) if codes in constants else node.name
            quantized[site] = node.name
            if codes not in constants:
                attention.append(site)
    return Products(quantized, tuple(attention), tuple(plugins))
