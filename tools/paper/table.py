"""Fills a paper's table row by row: what its CSV holds is not measured again, an interruption loses no finished row."""

from __future__ import annotations

import argparse
import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from rich.console import Console
from rich.table import Table

from qvit_deploy.cli.console import Bars, error_line, stderr
from qvit_deploy.errors import CheckError, QvitError
from qvit_deploy.progress import Progress
from qvit_deploy.recipe import Recipe
from tools.paper.results_file import add_rows, read_rows
from tools.paper.runs import RUNS, positive, recipe_of

Row = Mapping[str, str]
FLOAT = "float"
"""The column of the papers' float models, beside those of methods."""


class Named(Protocol):
    """A model of a table."""

    @property
    def name(self) -> str:
        """What the column `model` says."""


M = TypeVar("M", bound=Named)


@dataclass(frozen=True)
class Task(Generic[M]):
    """A row to measure. `identity` holds its cells of the columns that tell measurements apart."""

    model: M
    run: str
    recipe: Recipe | None
    identity: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Names the folder of what is finished of the row."""
        return hashlib.sha256("\n".join(self.identity).encode()).hexdigest()[:16]


Measure = Callable[[Task[M], Progress], Row]
"""Returns the measured cells of a row. Raises CheckError when a bundle fails its verification."""


class PaperTable(ABC, Generic[M]):
    """A table of models and widths, and how one of its rows is measured.

    Attributes:
        columns: of the CSV.
        identity: those that tell one measurement from another, in the order of `Task.identity`.
    """

    columns: ClassVar[tuple[str, ...]]
    identity: ClassVar[tuple[str, ...]]

    @abstractmethod
    def check(self, model: M) -> None:
        """Raises InputError when the model cannot be measured; called for all models before the first row."""

    @abstractmethod
    def opened(self, model: M) -> AbstractContextManager[Measure[M]]:
        """Opens a model, and gives what measures its rows. Raises InputError."""

    @abstractmethod
    def published(self, task: Task[M]) -> Row:
        """Returns the published cells of a row, "" where no number is known."""

    @abstractmethod
    def written(self, task: Task[M]) -> None:
        """Is called when a row is in the CSV."""

    def fill(self, out: Path, selected: Sequence[Task[M]]) -> tuple[list[Row], bool]:
        """Measures the rows that `out` lacks; returns all that were selected and whether a bundle failed.

        All inputs are checked before the first row, because rows take hours. A bundle that fails its verification
        costs its row alone.

        Raises:
            InputError: a model or the CSV cannot be used.
        """
        add_rows(out, self.columns, [])  # cannot be written? Better now than after the first row.
        rows: dict[tuple[str, ...], Row] = {
            tuple(row[name] for name in self.identity): row for row in read_rows(out, self.columns)
        }
        missing = [task for task in selected if task.identity not in rows]
        stderr.print(f"{len(missing)} runs to do, {len(selected) - len(missing)} are in {out}", soft_wrap=True)
        for model in dict.fromkeys(task.model for task in missing):
            self.check(model)
        failed = False
        for model, group in itertools.groupby(missing, key=lambda task: task.model):
            with self.opened(model) as measure:
                for task in group:
                    stderr.print(f"{model.name} {task.run}", style="bold", markup=False, soft_wrap=True)
                    try:
                        with Bars() as bars:
                            measured = measure(task, bars)
                    except CheckError as error:
                        error_line(f"{model.name} {task.run}: {error}")
                        failed = True
                        continue
                    known = dict(zip(self.identity, task.identity, strict=True))
                    row = {**known, **self.published(task), "widths": RUNS[task.run].widths, **measured}
                    rows[task.identity] = {name: row.get(name, "") for name in self.columns}
                    add_rows(out, self.columns, [rows[task.identity]])
                    self.written(task)
        return [rows[task.identity] for task in selected if task.identity in rows], failed


def tasks(
    models: Iterable[M], recipes: Mapping[str, Recipe | None], cells: Callable[[M, str], tuple[str, ...]]
) -> list[Task[M]]:
    """Lists the rows, model by model, whose identity starts with the columns `model` and `run`.

    Args:
        recipes: run -> its recipe; None for float.
        cells: (model, digest of the recipe) -> the other cells of the identity. May raise InputError.
    """
    selected = []
    for model in models:
        for run, recipe in recipes.items():
            digest = "" if recipe is None else recipe.digest()[:16]
            selected.append(Task(model, run, recipe, (model.name, run, *cells(model, digest))))
    return selected


def add_arguments(parser: argparse.ArgumentParser, models: Iterable[str], limit: str) -> None:
    """Adds the options that all tables have. `models` are those of the paper, `limit` says what --limit does."""
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write or to go on with")
    parser.add_argument("--models", nargs="+", default=list(models), help="names of the paper, also NAME?key=value")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--limit", type=positive, help=limit)
    parser.add_argument("--seed", type=int, default=0, help="of the calibration images")
    parser.add_argument("--recipe", type=Path, help="TOML file with choices that the runs leave open")


def recipes(arguments: argparse.Namespace, images: int, **choices: object) -> dict[str, Recipe | None]:
    """Returns the recipes of the runs that the command line names, see `runs.recipe_of`. Raises InputError."""
    return {name: recipe_of(RUNS[name], images, arguments.seed, arguments.recipe, **choices) for name in arguments.runs}


def limit_cell(arguments: argparse.Namespace) -> str:
    """Returns the cell of --limit, "" without one."""
    return "" if arguments.limit is None else str(arguments.limit)


def published_column(method: str) -> str:
    """Returns the column of a method's published numbers."""
    return f"{method} (published)"


def print_rows(
    shown: Table, rows: Iterable[Row], labels: Mapping[str, str], ours: Sequence[str], methods: Sequence[str]
) -> None:
    """Prints the table with our numbers and the published ones.

    Args:
        labels: model -> what the paper calls it.
        ours: columns of our numbers, shown in one cell.
        methods: whose numbers were published.
    """
    shown.add_column("model", overflow="fold")
    shown.add_column("run")
    for name in ("ours", "n", FLOAT, *methods):
        shown.add_column(name, justify="right", min_width=len(name))
    for row in rows:
        number = "/".join(row[column] for column in ours)
        published = (row[published_column(name)] for name in (FLOAT, *methods))
        shown.add_row(labels.get(row["model"], row["model"]), row["run"], f"[bold]{number}[/]", row["n"], *published)
    Console(width=140).print(shown)


def run(reproduce: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Runs a table's command and returns its exit code: 2 for unusable input, 130 when interrupted, each with a line
    that says so."""
    try:
        return reproduce(arguments)
    except QvitError as error:
        error_line(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        error_line(f"interrupted; finished runs are in {arguments.out}, the same command goes on after them")
        return 130
