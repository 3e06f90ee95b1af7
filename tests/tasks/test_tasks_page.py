"""docs/tasks.md against the tasks: its commands can be run, and its options and keys are all there are."""

from __future__ import annotations

import re

import pytest

from qvit_deploy.tasks.configured import ConfiguredTask
from qvit_deploy.tasks.registry import TASKS, task_called
from tests.support.places import REPOSITORY

PAGE = (REPOSITORY / "docs" / "tasks.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
CONFIGURED = {name: task for name, task in TASKS.items() if isinstance(task, ConfiguredTask)}


def test_every_task_that_the_page_names_reads() -> None:
    shown = re.findall(r"--task ([a-z]\S*?)[`\s]", PAGE)
    assert len(shown) > 7 and {task_called(text).name for text in shown} == set(CONFIGURED)


@pytest.mark.parametrize("name", CONFIGURED)
def test_every_option_is_on_the_page_and_none_else(name: str) -> None:
    rows = [line.split("|")[1] for line in SECTIONS[name].splitlines() if line.startswith("| `")]
    shown = {option for row in rows for option in re.findall(r"`(\w+)=", row)}
    assert shown == set(type(CONFIGURED[name].options).model_fields) - {"size"}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE)
