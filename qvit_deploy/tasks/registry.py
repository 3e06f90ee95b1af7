"""The tasks there are, and the one of a model for which the user names none."""

from __future__ import annotations

from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.dense import DENSE
from qvit_deploy.tasks.detect.task import DETECT
from qvit_deploy.tasks.embed import EMBED
from qvit_deploy.tasks.outputs import OUTPUTS
from qvit_deploy.tasks.segment import SEGMENT
from qvit_deploy.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFY, OUTPUTS, EMBED, SEGMENT, DETECT, DENSE)}
"""Name -> task. A new one is a file next to this one and a place in this list."""


def task_called(text: str) -> Task:
    """Returns the task of that name, or of a name with options: `segment:axis=1`. Raises InputError."""
    name, _, options = text.partition(":")
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name].with_options(options) if options else TASKS[name]


def task_of(interface: Interface, text: str | None) -> Task:
    """Returns the task of that name and options for a model; without one, classification for a model whose one output
    is floating point [batch, classes], else `outputs`.

    Raises:
        InputError: there is no such task, or it cannot be what the model's outputs are about.
    """
    if text is not None:
        task = task_called(text)
    else:
        one = interface.outputs[0] if len(interface.outputs) == 1 else None
        task = CLASSIFY if one is not None and one.is_float and len(one.shape) == 2 else OUTPUTS
    return task.for_model(interface)
