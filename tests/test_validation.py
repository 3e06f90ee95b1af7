"""What comes from outside is taken in, or refused in one line that names the place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError, field_validator

from qvit_deploy.errors import BundleError, InputError
from qvit_deploy.validation import Record, non_finite, parse_json, problems_text, read_json, validated


class Part(Record):
    size: Annotated[int, Field(ge=1)]


class Whole(Record):
    name: str
    parts: tuple[Part, ...] = ()
    named: dict[Annotated[str, Field(pattern="^w")], int] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _no_spaces(cls, name: str) -> str:
        if " " in name:
            raise ValueError("a name has no spaces")
        return name


def test_a_good_tree_is_a_value_that_does_not_change() -> None:
    whole = validated(Whole, {"name": "n", "parts": [{"size": 2}]}, "a.json")
    assert whole == Whole(name="n", parts=(Part(size=2),))
    with pytest.raises(ValidationError):
        whole.name = "other"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"name": "n", "parts": [{"size": 1}, {"size": 0}]},
            "parts.1.size: Input should be greater than or equal to 1",
        ),
        ({"name": "a b"}, "name: a name has no spaces"),
        ({"name": "n", "colour": 1}, "colour: Extra inputs are not permitted"),
        (
            {"parts": [{"size": 0}], "colour": 1},
            "name: Field required; parts.0.size: Input should be greater than or equal to 1; "
            "colour: Extra inputs are not permitted",
        ),
        (
            {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1},
            "name: Field required; a: Extra inputs are not permitted; b: Extra inputs are not permitted; "
            "c: Extra inputs are not permitted (and 2 more)",
        ),
        ({"name": "n", "named": {"x": 1}}, "named.x: String should match pattern '^w'"),
        ([], "Input should be a valid dictionary or instance of Whole"),
    ],
)
def test_the_first_problems_are_named_and_the_others_are_counted(tree: object, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        validated(Whole, tree, "a.json", BundleError)
    assert str(caught.value) == f"a.json: {message}"
    with pytest.raises(ValidationError) as refused:
        Whole.model_validate(tree)
    assert problems_text(refused.value) == message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"a": ', "is not valid JSON, or was cut off: "),
        (b"\xff\xfe\x80", "is not valid JSON, or was cut off: "),
        (b"[" * 100_000, "is not valid JSON, or was cut off: "),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for called, prefix in ((None, f"{path}: "), ("a table", "a table: ")):
        with pytest.raises(InputError) as caught:
            read_json(path, called)
        assert str(caught.value).startswith(prefix + reason) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file or directory\)$"):
        read_json(tmp_path / "none")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)$"):
        read_json(tmp_path)


def test_numbers_that_json_does_not_have_are_found() -> None:
    assert non_finite(parse_json(b'{"a": [1, 2.5, {"b": NaN}]}')) == "a.2.b"
    assert non_finite(parse_json(b'{"a": [1, -Infinity]}')) == "a.1"
    assert non_finite(parse_json(b'{"a": [1, "NaN"]}')) == ""


def test_errors_need_no_pydantic() -> None:
    code = "import sys, qvit_deploy.errors; print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
