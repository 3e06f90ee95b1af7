"""Records which names a release of TensorRT's Python module has, without TensorRT itself and without a GPU.

The wheel with the bindings holds the compiled module and a few functions around it; the libraries are NVIDIA's own
download. The module asks them for a dozen C functions, none of which is called when it is imported, so empty ones are
enough to import it and to list its classes. Nothing can be built with them.

    pip download --no-deps tensorrt-cu12-bindings==10.3.0
    python -m tools.ci.record_tensorrt_api tensorrt_cu12_bindings-10.3.0-*.whl \
        > tests/support/devices/tensorrt_api/10.3.0.json
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL", "createInferRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion",
    "getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "EngineInspector", "HardwareCompatibilityLevel", "IBuilderConfig",
    "ICudaEngine", "IExecutionContext", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IPluginRegistry",
    "IProfiler", "IProgressMonitor", "ITensor", "ITimingCache", "LayerInformationFormat", "Logger", "MemoryPoolType",
    "NetworkDefinitionCreationFlag", "OnnxParser", "OnnxParserFlag", "ParserError", "ProfilingVerbosity",
    "Runtime", "TensorIOMode",
)  # fmt: skip
_LIST = """
import importlib.util, json, sys
path, classes = sys.argv[1], sys.argv[2:]
spec = importlib.util.spec_from_file_location("tensorrt", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
public = lambda x: sorted(n for n in dir(x) if not n.startswith("_"))
members = {c: public(getattr(module, c)) for c in classes if hasattr(module, c)}
print(json.dumps({"module": public(module), "classes": members}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root)
        module = next(root.rglob("tensorrt.so"))
        needed = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True).stdout
        source = root / "empty.c"
        source.write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
        for library in re.findall(r"\[(lib(?:" + "|".join(LIBRARIES) + r")\.so\.\d+)\]", needed):
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", root / library, source], check=True)
        listed = subprocess.run(
            [sys.executable, "-c", _LIST, module, *CLASSES],
            capture_output=True, text=True, check=True, env={**os.environ, "LD_LIBRARY_PATH": folder},
        )  # fmt: skip
        wrapper = ast.parse((module.parent / "__init__.py").read_text(encoding="utf-8"))
    names = json.loads(listed.stdout)
    functions = {node.name for node in wrapper.body if isinstance(node, ast.FunctionDef)}
    names["module"] = sorted({*names["module"], *functions})
    version = wheel.name.split("-")[1]
    json.dump({"version": version, **names}, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
