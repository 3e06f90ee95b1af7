"""Reads MODEL, as the command line names it, into a canonical graph and the preprocessing of its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qvit_deploy.errors import InputError
from qvit_deploy.frontend.input_shapes import NO_SHAPES, OPTION, InputShapes
from qvit_deploy.graph.graph import Graph

if TYPE_CHECKING:
    from qvit_deploy.frontend.original import Original

ACCEPTED = "timm:NAME (e.g. timm:vit_tiny_patch16_224?img_size=112), a path to an .onnx file, or demo:vit|deit|swin"


@dataclass(frozen=True)
class Source:
    """A model with what its source says about it.

    Attributes:
        preprocess: the fields of `data.preprocess.Preprocess`; None when the source does not give them.
        description: one line for reports that says what was loaded and from where.
        original: the model as it was handed in; None where a graph was made by hand, and nothing can be compared with.
    """

    graph: Graph
    preprocess: dict[str, object] | None
    description: str
    original: Original | None = None


def load_model(
    spec: str, *, checkpoint: Path | None = None, pretrained: bool = False, input_shapes: InputShapes = NO_SHAPES
) -> Source:
    """Reads the model that `spec` names.

    Args:
        spec: `timm:NAME?key=value&...`, `demo:NAME` or a path to an .onnx file.
        checkpoint: file with the weights of a timm model, which are random without it and `pretrained`.
        pretrained: loads timm's own weights.
        input_shapes: fixes open sizes of an .onnx file's inputs.

    Raises:
        InputError: there is no such model, or it cannot be read.
        UnsupportedOpError: the graph has an operator that the compiler does not know.
        NonFiniteError: the model holds constants that are NaN or infinite.
    """
    if checkpoint is not None and pretrained:
        raise InputError("--checkpoint and --pretrained exclude each other; give one of them")
    if input_shapes and not spec.lower().endswith(".onnx"):
        raise InputError(f"{OPTION} fixes open sizes of an .onnx file; {spec!r} has none (timm takes ?img_size=)")
    if spec.startswith("timm:"):
        from qvit_deploy.frontend.timm_model import from_timm

        return Source(*from_timm(spec, checkpoint=checkpoint, pretrained=pretrained))
    if checkpoint is not None or pretrained:
        raise InputError(f"--checkpoint and --pretrained need a timm: model; {spec!r} comes with its weights")
    if spec.startswith("demo:"):
        from qvit_deploy.frontend.demo import from_demo

        return Source(*from_demo(spec.removeprefix("demo:")))
    if spec.lower().endswith(".onnx"):
        from qvit_deploy.frontend.onnx_file import from_onnx
        from qvit_deploy.frontend.original import OnnxOriginal

        path = Path(spec)
        return Source(
            from_onnx(path, shapes=input_shapes), None, f"ONNX file {path.name}", OnnxOriginal(path, input_shapes)
        )
    raise InputError(f"MODEL {spec!r} is not understood; accepted are {ACCEPTED}")


__all__ = ["Source", "load_model"]
