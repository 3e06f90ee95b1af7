"""The tasks there are, and the one of a model for which the user names none."""

from __future__ import annotations

from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.outputs import OUTPUTS
from qvit_deploy.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFY, OUTPUTS)}
"""Name -> task. A new one is a file next to this one and a place in this list."""


def task_called(name: str) -> Task:
    """Returns the task of that name. Raises InputError."""
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]


def task_of(interface: Interface, name: str | None) -> Task:
    """Returns the task of that name for a model; without one, classification for a model whose one output is floating
    point [batch, classes], else `outputs`.

    Raises:
        InputError: there is no such task, or it cannot be what the model's outputs are about.
    """
    if name is not None:
        task = task_called(name)
    else:
        one = interface.outputs[0] if len(interface.outputs) == 1 else None
        task = CLASSIFY if one is not None and one.is_float and len(one.shape) == 2 else OUTPUTS
    task.check(interface)
    return task
