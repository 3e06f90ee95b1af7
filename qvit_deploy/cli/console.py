"""Prints the output of commands: progress bars on standard error, tables and JSON on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from qvit_deploy.artifacts.json_text import json_text
from qvit_deploy.errors import visible
from qvit_deploy.progress import Advance
from qvit_deploy.report.numbers import NARROW, amount


class PlainConsole(Console):
    """Prints strings as they are: names from files may look like rich's markup or hold control characters. What is
    styled is handed over as a `Text`, whose strings are our own."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Renders a string, also one in a table's cell, with what is invisible escaped; its lines stay lines."""
        return super().render_str("\n".join(map(visible, text.split("\n"))), **options)


stderr = PlainConsole(stderr=True)
stdout = PlainConsole()


def line(*parts: str | tuple[str, str]) -> Text:
    """Returns one line of strings and of (string, style) pairs, with what is invisible in them escaped."""
    return Text.assemble(*(visible(p) if isinstance(p, str) else (visible(p[0]), p[1]) for p in parts))


def error_line(message: str) -> None:
    """Prints one line, `error: ...`, on standard error, neither wrapped nor cut."""
    stderr.print(f"error: {message}", style="bold red", soft_wrap=True)


def skipped_lines(images: Iterable[tuple[str, str]]) -> None:
    """Prints a line on standard error for each image that was left out: its name and the reason."""
    for name, reason in images:
        stderr.print(f"skipped {name}: {reason}", soft_wrap=True)


def sqnr_text(by_output: Mapping[str, float]) -> str:
    """Returns `31.2 dB`; of several outputs the worst first: `11.6 dB (features), 40.9 dB (logits)`."""
    ranked = sorted(by_output.items(), key=lambda item: item[1])
    return ", ".join(f"{db:.1f} dB" + (f" ({name})" if len(ranked) > 1 else "") for name, db in ranked)


def print_json(value: dict[str, Any]) -> None:
    """Prints the one JSON object of a --json command on standard output."""
    print(json_text(value))


class Bars:
    """Shows `Progress` as rich bars on standard error; one line per finished stage stays."""

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
        if self.progress.tasks:  # rich prints an empty line at the end even if no bar was started
            self.progress.stop()

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Shows a bar of `total` units while the block runs; gives the function that advances it."""
        self.progress.start()
        task = self.progress.add_task(name, total=total)
        yield lambda n: self.progress.update(task, advance=n)
        done = total if total is not None else 1
        self.progress.update(task, total=done, completed=done)


def short(count: int) -> str:
    """Formats a count as the report does, but with a plain space: terminals disagree on the width of a narrow one."""
    return amount(count).replace(NARROW, " ")


def mega(count: float) -> str:
    """Formats bytes as megabytes with two digits."""
    return f"{count / 1e6:.2f} MB"
