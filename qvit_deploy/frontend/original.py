"""A model as it was handed in, in its own runtime: what the canonical graph is compared with.

Nothing is loaded before it is opened, and whoever opened it lets go of it: a large model is not held twice for long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx_ir as ir

from qvit_deploy.frontend.input_shapes import InputShapes
from qvit_deploy.frontend.onnx_file import read_foreign
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import IMAGE

if TYPE_CHECKING:
    import torch

Run = Callable[[Examples[np.ndarray]], "list[np.ndarray]"]
"""As many examples as the canonical graph takes -> the outputs, in the model's order."""

ROUNDOFF = {ir.DataType.FLOAT: 2.0**-24, ir.DataType.FLOAT16: 2.0**-11, ir.DataType.BFLOAT16: 2.0**-8}
"""Largest relative error of rounding to a type."""


class Original(Protocol):
    """A model that can be opened in the runtime it was made for."""

    @property
    def runtime(self) -> str:
        """The runtime, for people."""

    def open(self) -> Run:
        """Loads the model. It, and what it returns, raise whatever the runtime does."""

    def roundoff(self) -> float:
        """Returns the largest relative error of one rounding in the coarsest type that its weights have."""

    def model(self) -> ir.Model:
        """Returns the model as `canonicalize` takes it, another one at every call."""


@dataclass(frozen=True)
class OnnxOriginal:
    """A file in ONNX Runtime, which runs it operator by operator."""

    path: Path
    shapes: InputShapes = field(default_factory=dict)
    runtime: str = "ONNX Runtime"

    def open(self) -> Run:
        import onnxruntime as ort

        from qvit_deploy.graph.canonicalize.measure import as_input

        options = ort.SessionOptions()
        options.log_severity_level = 4
        # The file means what its operators compute one by one. A fused operator may round otherwise, or be wrong.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        return lambda examples: [np.asarray(o) for o in session.run(None, as_input(session, examples))]

    def roundoff(self) -> float:
        values = read_foreign(self.path).graph.initializers.values()
        types = {value.const_value.dtype for value in values if value.const_value is not None}
        return max(size for dtype, size in ROUNDOFF.items() if dtype in types or dtype == ir.DataType.FLOAT)

    def model(self) -> ir.Model:
        return read_foreign(self.path, self.shapes)


@dataclass(frozen=True)
class TorchOriginal:
    """A torch module in torch.

    Attributes:
        build: returns the module; one that nobody holds is made anew, so that it need not be kept.
        export: makes of it what `canonicalize` takes.
    """

    build: Callable[[], torch.nn.Module]
    export: Callable[[torch.nn.Module], ir.Model]
    runtime: str = "torch"

    def open(self) -> Run:
        import torch
        from torch.utils import _pytree as pytree

        module = self.build()
        like = next(module.parameters(), torch.zeros(()))

        def run(examples: Examples[np.ndarray]) -> list[np.ndarray]:
            training = module.training
            module.eval()
            try:
                with torch.no_grad():
                    outputs = module(torch.from_numpy(examples.feeds[IMAGE]).to(like))
            finally:
                module.train(training)
            tensors = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
            return [(t.float() if t.is_floating_point() else t).cpu().numpy() for t in tensors]

        return run

    def roundoff(self) -> float:
        import torch

        types = {parameter.dtype for parameter in self.build().parameters()}
        coarse = {torch.float16: ir.DataType.FLOAT16, torch.bfloat16: ir.DataType.BFLOAT16}
        return max([ROUNDOFF[ir.DataType.FLOAT], *(ROUNDOFF[name] for dtype, name in coarse.items() if dtype in types)])

    def model(self) -> ir.Model:
        return self.export(self.build())
