"""A machine that has all the plugin library is compiled with, as far as scripts can stand in for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvit_deploy.targets.tensorrt.engine.builder import plugin_build
from qvit_deploy.targets.tensorrt.engine.builder.plugin_build import HEADER, LIBRARY

NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.1";;
  *) echo sm_75; echo sm_87;;
esac
"""


class PluginToolchain:
    """A PATH with tools that do nothing, and TensorRT's headers."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin, self.headers, self.configured = root / "bin", root / "include", root / "configured"
        self.bin.mkdir()
        self.headers.mkdir()
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        for name in ("CXX", "CUDA_HOME", "CUDA_PATH", "TENSORRT_INCLUDE_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(plugin_build, "CUDA_FOLDERS", ())
        monkeypatch.setattr(plugin_build, "HEADER_FOLDERS", (str(self.headers),))
        for tool in ("cmake", "g++", "make"):
            self.tool(tool, "#!/bin/sh\nexit 0\n")
        self.tool("nvcc", NVCC.format(version="12.6"))
        self.tensorrt(10, 3)

    def tool(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def tensorrt(self, major: int, minor: int) -> None:
        (self.headers / HEADER).write_text("")
        defines = f"#define NV_TENSORRT_MAJOR {major} //!< major\n#define NV_TENSORRT_MINOR {minor} //!< minor\n"
        (self.headers / "NvInferVersion.h").write_text(defines)

    def compiles(self) -> None:
        """Makes CMake a script that writes a library of one byte, and a point to `configured` for every call before."""
        self.tool("cmake", '#!/bin/sh\n[ "$1" = --build ] && printf x >> "$2/plugin/' + LIBRARY + '" || printf . >> '
                  + str(self.configured) + '; [ "$1" = -S ] && /bin/mkdir -p "$4/plugin"; exit 0\n')  # fmt: skip
