"""Interfaces of models that need not exist."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from qvit_deploy.graph.interface import Input, Interface, Output


def interface(outputs: Mapping[str, tuple[int | str, ...]], image: tuple[int, int] = (64, 64)) -> Interface:
    """A model that takes RGB images of this height and width and gives these floating-point outputs."""
    takes = Input("image", "image", ("b", 3, *image), ir.DataType.FLOAT, 0)
    return Interface((takes,), tuple(Output(name, shape, ir.DataType.FLOAT, 0) for name, shape in outputs.items()))
