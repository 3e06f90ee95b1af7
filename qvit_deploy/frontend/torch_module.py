"""Exports a torch module to a canonical graph, through torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qvit_deploy.errors import InputError
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.edit import free_value_name
from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph
from qvit_deploy.graph.quiet import quiet

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

OUTPUT_NAME = "logits"
"""The name of the output of a module that has one."""
_TRACE_BATCH = 2  # torch.export specialises sizes 0 and 1


def from_torch(module: torch.nn.Module, example: torch.Tensor | tuple[int, int, int], name: str) -> Graph:
    """Traces `module` into a canonical graph; see `exported`."""
    return canonicalize(exported(module, example, name), name)


def exported(module: torch.nn.Module, example: torch.Tensor | tuple[int, int, int], name: str) -> ir.Model:
    """Traces `module` in eval mode; it is left in the training mode it had.

    The batch is symbolic unless the module only exports with a fixed one, which is then the example's.

    Args:
        example: a batch of images [b, C, H, W], or the shape (C, H, W) of one.

    Raises:
        InputError: torch cannot export the module.
    """
    import torch

    if not isinstance(example, torch.Tensor):
        example = torch.zeros(_TRACE_BATCH, *example)
    parameter = next(module.parameters(), None)
    if parameter is not None:
        example = example.to(dtype=parameter.dtype, device=parameter.device)
    several = example.expand(_TRACE_BATCH, -1, -1, -1) if example.shape[0] == 1 else example
    training = module.training
    module.eval()
    try:
        model = _first_export_that_works(module, several, example)
    except Exception as error:  # the exporter raises whatever the module or its own passes raise
        raise InputError(f"torch cannot export {name} to ONNX: {_cause(error)}") from error
    finally:
        module.train(training)
    if len(model.graph.outputs) == 1:
        model.graph.outputs[0].name = free_value_name(model.graph, OUTPUT_NAME)  # torch counts its values up
    return model


def _first_export_that_works(module: torch.nn.Module, several: torch.Tensor, example: torch.Tensor) -> ir.Model:
    """Exports with a symbolic batch; else also with attention decomposed; else with a fixed batch. Raises the error of
    the first attempt."""
    try:
        return _export(module, several, dynamic=True)
    except Exception as first:
        for images, dynamic in ((several, True), (example, False)):
            with contextlib.suppress(Exception), _decomposed_attention(module):
                return _export(module, images, dynamic=dynamic)
        raise first


@contextlib.contextmanager
def _decomposed_attention(module: torch.nn.Module) -> Iterator[None]:
    """Turns off fused attention by timm's own switch, on this module only: the exporter refuses a fused attention that
    is not 4-dimensional."""
    switched = [part for part in module.modules() if getattr(part, "fused_attn", False) is True]
    for part in switched:
        part.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in switched:
            part.fused_attn = True  # type: ignore[assignment]


def _export(module: torch.nn.Module, example: torch.Tensor, *, dynamic: bool) -> ir.Model:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    # MATH: the fused CPU kernel reports strides that the decomposition does not have, and models that reshape
    # its result (BEiT) then fail to export.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=CANONICAL_OPSET,
            # torch's own optimizer merges equal weights and forgets the parameter's name when it transposes one.
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter, which reports on every channel it has; errors still arrive as exceptions."""
    with (
        quiet("torch.onnx", "torch.export", "onnxscript", "onnx_ir"),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _cause(error: BaseException) -> str:
    """Returns the first line of the innermost exception: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
