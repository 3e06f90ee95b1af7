"""A torch module -> a canonical graph, through torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qvit_deploy.errors import InputError, QvitError
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

_TRACE_BATCH = 2  # torch.export specialises sizes 0 and 1


def from_torch(module: torch.nn.Module, example: torch.Tensor | tuple[int, int, int], name: str) -> Graph:
    """Trace `module` in eval mode on an image batch (or on a shape (channels, height, width)).

    The module comes back in the training mode it had. The batch is symbolic unless the module only exports
    with a fixed one, which is then the example's. Raises InputError when torch cannot export the module.
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
        try:
            model = _export(module, several, dynamic=True)
        except QvitError:
            raise
        except Exception:  # whatever the exporter raises, a fixed batch is the second chance
            model = _export(module, example, dynamic=False)
    except QvitError:
        raise
    except Exception as error:
        raise InputError(f"torch cannot export {name} to ONNX: {_cause(error)}") from error
    finally:
        module.train(training)
    return canonicalize(model, name)


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
    """The exporter narrates on every channel it has; errors still arrive as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """The first line of the innermost exception: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
