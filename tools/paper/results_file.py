"""Adds rows to a CSV of results atomically, so that a killed process leaves every finished row and no partial one."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from qvit_deploy.artifacts.atomic import whole_file
from qvit_deploy.errors import InputError


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Reads the rows of `path`, none if it does not exist.

    Raises:
        InputError: it cannot be read, or is not a CSV of exactly these columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != tuple(columns):
                raise InputError(f"{path} has other columns than this version writes; choose another file")
            rows = list(reader)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV: {error}") from None
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise InputError(f"{path}: row {number} does not have {len(columns)} cells; repair it or remove it")
    return rows


def add_rows(path: Path, columns: Sequence[str], new: Sequence[Mapping[str, object]]) -> None:
    """Adds the rows, all or none; without rows, makes sure that `path` can be written.

    The file is read again, written under another name and renamed, so that rows another process added in between stay.

    Raises:
        InputError: `path` cannot be written, or is not a CSV of these columns.
    """
    rows = [*read_rows(path, columns), *new]
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
