"""Compiles `libqvit_plugins.so`, the TensorRT plugins of the target `tensorrt-plugin`, from the sources in the package.

Compiling takes CMake, a C++ compiler, nvcc and TensorRT's headers, all of which JetPack brings. The result is cached
under the digest of the sources, the tools' versions and the GPUs.
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
from qvit_deploy.targets.tensorrt.engine.kind import ON_DEVICE

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
"""How many lines of the compiler's output an error shows."""
PROGRESS_UNITS = 100
"""Percent, as CMake's generators report it."""
MAX_JOBS = 4
"""Compilers that run at once: each takes up to a gigabyte, and a Jetson Orin Nano has eight."""


@dataclass(frozen=True)
class Toolchain:
    """The tools that compile the plugins.

    Attributes:
        nvcc_version: (major, minor) of the CUDA toolkit.
        headers: folder of TensorRT's headers.
        tensorrt: (major, minor) of the headers.
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
        sms: compute capabilities that it holds code for, 87 for 8.7.
        cached: whether it had been compiled before.
        seconds: that this call took.
    """

    path: Path
    sms: tuple[int, ...]
    tools: Toolchain
    cached: bool
    seconds: float


def sources() -> Path:
    """Returns the folder of the kernels' sources: in an installed package, or next to it in a checkout.

    Raises:
        InputError: the installation has no sources.
    """
    package = Path(__file__).parents[4]
    folders = [p for p in (package / "kernels", package.parent / "kernels") if (p / "CMakeLists.txt").is_file()]
    if not folders:
        raise InputError(f"{package} has no kernels to compile: install qvit-deploy again")
    return folders[0]


def build_plugin(
    *,
    sms: tuple[int, ...] = (),
    headers: Path | None = None,
    out: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BuiltPlugin:
    """Compiles the library, or returns it from the cache.

    Args:
        sms: compute capabilities, 87 for 8.7; by default that of the GPU at hand.
        headers: folder of TensorRT's headers; by default that of TENSORRT_INCLUDE_DIR, or the usual places.
        out: writes a copy there; by default the library stays in the cache (XDG_CACHE_HOME, ~/.cache).
        force: compile again, and replace `out`.

    Raises:
        InputError: a tool or header is missing, too old or does not know the GPU, or the sources do not compile; the
            message says what to install.
    """
    start = time.monotonic()
    if out is not None and os.path.lexists(out) and not force:
        raise InputError(f"{out} exists; pass --force to replace it")
    gpu = None if sms else find_gpu()
    if not sms and gpu is None:
        raise InputError("no GPU is here to compile plugins for: name it with --sm, e.g. --sm 87 for Jetson Orin")
    targets = tuple(sorted(set(sms))) if gpu is None else (gpu.sm,)
    tools = find_tools(headers)
    _require_known(tools.nvcc, targets)
    folder = sources()
    path = _cache() / _digest(folder, tools, targets) / LIBRARY
    cached = path.is_file() and not force
    if not cached:
        _compile(folder, tools, targets, path, progress)
    if out is not None:
        _place(path, out)
    return BuiltPlugin(out or path, targets, tools, cached, time.monotonic() - start)


def find_tools(headers: Path | None) -> Toolchain:
    """Finds the tools on this machine. Raises InputError that says what to install."""
    cmake = shutil.which("cmake")
    if cmake is None:
        raise InputError("compiling the plugins needs CMake: sudo apt install cmake, or pip install cmake")
    cxx = os.environ.get("CXX")
    if not any(shutil.which(compiler) for compiler in ([cxx] if cxx else ["c++", "g++", "clang++"])):
        raise InputError(f"compiling the plugins needs a C++ compiler ({cxx or 'c++'}): sudo apt install g++")
    if not any(shutil.which(tool) for tool in ("make", "ninja")):
        raise InputError("compiling the plugins needs make: sudo apt install make")
    nvcc = _nvcc()
    version = _nvcc_version(nvcc)
    if version < OLDEST_NVCC:
        raise InputError(
            f"{nvcc} is CUDA {version[0]}.{version[1]}, and the kernels need 12.0: install a newer toolkit"
        )
    folder = _headers(headers)
    return Toolchain(Path(cmake), nvcc, version, folder, _tensorrt_version(folder))


def _nvcc() -> Path:
    homes = [*filter(None, (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))), *CUDA_FOLDERS]
    installed = [p for p in (Path(home) / "bin" / "nvcc" for home in homes) if p.is_file()]
    on_path = shutil.which("nvcc")
    if on_path is None and not installed:
        raise InputError(
            "compiling the plugins needs nvcc, on PATH or under CUDA_HOME: on Jetson sudo apt install nvidia-jetpack, "
            "elsewhere the CUDA toolkit"
        )
    return installed[0] if on_path is None else Path(on_path)


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


