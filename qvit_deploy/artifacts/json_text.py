"""JSON as this package writes it: the same text for the same value, on standard output and in files."""

from __future__ import annotations

import json
from typing import Any


def json_text(value: dict[str, Any] | list[dict[str, Any]]) -> str:
    """Sorted keys, two spaces. Raises ValueError for NaN and infinities, which JSON does not have."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False)


def json_file(value: dict[str, Any] | list[dict[str, Any]]) -> bytes:
    """The contents of a file: the text with a newline at its end."""
    return json_text(value).encode() + b"\n"
