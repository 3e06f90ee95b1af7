"""What the command tests share: a command's result, and the files a compile takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


Command = Callable[..., Result]


@dataclass(frozen=True)
class Inputs:
    """Files a compile takes."""

    model: Path
    calib: Path
    preprocess: Path

    def arguments(self, out: Path, *more: object) -> list[object]:
        return [
            "compile", self.model, "-o", out, "--calib", self.calib, "--preprocess", self.preprocess, "--images", 8,
            *more,
        ]  # fmt: skip
