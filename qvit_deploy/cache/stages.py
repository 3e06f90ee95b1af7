"""Caches results of stages in a folder, under the digest of everything they depend on.

An interrupted compile resumes where it stopped, and another budget starts from the calibration of the first. A result
is reused only where computing it again would give the same bits: besides the model, the images and the choices of the
recipe that a stage reads, the digest covers this package's code, the libraries that the stages compute with, the
processor and the number of threads, because float sums differ between them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Callable
from functools import cache as once
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch

from qvit_deploy.cache.store import DamagedError, load, store
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Stopwatch
from qvit_deploy.targets.processor import cpu_model

T = TypeVar("T")

LIBRARIES = ("torch", "numpy", "scipy", "onnx", "onnx_ir", "pillow")
"""Distributions that stages compute with."""


class StageCache:
    """Stores results in `folder`, or nowhere when it is None.

    Args:
        basis: what every result depends on, JSON.

    Raises:
        InputError: the folder cannot be created or written.
    """

    def __init__(self, folder: Path | None, basis: object) -> None:
        self.folder, self.basis = folder, basis
        if folder is None:
            return
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--cache {folder} is not a folder; choose another")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(f"--cache {folder} cannot be written ({error.strerror}); choose another folder") from None

    def result(self, stage: str, depends_on: object, watch: Stopwatch, compute: Callable[[], T]) -> T:
        """Returns the result of `compute`, or the stored one of an earlier call with equal `depends_on`.

        A damaged file is computed anew, and a result that cannot be written is computed anew next time; `watch` shows
        both, and which results come from the cache. The time of storing is the stage `cache` of the watch.

        Args:
            depends_on: what the result depends on besides `basis`, JSON.
        """
        if self.folder is None:
            return compute()
        text = json.dumps([stage, self.basis, depends_on], sort_keys=True, allow_nan=False)
        path = self.folder / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        start = time.perf_counter()
        try:
            cached: T = load(path)
        except FileNotFoundError:
            pass
        except DamagedError:
            watch.mention(f"{stage} (cached result damaged, made anew)")
        except OSError as error:
            watch.mention(f"{stage} (cached result cannot be read: {error.strerror or error})")
        else:
            watch.mention(f"{stage} (cached)", time.perf_counter() - start)
            return cached
        computed = compute()
        start = time.perf_counter()
        try:
            store(computed, path)
        except InputError as error:
            watch.mention(f"{stage} (cannot be cached: {error})")
        watch.add("cache", time.perf_counter() - start)
        return computed


def numerics() -> list[str]:
    """Returns what decides the last bit of a float sum: the code, the libraries, the processor and the threads."""
    processor = [platform.machine(), cpu_model(), torch.backends.cpu.get_cpu_capability()]
    settings = [f"{torch.get_num_threads()} threads", f"{torch.get_float32_matmul_precision()} precision"]
    return [*_code(), *processor, *settings]


@once
def _code() -> list[str]:
    """Returns what this process runs: the digest of the package and the versions of the libraries."""
    return [code_digest(Path(__file__).parents[1]), *(f"{name} {metadata.version(name)}" for name in LIBRARIES)]


def code_digest(package: Path) -> str:
    """Returns the SHA-256 over the names and contents of all Python files below a folder."""
    sha = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name, content = path.relative_to(package).as_posix().encode(), path.read_bytes()
        sha.update(f"{len(name)} {len(content)} ".encode() + name + content)
    return sha.hexdigest()
