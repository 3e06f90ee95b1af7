"""JSON as this package writes it: the same text for the same value, on standard output and in files."""

from __future__ import annotations

import json
from typing import Any


def json_text(value: dict[str, Any] | list[dict[str, Any]]) -> str:
    """Returns JSON with sorted keys, indented by two spaces. Raises ValueError for NaN and infinities."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False)


def json_file(value: dict[str, Any] | list[dict[str, Any]]) -> bytes:
    """Returns the content of a JSON file: `json_text` with a newline at its end."""
    return json_text(value).encode() + b"\n"
