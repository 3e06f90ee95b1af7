"""Prints line coverage by package, least covered first: `python -m tools.ci.coverage_by_package COVERAGE.json`.

`make coverage` measures it: `coverage json` writes the file, see coverage.py's documentation of its JSON report.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console
from rich.table import Table

FILES_SHOWN = 3
"""Files of each package that are named: those with the most lines that no test ran."""


def by_package(report: Mapping[str, Any]) -> dict[str, list[tuple[str, int, int]]]:
    """Returns by package (file, statements, statements that no test ran) of each file that has statements."""
    packages: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for name, file in report["files"].items():
        summary, path = file["summary"], PurePath(name)
        if summary["num_statements"]:
            packages[path.parent.as_posix()].append((path.name, summary["num_statements"], summary["missing_lines"]))
    return dict(packages)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("report", type=Path)
    packages = by_package(json.loads(parser.parse_args().report.read_text(encoding="utf-8")))
    table = Table("package", "lines", "covered", "lines that no test ran")
    rows: list[tuple[float, str, int, str]] = []
    for package, files in packages.items():
        lines, missing = sum(f[1] for f in files), sum(f[2] for f in files)
        worst = sorted((f for f in files if f[2]), key=lambda f: -f[2])[:FILES_SHOWN]
        rows.append((1 - missing / lines, package, lines, ", ".join(f"{name} {count}" for name, _, count in worst)))
    for share, package, lines, worst_files in sorted(rows):
        table.add_row(package, str(lines), f"{share:.1%}", worst_files)
    every = [file for files in packages.values() for file in files]
    total, missed = sum(f[1] for f in every), sum(f[2] for f in every)
    table.add_section()
    table.add_row("all", str(total), f"{1 - missed / total:.1%}", "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
