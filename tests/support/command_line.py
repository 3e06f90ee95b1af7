"""What the command tests share: a command's result, and the files a compile takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.places import REPOSITORY


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


def program(driver: Path, capability: int, *arguments: object) -> Result:
    """The program in a process of its own that finds this driver, and stand-ins of modules beside it."""
    folders = (REPOSITORY, driver.parent)
    paths = {"LD_LIBRARY_PATH": str(driver.parent), "PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = subprocess.run(
        [sys.executable, "-m", "qvit_deploy", *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, **paths, "GPU_SM": str(capability)},
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)
