"""The tasks there are."""

from __future__ import annotations

from qvit_deploy.errors import InputError
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFY,)}
"""Name -> task. A new one is a file next to this one and a place in this list."""


def task_called(name: str) -> Task:
    """Returns the task of that name. Raises InputError."""
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]
