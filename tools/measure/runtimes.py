"""Measures the speed on a CPU of a bundle's integer files and of files from other quantizers for the same float model.

All files run in turn in one set of processes, block by block; ratios are to the float file. Each quantizer starts from
the bundle's own float model and the same images, in a process of its own whose wall time and peak memory are printed;
for qvit-deploy these are of `compile` with the bundle's recipe.

    python -m tools.measure.runtimes BUNDLE --calib DATA [--batch 1] [--threads 1] [--images 32]

ONNX Runtime's quantizer is always there; `pip install openvino nncf` and `pip install nvidia-modelopt[onnx]` add
theirs; OpenVINO also runs the `openvino` file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qvit_deploy.artifacts.bundle import Bundle, read_bundle
from qvit_deploy.bench.compare.stats import paired_ratio
from qvit_deploy.bench.device.environment import environment
from qvit_deploy.bench.measure import BLOCKS, PROCESSES, MeasureOptions, in_turn
from qvit_deploy.cli.console import Bars
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.graph.interface import IMAGE
from qvit_deploy.targets.process_memory import peak_memory
from qvit_deploy.targets.registry import REFERENCE, TARGETS

CPU_TARGETS = tuple(target for target in TARGETS.values() if not target.half_precision)
"""Targets whose files are measured, as far as the bundle has them."""


@dataclass(frozen=True)
class QuantizedFile:
    """A quantized file and what quantizing cost, where that was measured."""

    name: str
    path: Path
    seconds: float | None
    peak_memory_bytes: int | None


def quantize_static(model: Path, images: np.ndarray, out: Path, weights_only: bool = False) -> None:
    """Quantizes with ONNX Runtime, products only: with all operators it is slower and less accurate on transformers.

    Args:
        weights_only: leaves products of two activations in float.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = _input(model)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {name: image[None]}

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_of_two_activations(prepared) if weights_only else [],
    )


def _of_two_activations(model: Path) -> list[str]:
    """Returns the names of the products without a constant operand."""
    import onnx

    graph = onnx.load(str(model)).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "MatMul" and not constants & set(n.input)]


def openvino_float(model: Path, images: np.ndarray, out: Path) -> None:
    """Converts the float model to OpenVINO's format; it runs in bfloat16 where the CPU can."""
    import openvino

    openvino.save_model(openvino.convert_model(str(model)), str(out), compress_to_fp16=False)


def nncf_int8(model: Path, images: np.ndarray, out: Path) -> None:
    """Quantizes with NNCF's post-training quantization and its settings for transformers.

    Between integer products the file runs in bfloat16 where the CPU can, unless `out` is called `.f32.xml`.
    """
    import nncf
    import openvino

    dataset = nncf.Dataset([image[None] for image in images])
    quantized = nncf.quantize(
        openvino.convert_model(str(model)),
        dataset,
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(quantized, str(out), compress_to_fp16=False)


def modelopt_int8(model: Path, images: np.ndarray, out: Path) -> None:
    """Quantizes with NVIDIA ModelOpt's ONNX quantization, made for TensorRT; the file runs in ONNX Runtime here."""
    from modelopt.onnx.quantization import quantize

    quantize(
        onnx_path=str(model),
        quantize_mode="int8",
        calibration_data={_input(model): images},
        calibration_method="max",
        calibration_eps=["cpu"],
        output_path=str(out),
    )


QUANTIZERS: dict[str, tuple[str, str, str, Callable[[Path, np.ndarray, Path], None]]] = {
    "quantize_static, MatMul": ("onnxruntime", "", ".onnx", quantize_static),
    "quantize_static, MatMul by weights": ("onnxruntime", "", ".onnx", partial(quantize_static, weights_only=True)),
    "OpenVINO, float": ("openvino", "openvino", ".xml", openvino_float),
    "OpenVINO, NNCF INT8": ("nncf", "openvino nncf", ".xml", nncf_int8),
    "OpenVINO, NNCF INT8, rest in float32": ("nncf", "openvino nncf", ".f32.xml", nncf_int8),
    "ModelOpt INT8": ("modelopt", "nvidia-modelopt[onnx]", ".onnx", modelopt_int8),
}
"""By name: module it needs, packages to install, ending of its file, function."""


def quantize(name: str, model: Path, images: Path, folder: Path) -> QuantizedFile | None:
    """Runs one quantizer in a process of its own; returns None, and prints why, when it is missing or fails."""
    module, packages, ending, _ = QUANTIZERS[name]
    if importlib.util.find_spec(module) is None:
        print(f"{name}: left out, {module} is not installed (pip install {packages})", file=sys.stderr)
        return None
    out = folder / f"{list(QUANTIZERS).index(name)}{ending}"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--make", name, str(model), str(images), str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"{name}: left out, it failed: {reason}", file=sys.stderr)
        return None
    peak = json.loads(done.stdout.splitlines()[-1])["peak_memory_bytes"]
    return QuantizedFile(name, out, time.perf_counter() - start, peak)


def compile_cost(root: Path, calib: str, folder: Path) -> tuple[float, int]:
    """Compiles the bundle's float model again with its recipe; returns (seconds, peak memory in bytes)."""
    manifest = read_bundle(root).manifest
    recipe, preprocess = folder / "recipe.toml", folder / "preprocess.json"
    fields = {k: v for k, v in manifest.recipe.items() if v is not None}
    recipe.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in fields.items()))
    preprocess.write_text(json.dumps(manifest.source["preprocess"]))
    start = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable, "-m", "qvit_deploy", "compile", str(root / "model.float.onnx"), "-o", str(folder / "again"),
            "--calib", calib, "--recipe", str(recipe), "--preprocess", str(preprocess), "--json",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"compiling {root} again failed: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start, json.loads(done.stdout)["peak_memory_bytes"]


