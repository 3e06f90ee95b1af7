"""What the outputs of a model on disk mean."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.artifacts.opening import OnnxFile
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface
from qvit_deploy.targets.target import FLOAT, file_of
from qvit_deploy.tasks.registry import task_called, task_of
from qvit_deploy.tasks.task import Task


def model_task(model: Bundle | OnnxFile, name: str | None) -> Task:
    """Returns the task of that name; without one, what the bundle was compiled for, or what a lone file's outputs say.

    Raises:
        InputError: there is no such task, or it cannot be what the outputs are about; or the file is no ONNX.
    """
    if isinstance(model, Bundle) and name is None:
        return task_called(model.manifest.task)
    path = model.path_of(file_of(FLOAT)) if isinstance(model, Bundle) else model.path
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError is not part of any public API
        raise InputError(f"{path} cannot be parsed as ONNX (truncated?); export it again") from error
    return task_of(Interface.of(ir.from_proto(proto)), name)
