"""Takes in what comes from outside, JSON and values of pydantic models, and says in one line what is wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qvit_deploy.errors import InputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)

NAMED_PROBLEMS = 4
"""How many problems of one file are named: enough to mend a file written by hand at once, and still one line."""


class Record(BaseModel):
    """What a file holds: it does not change, and a field that nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def validated(model: type[Model], tree: object, called: str, error: type[InputError] = InputError) -> Model:
    """Returns `tree` as a value of `model`.

    Args:
        called: what is not valid, the beginning of the message.
        error: what is raised.

    Raises:
        InputError: a field is missing, unknown or out of range; names what `problems_text` does.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as problems:
        raise error(f"{called}: {problems_text(problems)}") from None


def problems_text(error: ValidationError) -> str:
    """Returns `place: message; place: message (and N more)` of the first `NAMED_PROBLEMS`.

    A place, fields and indices between dots, may be empty.
    """
    problems = error.errors()
    more = len(problems) - NAMED_PROBLEMS
    return "; ".join(map(_problem, problems[:NAMED_PROBLEMS])) + (f" (and {more} more)" if more > 0 else "")


def _problem(problem: ErrorDetails) -> str:
    # pydantic marks the key of a mapping, which the part in front names already.
    place = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def read_json(path: Path, called: str | None = None) -> Any:
    """Reads a JSON file; NaN and infinities come through, for a model to refuse.

    Args:
        called: the beginning of a message; None for the path.

    Raises:
        InputError: it cannot be read, is empty, cut off or not JSON.
    """
    called = called or str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{called}: cannot be read ({error.strerror})") from error
    try:
        return parse_json(content)
    except ValueError as error:
        raise InputError(f"{called}: {error}") from error


def parse_json(content: bytes) -> Any:
    """Returns the value of JSON text. Raises ValueError with one line: it is empty, or not valid, or was cut off."""
    if not content.strip():
        raise ValueError("is empty")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON, or was cut off: {error}") from error


def non_finite(tree: object, where: str = "") -> str:
    """Returns the dotted path of the first NaN or infinity in a JSON tree, or "". JSON has no such numbers."""
    if isinstance(tree, float) and not math.isfinite(tree):
        return where
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    return next((place for k, v in items if (place := non_finite(v, f"{where}.{k}".lstrip(".")))), "")