def _input(model: Path) -> str:
    import onnx

    return str(onnx.load(str(model), load_external_data=False).graph.input[0].name)


def _row(file: QuantizedFile, blocks: list[list[float]], base: list[list[float]]) -> dict[str, Any]:
    """Returns the times of one file, and its ratio to the float file's neighbouring blocks."""
    ratio = paired_ratio([(base, blocks)])
    weights = sum(p.stat().st_size for p in file.path.parent.glob(f"{file.path.stem}.bin"))
    return {
        "file": file.name,
        "ms": statistics.median(b for p in blocks for b in p),
        "ratio": ratio.value,
        "interval95": list(ratio.interval),
        "bytes": file.path.stat().st_size + weights,
        "seconds": file.seconds,
        "peak_memory_bytes": file.peak_memory_bytes,
    }


def quantized_files(bundle: Bundle, arguments: argparse.Namespace, folder: Path, bars: Bars) -> list[QuantizedFile]:
    """Returns the float file, the bundle's files, and those of the other quantizers, written to `folder`."""
    model = bundle.path_of("model.float.onnx").absolute()
    preprocess = Preprocess.model_validate(bundle.manifest.source["preprocess"])
    chosen = open_images(arguments.calib, preprocess, limit=arguments.images, split="calib")
    np.save(folder / "images.npy", np.concatenate([batch.arrays[IMAGE] for batch in chosen.batches(16)]))
    cost: tuple[float | None, int | None] = None, None
    with bars.stage("quantize", len(QUANTIZERS) + 1) as advance:
        if not arguments.no_compile:
            cost = compile_cost(arguments.bundle.absolute(), arguments.calib, folder)
        advance(1)
        files = [QuantizedFile("float, ONNX Runtime", model, None, None)]
        for target in CPU_TARGETS:
            if target.file in bundle.manifest.files:
                spent = cost if target is REFERENCE else (None, None)
                path = bundle.path_of(target.file).absolute()
                files.append(QuantizedFile(f"qvit-deploy, {target.name}", path, *spent))
        for name in QUANTIZERS:
            quantized = quantize(name, model, folder / "images.npy", folder)
            files += [] if quantized is None else [quantized]
            advance(1)
    return files


def _print(rows: Sequence[dict[str, Any]], batch: int, threads: int) -> None:
    table = Table("file", "ms", "of float's time", "faster", "MB", "made in", "peak memory")
    for row in rows:
        low, high = row["interval95"]
        table.add_row(
            row["file"], f"{row['ms']:.3f}", f"{row['ratio']:.3f} ({low:.3f} to {high:.3f})",
            f"{1 / row['ratio']:.2f}x", f"{row['bytes'] / 1e6:.1f}",
            "" if row["seconds"] is None else f"{row['seconds']:.0f} s",
            "" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 1e9:.2f} GB",
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    machine = environment()
    versions = ", ".join(f"{n} {v}" for n, v in machine.versions.items())
    console.print(f"batch {batch}, threads {threads}; {machine.cpu}; {versions}")


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        name, *paths = sys.argv[2:]
        source, images, out = map(Path, paths)
        QUANTIZERS[name][3](source, np.load(images), out)
        print(json.dumps({"peak_memory_bytes": peak_memory()}))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--calib", required=True, help="DATA that all of them calibrate on")
    parser.add_argument("--images", type=int, default=32, help="calibration images of the others")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--no-compile", action="store_true", help="do not time our own compile")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Bars() as bars:
        files = quantized_files(read_bundle(arguments.bundle), arguments, Path(folder), bars)
        plan = MeasureOptions(batch=arguments.batch, threads=arguments.threads, processes=arguments.processes)
        times = in_turn([quantized.path for quantized in files], plan, BLOCKS, bars)
        rows = [_row(quantized, blocks, times[0]) for quantized, blocks in zip(files, times, strict=True)]
    if arguments.json:
        print(json.dumps({"batch": arguments.batch, "threads": arguments.threads, "rows": rows}, indent=2))
    else:
        _print(rows, arguments.batch, arguments.threads)


if __name__ == "__main__":
    main()
