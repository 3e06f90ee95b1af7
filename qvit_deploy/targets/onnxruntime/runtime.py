"""Sessions of ONNX Runtime, and the operators into which it fuses quantized products."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort

from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import Input, inputs_of
from qvit_deploy.targets.batches import in_batches, outputs_in_batches
from qvit_deploy.targets.processor import thread_count

INTEGER_PRODUCTS = ("MatMulIntegerToFloat", "QLinearMatMul", "MatMulInteger", "QGemm", "QLinearConv", "ConvInteger")
FLOAT_LINEARS = ("MatMul", "Gemm", "FusedMatMul")
TYPES = {
    "tensor(float)": ir.DataType.FLOAT,
    "tensor(float16)": ir.DataType.FLOAT16,
    "tensor(double)": ir.DataType.DOUBLE,
    "tensor(int64)": ir.DataType.INT64,
    "tensor(int32)": ir.DataType.INT32,
    "tensor(uint8)": ir.DataType.UINT8,
    "tensor(int8)": ir.DataType.INT8,
    "tensor(bool)": ir.DataType.BOOL,
}
"""Types of inputs as ONNX Runtime names them."""

FLOAT_CONVOLUTIONS = ("Conv", "FusedConv")


def session(
    model: Path | bytes,
    threads: int = 0,
    optimized_to: Path | None = None,
    profile_to: Path | None = None,
    without: Collection[str] = (),
) -> ort.InferenceSession:
    """Opens a CPU session with all graph optimizations.

    Args:
        threads: intra-op threads; 0 for `OMP_NUM_THREADS`, or one per core.
        optimized_to: file to which ONNX Runtime writes the optimized graph that it runs.
        profile_to: turns its profiler on; prefix of the path that `end_profiling` returns.
        without: names of optimizations that are left out.

    Raises:
        InputError: ONNX Runtime does not load the model; gives its reason.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = thread_count(threads)
    options.log_severity_level = 3
    if optimized_to is not None:
        options.optimized_model_filepath = str(optimized_to)
    if profile_to is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(
            source, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
        )
    except Exception as error:  # ONNX Runtime raises its own unrelated exception types
        reason = str(error).splitlines()[0]
        where = "model" if isinstance(model, bytes) else str(model)
        raise InputError(f"{where}: ONNX Runtime cannot load it: {reason}") from error


@dataclass(frozen=True)
class Fusion:
    """The operators of an emitted graph after ONNX Runtime's optimizations.

    Attributes:
        ops: operator -> count in the optimized graph.
        integer_products: number of matrix products that run on integers.
        integer_weights: names of the constants that those products read.
        float_linears: names of linears that still use a dequantized constant weight in float.
    """

    ops: dict[str, int]
    integer_products: int
    integer_weights: frozenset[str]
    float_linears: tuple[str, ...]


def fusion(model: bytes) -> Fusion:
    """Optimizes `model` as a session does, and counts the operators of the result."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        session(model, threads=1, optimized_to=path)
        optimized = onnx.load(str(path))
    ops = Counter(node.op_type for node in optimized.graph.node)
    constants = {tensor.name for tensor in optimized.graph.initializer}
    dequantized = {
        n.output[0] for n in optimized.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants
    }
    products = [node for node in optimized.graph.node if node.op_type in INTEGER_PRODUCTS]
    weights = frozenset(name for node in products for name in node.input if name in constants)
    linears = tuple(n.name for n in optimized.graph.node if n.op_type in FLOAT_LINEARS and dequantized & set(n.input))
    return Fusion(dict(sorted(ops.items())), len(products), weights, linears)


@lru_cache
def convolves_int8() -> bool:
    """Returns whether this ONNX Runtime convolves int8 by uint8 on integers; versions before 1.24 do not."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]> 
        probe (int8[1, 1, 1, 1] x, uint8[1, 1, 1, 1] w) => (int32[1, 1, 1, 1] y) { y = ConvInteger (x, w) }"""
    )
    try:
        session(model.SerializeToString(), threads=1)
    except InputError:
        return False
    return True


def inputs(ort_session: ort.InferenceSession) -> tuple[Input, ...]:
    """Returns the inputs that a session declares."""
    return inputs_of([(i.name, tuple(i.shape), TYPES.get(i.type)) for i in ort_session.get_inputs()])


def outputs(
    ort_session: ort.InferenceSession, images: Examples[np.ndarray], static_batch: int | None = None
) -> dict[str, np.ndarray]:
    """Returns the outputs for `images` by name, each [n, ...]; see `run`."""
    declared = ort_session.get_outputs()
    values = outputs_in_batches(
        images, static_batch, _runner(ort_session, None), [tuple(o.shape) for o in declared], static_batch
    )
    return dict(zip([o.name for o in declared], values, strict=True))


def run(
    ort_session: ort.InferenceSession,
    images: Examples[np.ndarray],
    static_batch: int | None = None,
    fetch: list[str] | None = None,
) -> list[np.ndarray]:
    """Runs `images` and returns the outputs, each [n, ...].

    Args:
        static_batch: batch of a graph that takes one size only; images are run in chunks of it, the last one padded.
        fetch: names of the outputs; None for all.
    """
    return in_batches(images, static_batch, _runner(ort_session, fetch))


def _runner(
    ort_session: ort.InferenceSession, fetch: list[str] | None
) -> Callable[[Examples[np.ndarray]], list[np.ndarray]]:
    """Returns a function that runs a batch. It raises InputError with the reason of ONNX Runtime if that cannot."""
    names = [value.name for value in ort_session.get_inputs()]

    def run(chunk: Examples[np.ndarray]) -> list[np.ndarray]:
        feeds = chunk.feeds_for(names)
        try:
            outputs: list[np.ndarray] = ort_session.run(fetch, feeds)
        except Exception as error:  # ONNX Runtime raises its own unrelated exception types
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"ONNX Runtime cannot run the model: {reason}") from error
        return outputs

    return run
