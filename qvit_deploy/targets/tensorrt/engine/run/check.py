"""Checks after a build on a device that an engine computes what its ONNX file does, on the intended kernels.

Fused kernels have been wrong without an error before (attention on sm_120, 2026), so the engine's logits are compared
with ONNX Runtime's for the same file. Where they differ, the activation codes of all quantizers show where it begins.
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
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.op_traits import PRODUCTS
from qvit_deploy.targets.batches import in_batches
from qvit_deploy.targets.onnxruntime import runtime as onnxruntime
from qvit_deploy.tasks.metrics import sqnr_db
from qvit_deploy.tasks.task import Task

_STANDARD = ("", "ai.onnx")
LEAST_DB = 15.0
"""Least SQNR, decibels, of the engine's logits against ONNX Runtime's. Codes that round differently cost a few decibels
of the thirty or so that the two float types give; a wrong kernel leaves none."""


class Runner(Protocol):
    """What the check needs of `targets.tensorrt.engine.run.engine_runner.EngineRunner`."""

    def run(self, images: Examples[np.ndarray], /) -> list[np.ndarray]:
        """Returns the outputs for `images`, float32 [n, C, H, W], each [n, ...]."""


@dataclass(frozen=True)
class EngineCheck:
    """How the engine's outputs compare with ONNX Runtime's on the CPU, for the same file and images.

    Attributes:
        task: name of what the outputs mean.
        images: how many were compared.
        agreement: share of images with the same top-1; None where nothing is decided.
    """

    task: str
    images: int
    sqnr_db: float
    agreement: float | None

    def as_dict(self) -> dict[str, object]:
        """Converts to JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Products:
    """The nodes of an emitted file that TensorRT should not run in floating point.

    Attributes:
        quantized: by site, the name of its node, for products of two quantized operands and for packed operators.
        attention: sites of products whose operands are both activations; they must be fused.
        plugins: sites of packed operators.
    """

    quantized: dict[str, str]
    attention: tuple[str, ...]
    plugins: tuple[str, ...]


def check_outputs(runner: Runner, model: bytes, images: Examples[np.ndarray], batch: int, task: Task) -> EngineCheck:
    """Runs full batches of `images` through the engine and ONNX Runtime.

    Raises:
        CheckError: the logits differ by more than rounding explains.
    """
    session = onnxruntime.session(model)
    compared = images[: len(images) // batch * batch]
    expected = onnxruntime.outputs(session, compared, batch)
    values = zip(expected, in_batches(compared, batch, runner.run), strict=True)
    outputs = {name: value.astype(expected[name].dtype) for name, value in values}
    task.require_finite(outputs, "the engine")
    check = EngineCheck(task.name, len(compared), task.sqnr_db(expected, outputs), task.agreement(expected, outputs))
    if check.sqnr_db < LEAST_DB:
        agreement = "" if check.agreement is None else f", {task.words.same} agrees on {check.agreement:.0%}"
        raise CheckError(
            f"the engine's {task.words.signal} are {check.sqnr_db:.1f} dB from ONNX Runtime's of the same file "
            f"({LEAST_DB:g} dB is the least){agreement}"
        )
    return check


def expose_codes(model: bytes) -> tuple[bytes, list[str]]:
    """Makes outputs of the codes of every quantizer, and of the results of packed operators, which quantize inside.

    Returns:
        The file, and the names of the new outputs in the order they are computed.
    """
    proto = onnx.load_from_string(model)
    codes = [n.output[0] for n in proto.graph.node if n.op_type == "QuantizeLinear" or n.domain not in _STANDARD]
    known = {v.name: v for v in proto.graph.value_info}
    proto.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in codes)
    return proto.SerializeToString(), codes


def first_difference(
    names: Sequence[str], expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]
) -> str | None:
    """Returns the first of `names` whose tensor is not finite or has an SQNR below `LEAST_DB`; None if none does."""
    for name in names:
        reference, tensor = expected[name].astype(np.float64), actual[name].astype(np.float64)
        same_shape = reference.shape == tensor.shape
        if not same_shape or not np.isfinite(tensor).all() or sqnr_db(reference, tensor) < LEAST_DB:
            return name
    return None


def products(path: Path) -> Products:
    """Returns the sites of the file at `path` that should run on integers, in a fused attention or in a plugin."""
    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    pairs = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    quantized, attention, plugins = {}, [], []
    for node in graph.node:
        if node.domain not in _STANDARD:
            site = site_of_call(node.name)
            quantized[site] = node.name
            plugins.append(site)
        elif node.op_type in PRODUCTS and all(name in pairs for name in node.input[:2]):
            codes = pairs[node.input[1]]
            site = site_of_weight_codes(codes) if codes in constants else node.name
            quantized[site] = node.name
            if codes not in constants:
                attention.append(site)
    return Products(quantized, tuple(attention), tuple(plugins))
