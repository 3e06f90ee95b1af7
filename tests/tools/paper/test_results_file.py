"""The growing CSV: rows come back as they went in, and what is not such a file is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvit_deploy.errors import InputError
from tools.paper.results_file import add_rows, read_rows

COLUMNS = ("name", "value")
cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n,"'))


@settings(max_examples=30)  # every row waits for the disk
@given(st.lists(st.tuples(cells, cells), max_size=3))
def test_rows_come_back_in_order(rows: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.csv"
        added = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        for row in added:
            add_rows(path, COLUMNS, [row])
        assert read_rows(path, COLUMNS) == added
        assert [p.name for p in Path(folder).iterdir()] == (["r.csv"] if rows else [])


def test_no_rows_make_a_file_with_a_header(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    assert read_rows(path, COLUMNS) == []
    add_rows(path, COLUMNS, [])
    assert path.read_text() == "name,value\n"


def test_rows_added_by_another_process_stay(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    add_rows(path, COLUMNS, [{"name": "a", "value": 1}])
    with path.open("a") as file:
        file.write("b,2\n")
    add_rows(path, COLUMNS, [{"name": "c", "value": 3}])
    assert [row["name"] for row in read_rows(path, COLUMNS)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name,other\na,1\n", "other columns"),
        (b"", "other columns"),
        (b"name,value\na,1\nb\n", "row 2 does not have 2 cells"),
        (b"name,value\na,1,5\n", "row 1 does not have 2 cells"),
        (b"name,value\n\xff,1\n", "cannot be read as a CSV"),
    ],
)
def test_other_files_are_refused_and_kept(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        add_rows(path, COLUMNS, [{"name": "c", "value": 3}])
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file"):
        add_rows(tmp_path / "none" / "r.csv", COLUMNS, [])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder\.csv cannot be read"):
        add_rows(tmp_path / "folder.csv", COLUMNS, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        add_rows(tmp_path / "r.csv", COLUMNS, [])