def _headers(folder: Path | None) -> Path:
    folder = folder or (Path(d) if (d := os.environ.get("TENSORRT_INCLUDE_DIR")) else None)
    if folder is not None:
        if not (folder / HEADER).is_file():
            raise InputError(f"{folder} has no {HEADER}: name the folder of TensorRT's headers")
        return folder.resolve()
    installed = [place for place in HEADER_FOLDERS if (Path(place) / HEADER).is_file()]
    if not installed:
        raise InputError(
            f"compiling the plugins needs TensorRT's headers ({HEADER}): sudo apt install libnvinfer-headers-dev, or "
            "set TENSORRT_INCLUDE_DIR to their folder"
        )
    return Path(installed[0])


def _tensorrt_version(headers: Path) -> tuple[int, int]:
    """Returns (major, minor) of the headers. Raises InputError if they are too old."""
    try:
        text = (headers / "NvInferVersion.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    # 11 defines NV_TENSORRT_MAJOR by way of TRT_MAJOR_ENTERPRISE.
    numbers = dict(re.findall(r"#define\s+(?:NV_TENSORRT|TRT)_(MAJOR|MINOR)(?:_ENTERPRISE)?\s+(\d+)", text))
    if set(numbers) != {"MAJOR", "MINOR"}:
        raise InputError(
            f"{headers / 'NvInferVersion.h'} does not tell the version of TensorRT: install its headers again"
        )
    version = int(numbers["MAJOR"]), int(numbers["MINOR"])
    if version < ON_DEVICE.oldest:
        raise InputError(f"{headers} has the headers of TensorRT {version[0]}.{version[1]}, and the plugins need 10.3")
    return version


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qvit-deploy" / "plugins"


def _digest(folder: Path, tools: Toolchain, sms: tuple[int, ...]) -> str:
    """Returns the digest of everything that the library depends on, 16 hex digits of SHA-256."""
    sha = hashlib.sha256(repr((sms, tools.nvcc_version, tools.tensorrt)).encode())
    for part in ("CMakeLists.txt", "include", "src", "plugin"):
        path = folder / part
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                content = file.read_bytes()
                sha.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return sha.hexdigest()[:16]


def _compile(folder: Path, tools: Toolchain, sms: tuple[int, ...], path: Path, progress: Progress | None) -> None:
    with tempfile.TemporaryDirectory(prefix="qvit-plugins-") as build:
        configure = [
            str(tools.cmake), "-S", str(folder), "-B", build, "-DQVIT_TESTS=OFF", "-DQVIT_BENCH=OFF",
            f"-DQVIT_ARCHITECTURES={';'.join(map(str, sms))}", f"-DTENSORRT_INCLUDE_DIR={tools.headers}",
            f"-DCMAKE_CUDA_COMPILER={tools.nvcc}",
        ]  # fmt: skip
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(min(MAX_JOBS, os.cpu_count() or 1))
        with Stopwatch(progress).stage("compile plugins", PROGRESS_UNITS) as advance:
            _run(configure, lambda _: None)
            _run([str(tools.cmake), "--build", build, "--target", "qvit_plugins", "--parallel", jobs], advance)
        _place(Path(build) / "plugin" / LIBRARY, path)


def _run(command: list[str], advance: Advance) -> None:
    """Runs a command and advances by the percents it prints. Raises InputError with its last lines when it fails."""
    lines, done = list[str](), 0
    # Ninja prints percentages only with this setting.
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
        reasons = [line for line in lines if "error" in line.lower()] or [line for line in lines if line]
        raise InputError(f"the plugins do not compile: {' | '.join(reasons[-TAIL_LINES:]) or 'no reason given'}")


def _place(source: Path, to: Path) -> None:
    make_folder(to.parent)
    with whole_file(to) as temporary:
        shutil.copyfile(source, temporary)
