"""Runs the tools that fill a paper's table, and reads what they wrote."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Tool = Callable[[Sequence[str]], tuple[int, str, str]]
"""Runs a command line; returns the exit code, standard output and standard error."""


def tool_of(main: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str]) -> Tool:
    """Returns the tool whose entry point is `main`."""

    def run(arguments: Sequence[str]) -> tuple[int, str, str]:
        capsys.readouterr()
        return main(arguments), *capsys.readouterr()

    return run


def rows(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a table's CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def require_no_second_measurement(tool: Tool, arguments: Sequence[str], finished: Path) -> None:
    """Holds that the command leaves a finished table as it is, and prints all of it."""
    before = finished.read_bytes()
    code, out, err = tool(arguments)
    assert code == 0 and finished.read_bytes() == before
    assert f"0 runs to do, {len(rows(finished))} are in" in err and "eval" not in err
    assert all(row["run"] in out for row in rows(finished))


def require_one_line(tool: Tool, arguments: Sequence[str], words: str) -> None:
    """Holds that the command refuses its input in one line with `words`, before anything ran."""
    code, out, err = tool(arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and out == "" and len(lines) == 1 and words in lines[0], err
    assert err.splitlines()[-1] == lines[0] and "eval" not in err
