"""Compiles `libqvit_plugins.so`, the TensorRT plugins that the packed profile runs in, from the sources in the package.

Compiling takes CMake, a C++ compiler, nvcc and TensorRT's headers, all of which JetPack brings. What was compiled once
from the same sources with the same tools is kept, under the digest of all of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.artifacts.atomic import make_folder, whole_file
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Advance, Progress, Stopwatch
from qvit_deploy.targets.tensorrt.engine.gpu import find_gpu
from qvit_deploy.targets.tensorrt.engine.library import OLDEST

LIBRARY = "libqvit_plugins.so"
HEADER = "NvInferRuntime.h"
OLDEST_NVCC = (12, 0)
HEADER_FOLDERS = (
    "/usr/include/aarch64-linux-gnu", "/usr/include/x86_64-linux-gnu", "/usr/include", "/usr/local/include",
    "/usr/local/tensorrt/include", "/opt/tensorrt/include",
)  # fmt: skip
"""Where TensorRT's packages, and people who unpack it by hand, put its headers."""
CUDA_FOLDERS = ("/usr/local/cuda",)
TAIL_LINES = 8
"""Of the compiler's output that are shown when it fails."""
UNITS = 100
MOST_JOBS = 4
"""Of the compiler at once: each takes up to a gigabyte, and a Jetson Orin Nano has eight."""


@dataclass(frozen=True)
class Tools:
    """What compiles.

    Attributes:
        nvcc_version: (major, minor) of the CUDA toolkit.
        headers: folder of TensorRT's.
        tensorrt: their version.
    """

    cmake: Path
    nvcc: Path
    nvcc_version: tuple[int, int]
    headers: Path
    tensorrt: tuple[int, int]


@dataclass(frozen=True)
class BuiltPlugin:
    """A compiled plugin library.

    Attributes:
        sms: the GPUs it holds code for.
        cached: it had been compiled before.
        seconds: what this call took.
    """

    path: Path
    sms: tuple[int, ...]
    tools: Tools
    cached: bool
    seconds: float


