"""Compiles the kernels of sass_kernels.cu for every architecture and looks at the machine code, without a GPU.

    python kernels/tests/check_sass.py [--sm 87 --sm 90 ...]

Asserts that 4-bit tensor-core products are native (one IMMA.16864.S4) exactly where the hardware has them, that no
kernel touches local memory (spilled registers), and that copies and loads are the instructions they are meant to be;
prints registers and shared memory of every kernel. Exit code 1 with what is wrong, 2 when a tool is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 110, 120)
NATIVE_S4 = (80, 86, 87, 89)

GEMM = re.compile(r"qlinearILi(\d)ELi(\d)ENS_\d+(\w+)SourceENS_4TileI((?:Li\d+E)+)E")


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture.

    Attributes:
        registers, shared: per thread; bytes per block, dynamic.
        tensor: tensor-core instruction -> how often it stands in the code.
        code: its instructions, one a line.
    """

    name: str
    registers: int
    shared: int
    tensor: dict[str, int]
    code: str

    def count(self, pattern: str) -> int:
        return len(re.findall(pattern, self.code))


def find_tool(name: str) -> str | None:
    """Finds a tool on the path, in the CUDA toolkit, or in a wheel of this Python (Triton ships both tools)."""
    site = Path(sysconfig.get_paths()["purelib"])
    folders = [
        Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin",
        site / "triton/backends/nvidia/bin",
        *sorted(site.glob("nvidia/*/bin")),
    ]
    return shutil.which(name) or next((str(f / name) for f in folders if os.access(f / name, os.X_OK)), None)


def tools() -> dict[str, str]:
    """Finds nvcc, cuobjdump and nvdisasm. Raises FileNotFoundError that names the missing one and its package."""
    executables = {name: find_tool(name) for name in ("nvcc", "cuobjdump", "nvdisasm")}
    for name, path in executables.items():
        if path is None:
            raise FileNotFoundError(f"{name} not found: install the CUDA toolkit, or `pip install nvidia-cuda-{name}`")
    return {name: path for name, path in executables.items() if path is not None}


def describe(mangled: str) -> tuple[str, int]:
    """Returns (readable name, bytes of dynamic shared memory) of a mangled kernel name; sizes as in tile_memory.cuh."""
    gemm = GEMM.search(mangled)
    if gemm is None:
        name = "softmax_log2_av" if "softmax" in mangled else "layernorm_quantize"
        steps = re.search(r"avILi(\d)E", mangled)
        kind = "half" if "__half" in mangled else "float"
        return f"{name} {kind}" + (f" steps {steps[1]}" if steps else ""), 8832 if steps else 0
    w, a, source = int(gemm[1]), int(gemm[2]), gemm[3]
    m, n, k, wm, wn, stages = (int(x) for x in re.findall(r"Li(\d+)E", gemm[4]))
    shared = stages * k * (m * a + n * w) // 8
    return f"qlinear w{w}a{a} {source.lower()} {m}x{n}x{k}/{wm}x{wn}/{stages}", shared


def compile_and_read(sm: int, folder: Path, executables: dict[str, str]) -> list[Kernel]:
    cubin = folder / f"sm_{sm}.cubin"
    flags = ["-std=c++17", "--expt-relaxed-constexpr", f"-arch=sm_{sm}", f"-I{HERE.parent / 'include'}"]
    subprocess.run([executables["nvcc"], *flags, "-cubin", str(HERE / "sass_kernels.cu"), "-o", str(cubin)], check=True)
    # cuobjdump starts nvdisasm by name.
    environment = {**os.environ, "PATH": f"{Path(executables['nvdisasm']).parent}{os.pathsep}{os.environ['PATH']}"}

    def dump(option: str) -> str:
        command = [executables["cuobjdump"], option, str(cubin)]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    usage = dict(re.findall(r"Function (\S+):\s*\n\s*REG:(\d+)", dump("-res-usage")))
    kernels = []
    for part in dump("-sass").split("Function : ")[1:]:
        mangled, code = part.split("\n", 1)
        instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+([^;]+);", code, re.MULTILINE)
        tensor: dict[str, int] = {}
        for instruction in instructions:
            if found_mma := re.search(r"\b[A-Z]*MMA[.\w]*", instruction):
                tensor[found_mma[0]] = tensor.get(found_mma[0], 0) + 1
        name, shared = describe(mangled)
        kernels.append(Kernel(name, int(usage[mangled]), shared, tensor, "\n".join(instructions)))
    return sorted(kernels, key=lambda kernel: kernel.name)


def wrong(kernel: Kernel, sm: int) -> list[str]:
    """Returns what a kernel does that it must not, or does not do that it must."""
    problems = []
    gemm, s4 = kernel.name.startswith("qlinear"), sum(n for k, n in kernel.tensor.items() if ".S4" in k or ".U4" in k)
    native = sm in NATIVE_S4 and "w4a4" in kernel.name
    if native and (s4 == 0 or set(kernel.tensor) != {"IMMA.16864.S4.S4"}):
        problems.append(f"4-bit products are not native: {kernel.tensor}")
    if not native and s4:
        problems.append(f"4-bit products where 8-bit ones belong: {kernel.tensor}")
    shape = "IMMA.8816." if sm < 80 else "IMMA.16832."
    if ((gemm and not native) or "softmax" in kernel.name) and not all(k.startswith(shape) for k in kernel.tensor):
        problems.append(f"products are not {shape}*: {kernel.tensor}")
    if (gemm or "softmax" in kernel.name) and not kernel.tensor:
        problems.append("no tensor-core product")
    if spilled := kernel.count(r"\b(?:LDL|STL)\b"):
        problems.append(f"{spilled} accesses to local memory")
    if gemm and kernel.count(r"\bRET\b"):  # a CALL alone may be a jump
        problems.append("has a subroutine, as emulated instructions do")
    if gemm and not kernel.count(r"\bLDSM\.16\.M?\w*\.?4\b"):
        problems.append("no ldmatrix of four matrices")
    if gemm and sm >= 80 and not kernel.count(r"\bLDGSTS\.E\.BYPASS\.(?:LTC\d+B\.)?128\b"):
        problems.append("no asynchronous copy of 16 bytes")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sm", type=int, action="append", help="architectures, all of them by default")
    architectures = parser.parse_args().sm or list(ARCHITECTURES)
    try:
        executables = tools()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    problems, rows = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for sm in architectures:
            for kernel in compile_and_read(sm, Path(folder), executables):
                rows.setdefault((kernel.name, kernel.shared), {})[sm] = kernel
                problems += [f"sm_{sm} {kernel.name}: {what}" for what in wrong(kernel, sm)]
    print(f"{'registers per thread':42} shared" + "".join(f"{sm:>6}" for sm in architectures) + "  products (last sm)")
    for (name, shared), by_sm in rows.items():
        last = by_sm[architectures[-1]].tensor
        counts = "".join(f"{by_sm[sm].registers:6}" for sm in architectures)
        print(f"{name:42} {shared:6}{counts}  " + ", ".join(f"{n} {k}" for k, n in last.items()))
    native = [sm for sm in architectures if any(".S4" in k for by in rows.values() for k in by[sm].tensor)]
    print(f"native 4-bit products on: {native or 'none'}; {len(rows)} kernels, {len(problems)} problems")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
