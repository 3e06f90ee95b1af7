"""What commands print: progress bars and tables on standard error or output, one JSON object with --json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from qvit_deploy.artifacts.json_text import json_text
from qvit_deploy.progress import Advance
from qvit_deploy.report.numbers import NARROW, amount

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


def error_line(message: str) -> None:
    """One line, `error: ...`, on standard error, never wrapped or cut."""
    stderr.print(f"error: {message}", style="bold red", markup=False, soft_wrap=True)


def skipped_lines(images: Iterable[tuple[str, str]]) -> None:
    """One line on standard error for each image left out: its name and the reason."""
    for name, reason in images:
        stderr.print(f"skipped {name}: {reason}", markup=False, soft_wrap=True)


def print_json(value: dict[str, Any]) -> None:
    """The one JSON object of a --json command, on standard output."""
    print(json_text(value))


class Bars:
    """`Progress` as rich bars on standard error; one line per finished stage stays."""

    def __init__(self) -> None:
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=stderr,
        )

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress.tasks:  # rich ends even bars that never began with an empty line
            self.progress.stop()

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        self.progress.start()
        task = self.progress.add_task(name, total=total)
        yield lambda n: self.progress.update(task, advance=n)
        done = total if total is not None else 1
        self.progress.update(task, total=done, completed=done)


def short(count: int) -> str:
    """A count as the report writes it, with a plain space: terminals differ on the width of a narrow one."""
    return amount(count).replace(NARROW, " ")


def mega(count: float) -> str:
    """Bytes as megabytes with two digits."""
    return f"{count / 1e6:.2f} MB"
