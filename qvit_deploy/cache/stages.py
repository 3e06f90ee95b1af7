"""Results of stages, kept in a folder under the digest of everything they depend on.

An interrupted compile goes on where it stopped, and another budget starts from the calibration of the first. A result
is found again only where it would be computed again to the same bits: beside the model, the images and the choices of
the recipe that a stage reads, the digest covers this package's code, the libraries the stages compute with, the
processor and the number of threads, because float sums differ between them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch

from qvit_deploy.cache import store as stored
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Stopwatch
from qvit_deploy.targets.processor import cpu_model

T = TypeVar("T")

LIBRARIES = ("torch", "numpy", "scipy", "onnx", "onnx_ir", "pillow")
"""What stages compute with."""


class StageCache:
    """Keeps results in `folder`, or nowhere when it is None.

    Args:
        basis: what every result depends on, JSON.

    Raises:
        InputError: the folder cannot be made or written.
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

    def result(self, stage: str, depends_on: object, watch: Stopwatch, make: Callable[[], T]) -> T:
        """What `make` returns, or what it returned before for equal `depends_on`.

        A damaged file is made anew, and a result that cannot be written is made anew next time; `watch` shows both, and
        shows what was taken from the cache. The time that keeping a result takes is the watch's `cache`.

        Args:
            depends_on: what the result depends on beside `basis`, JSON.
        """
        if self.folder is None:
            return make()
        text = json.dumps([stage, self.basis, depends_on], sort_keys=True, allow_nan=False)
        path = self.folder / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        start = time.perf_counter()
        try:
            kept: T = stored.load(path)
        except FileNotFoundError:
            pass
        except stored.DamagedError:
            watch.mention(f"{stage} (cached result damaged, made anew)")
        except OSError as error:
            watch.mention(f"{stage} (cached result cannot be read: {error.strerror or error})")
        else:
            watch.mention(f"{stage} (cached)", time.perf_counter() - start)
            return kept
        made = make()
        start = time.perf_counter()
        try:
            stored.store(made, path)
        except InputError as error:
            watch.mention(f"{stage} (cannot be cached: {error})")
        watch.add("cache", time.perf_counter() - start)
        return made


def numerics() -> list[str]:
    """What decides the last bit of a float sum here, and the digest of the code that adds."""
    versions = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    processor = [platform.machine(), cpu_model(), torch.backends.cpu.get_cpu_capability()]
    how = [f"{torch.get_num_threads()} threads", f"{torch.get_float32_matmul_precision()} precision"]
    return [code_digest(Path(__file__).parents[1]), *versions, *processor, *how]


def code_digest(package: Path) -> str:
    """SHA-256 over the names and contents of all Python files below a folder."""
    sha = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name, content = path.relative_to(package).as_posix().encode(), path.read_bytes()
        sha.update(f"{len(name)} {len(content)} ".encode() + name + content)
    return sha.hexdigest()
