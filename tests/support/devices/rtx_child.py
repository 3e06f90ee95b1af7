"""Asks TensorRT-RTX about the files of a folder, in a process of its own because the library may end it.

`python rtx_child.py FOLDER` prints one JSON line per file (see `ask`; of `*.parse` no engine is built), and first one
with the operators of standard ONNX that the parser has no importer for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import tensorrt_rtx as trt

QUIET = ("(code 35)", "CUDA")  # there may be no GPU


class Log(trt.ILogger):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity == trt.ILogger.Severity.WARNING and not any(q in message for q in QUIET):
            self.warnings.append(message)


def ask(path: Path) -> dict[str, object]:
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed, built, types = parser.parse_from_file(str(path)), None, []
    if parsed:
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        types = [str(layer.get_output(0).dtype) for layer in layers if layer.type == trt.LayerType.QUANTIZE]
    if parsed and path.suffix != ".parse":
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        built = builder.build_serialized_network(network, config) is not None
    errors = " ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
    return {
        "file": path.name, "parsed": parsed, "built": built, "errors": errors, "warnings": log.warnings, "types": types,
    }  # fmt: skip


def not_parsed() -> list[str]:
    log = Log()
    builder = trt.Builder(log)
    parser = trt.OnnxParser(builder.create_network(0), log)
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    return sorted(name for name in names if not parser.supports_operator(name))


if __name__ == "__main__":
    print(json.dumps({"not_parsed": not_parsed()}), flush=True)
    for file in sorted(Path(sys.argv[1]).iterdir()):
        print(json.dumps(ask(file)), flush=True)