def sources() -> Path:
    """The folder of the kernels' sources: in an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[3]
    found = [p for p in (package / "kernels", package.parent / "kernels") if (p / "CMakeLists.txt").is_file()]
    if not found:
        raise InputError(f"{package} has no kernels to compile: install qvit-deploy again")
    return found[0]


def build_plugin(
    *,
    sms: tuple[int, ...] = (),
    headers: Path | None = None,
    out: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BuiltPlugin:
    """Compiles the library, or finds it compiled.

    Args:
        sms: compute capabilities, 87 for 8.7; by default that of the GPU at hand.
        headers: folder of TensorRT's headers; by default that of TENSORRT_INCLUDE_DIR, or the usual places.
        out: where a copy goes; by default it stays in the cache (XDG_CACHE_HOME, ~/.cache).
        force: compile again, and replace `out`.

    Raises:
        InputError: a tool or header is missing, too old or does not know the GPU, or the sources do not compile; says
            what to install.
    """
    start = time.monotonic()
    if out is not None and os.path.lexists(out) and not force:
        raise InputError(f"{out} exists; pass --force to replace it")
    gpu = None if sms else find_gpu()
    if not sms and gpu is None:
        raise InputError("no GPU is here to compile plugins for: name it with --sm, e.g. --sm 87 for Jetson Orin")
    wanted = tuple(sorted(set(sms))) if gpu is None else (gpu.sm,)
    tools = find_tools(headers)
    _require_known(tools.nvcc, wanted)
    folder = sources()
    path = _cache() / _digest(folder, tools, wanted) / LIBRARY
    cached = path.is_file() and not force
    if not cached:
        _compile(folder, tools, wanted, path, progress)
    if out is not None:
        _place(path, out)
    return BuiltPlugin(out or path, wanted, tools, cached, time.monotonic() - start)


def find_tools(headers: Path | None) -> Tools:
    """What compiles on this machine. Raises InputError with what to install."""
    cmake = shutil.which("cmake")
    if cmake is None:
        raise InputError("compiling the plugins needs CMake: sudo apt install cmake, or pip install cmake")
    named = os.environ.get("CXX")
    if not any(shutil.which(compiler) for compiler in ([named] if named else ["c++", "g++", "clang++"])):
        raise InputError(f"compiling the plugins needs a C++ compiler ({named or 'c++'}): sudo apt install g++")
    if not any(shutil.which(tool) for tool in ("make", "ninja")):
        raise InputError("compiling the plugins needs make: sudo apt install make")
    nvcc = _nvcc()
    version = _nvcc_version(nvcc)
    if version < OLDEST_NVCC:
        raise InputError(
            f"{nvcc} is CUDA {version[0]}.{version[1]}, and the kernels need 12.0: install a newer toolkit"
        )
    folder = _headers(headers)
    return Tools(Path(cmake), nvcc, version, folder, _tensorrt_version(folder))


def _nvcc() -> Path:
    homes = [*filter(None, (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))), *CUDA_FOLDERS]
    found = [p for p in (Path(home) / "bin" / "nvcc" for home in homes) if p.is_file()]
    on_path = shutil.which("nvcc")
    if on_path is None and not found:
        raise InputError(
            "compiling the plugins needs nvcc, on PATH or under CUDA_HOME: on Jetson sudo apt install nvidia-jetpack, "
            "elsewhere the CUDA toolkit"
        )
    return found[0] if on_path is None else Path(on_path)


def _nvcc_version(nvcc: Path) -> tuple[int, int]:
    match = re.search(r"release (\d+)\.(\d+)", _output([str(nvcc), "--version"]))
    if match is None:
        raise InputError(f"{nvcc} does not tell its version: install the CUDA toolkit again")
    return int(match[1]), int(match[2])


def _require_known(nvcc: Path, sms: tuple[int, ...]) -> None:
    known = {int(n) for n in re.findall(r"sm_(\d+)\b", _output([str(nvcc), "--list-gpu-code"]))}
    unknown = [sm for sm in sms if sm not in known]
    if unknown:
        raise InputError(f"{nvcc} does not compile for SM{unknown[0]}, only for {', '.join(map(str, sorted(known)))}")


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{command[0]} does not run ({error}): install the CUDA toolkit again") from None


def _headers(given: Path | None) -> Path:
    named = given or (Path(d) if (d := os.environ.get("TENSORRT_INCLUDE_DIR")) else None)
    if named is not None:
        if not (named / HEADER).is_file():
            raise InputError(f"{named} has no {HEADER}: name the folder of TensorRT's headers")
        return named.resolve()
    found = [folder for folder in HEADER_FOLDERS if (Path(folder) / HEADER).is_file()]
    if not found:
        raise InputError(
            f"compiling the plugins needs TensorRT's headers ({HEADER}): sudo apt install libnvinfer-headers-dev, or "
            "set TENSORRT_INCLUDE_DIR to their folder"
        )
    return Path(found[0])


def _tensorrt_version(headers: Path) -> tuple[int, int]:
    """(major, minor) of the headers. Raises InputError if they are too old."""
    try:
        text = (headers / "NvInferVersion.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    # 11 defines NV_TENSORRT_MAJOR by way of TRT_MAJOR_ENTERPRISE.
    found = dict(re.findall(r"#define\s+(?:NV_TENSORRT|TRT)_(MAJOR|MINOR)(?:_ENTERPRISE)?\s+(\d+)", text))
    if set(found) != {"MAJOR", "MINOR"}:
        raise InputError(
            f"{headers / 'NvInferVersion.h'} does not tell the version of TensorRT: install its headers again"
        )
    version = int(found["MAJOR"]), int(found["MINOR"])
    if version < OLDEST["tensorrt"]:
        raise InputError(f"{headers} has the headers of TensorRT {version[0]}.{version[1]}, and the plugins need 10.3")
    return version


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qvit-deploy" / "plugins"


def _digest(folder: Path, tools: Tools, sms: tuple[int, ...]) -> str:
    """Of everything that the library depends on."""
    sha = hashlib.sha256(repr((sms, tools.nvcc_version, tools.tensorrt)).encode())
    for part in ("CMakeLists.txt", "include", "src", "plugin"):
        place = folder / part
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                content = file.read_bytes()
                sha.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return sha.hexdigest()[:16]


def _compile(folder: Path, tools: Tools, sms: tuple[int, ...], path: Path, progress: Progress | None) -> None:
    with tempfile.TemporaryDirectory(prefix="qvit-plugins-") as build:
        configure = [
            str(tools.cmake), "-S", str(folder), "-B", build, "-DQVIT_TESTS=OFF", "-DQVIT_BENCH=OFF",
            f"-DQVIT_ARCHITECTURES={';'.join(map(str, sms))}", f"-DTENSORRT_INCLUDE_DIR={tools.headers}",
            f"-DCMAKE_CUDA_COMPILER={tools.nvcc}",
        ]  # fmt: skip
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(min(MOST_JOBS, os.cpu_count() or 1))
        with Stopwatch(progress).stage("compile plugins", UNITS) as advance:
            _run(configure, lambda _: None)
            _run([str(tools.cmake), "--build", build, "--target", "qvit_plugins", "--parallel", jobs], advance)
        _place(Path(build) / "plugin" / LIBRARY, path)


def _run(command: list[str], advance: Advance) -> None:
    """Raises InputError with the last lines of what the command said when it fails."""
    lines, done = list[str](), 0
    # Ninja's own progress has no percentages unless it is told.
    environment = {**os.environ, "NINJA_STATUS": "[%p] ", "LC_ALL": "C"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(" ".join(line.split()))
            share = re.match(r"\[\s*(\d+)%\]", lines[-1])
            if share is not None and int(share[1]) > done:
                advance(int(share[1]) - done)
                done = int(share[1])
    if process.returncode:
        said = [line for line in lines if "error" in line.lower()] or [line for line in lines if line]
        raise InputError(f"the plugins do not compile: {' | '.join(said[-TAIL_LINES:]) or 'no reason given'}")


def _place(source: Path, to: Path) -> None:
    make_folder(to.parent)
    with whole_file(to) as temporary:
        shutil.copyfile(source, temporary)
