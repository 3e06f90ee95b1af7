"""Speed on a CPU of a bundle's integer files beside what other quantizers make of the same float model.

All files run in turn in one set of processes, block by block; ratios are to the float file. Each quantizer starts from
the bundle's own float model and the same images, in a process of its own whose wall time and peak memory are printed;
ours is what `compile` takes with the bundle's recipe.

    python -m tools.measure.runtimes BUNDLE --calib DATA [--batch 1] [--threads 1] [--images 32]

ONNX Runtime's quantizer is always there; `pip install openvino nncf` and `pip install nvidia-modelopt[onnx]` add
theirs, and run the `openvino` file.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.bench.compare.stats import paired_ratio
from qvit_deploy.bench.device.environment import environment
from qvit_deploy.bench.measure import BLOCKS, PROCESSES, Plan, in_turn
from qvit_deploy.cli.console import Bars
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.recipe import FUSED_PROFILE, OPENVINO_PROFILE, Profile
from qvit_deploy.targets.process_memory import peak_memory

CPU_PROFILES: tuple[Profile, ...] = ("onnxruntime", FUSED_PROFILE, OPENVINO_PROFILE)
"""Profiles whose files are measured, as far as the bundle has them."""


@dataclass(frozen=True)
class Made:
    """A quantized file and what making it cost."""

    name: str
    path: Path
    seconds: float | None
    peak_memory_bytes: int | None


def quantize_static(model: Path, images: np.ndarray, out: Path, weights_only: bool = False) -> None:
    """ONNX Runtime's, products only: with all operators it is slower and less accurate on transformers.

    Args:
        weights_only: leave products of two activations in float.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = _input(model)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.rest, None)
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
    """Names of the products without a constant operand."""
    import onnx

    graph = onnx.load(str(model)).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "MatMul" and not constants & set(n.input)]


def openvino_float(model: Path, images: np.ndarray, out: Path) -> None:
    """OpenVINO's own form of the float model; it runs in bfloat16 where the CPU can."""
    import openvino

    openvino.save_model(openvino.convert_model(str(model)), str(out), compress_to_fp16=False)


def nncf_int8(model: Path, images: np.ndarray, out: Path) -> None:
    """NNCF's post-training quantization with its settings for transformers; between integers it runs in bfloat16 where
    the CPU can, unless `out` is called `.f32.xml`."""
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
    """NVIDIA ModelOpt's ONNX quantization, made for TensorRT; here in ONNX Runtime."""
    from modelopt.onnx.quantization import quantize

    quantize(
        onnx_path=str(model),
        quantize_mode="int8",
        calibration_data={_input(model): images},
        calibration_method="max",
        calibration_eps=["cpu"],
        output_path=str(out),
    )


MAKERS: dict[str, tuple[str, str, str, Callable[[Path, np.ndarray, Path], None]]] = {
    "quantize_static, MatMul": ("onnxruntime", "", ".onnx", quantize_static),
    "quantize_static, MatMul by weights": ("onnxruntime", "", ".onnx", partial(quantize_static, weights_only=True)),
    "OpenVINO, float": ("openvino", "openvino", ".xml", openvino_float),
    "OpenVINO, NNCF INT8": ("nncf", "openvino nncf", ".xml", nncf_int8),
    "OpenVINO, NNCF INT8, rest in float32": ("nncf", "openvino nncf", ".f32.xml", nncf_int8),
    "ModelOpt INT8": ("modelopt", "nvidia-modelopt[onnx]", ".onnx", modelopt_int8),
}
"""Name -> (module it needs, packages to install, ending of its file, function)."""


def make(name: str, model: Path, images: Path, folder: Path) -> Made | None:
    """Runs one quantizer in a process of its own; None, and a line that says why, when there is none."""
    module, packages, ending, _ = MAKERS[name]
    if importlib.util.find_spec(module) is None:
        print(f"{name}: left out, {module} is not installed (pip install {packages})", file=sys.stderr)
        return None
    out = folder / f"{list(MAKERS).index(name)}{ending}"
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
    return Made(name, out, time.perf_counter() - start, peak)


def compile_cost(root: Path, calib: str, folder: Path) -> tuple[float, int]:
    """(seconds, peak memory in bytes) of compiling the bundle's float model again with its recipe."""
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


def _row(made: Made, blocks: list[list[float]], base: list[list[float]]) -> dict[str, Any]:
    """Times of one file, and its ratio to the float file's blocks next to them."""
    found = paired_ratio([(base, blocks)])
    return {
        "file": made.name,
        "ms": statistics.median(b for p in blocks for b in p),
        "ratio": found.value,
        "interval95": list(found.interval),
        "bytes": made.path.stat().st_size
        + sum(p.stat().st_size for p in made.path.parent.glob(f"{made.path.stem}.bin")),
        "seconds": made.seconds,
        "peak_memory_bytes": made.peak_memory_bytes,
    }


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        name, *paths = sys.argv[2:]
        source, images, out = map(Path, paths)
        MAKERS[name][3](source, np.load(images), out)
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
    bundle = read_bundle(arguments.bundle)
    model = bundle.path_of("model.float.onnx").absolute()
    preprocess = Preprocess.model_validate(bundle.manifest.source["preprocess"])
    with tempfile.TemporaryDirectory() as temporary, Bars() as bars:
        folder = Path(temporary)
        chosen = open_images(arguments.calib, preprocess, limit=arguments.images, split="calib")
        np.save(folder / "images.npy", np.concatenate([pixels for pixels, _ in chosen.batches(16)]))
        cost: tuple[float | None, int | None] = None, None
        with bars.stage("quantize", len(MAKERS) + 1) as advance:
            if not arguments.no_compile:
                cost = compile_cost(arguments.bundle.absolute(), arguments.calib, folder)
            advance(1)
            found = [Made("float, ONNX Runtime", model, None, None)]
            for profile in CPU_PROFILES:
                if (file := f"model.{profile}.onnx") in bundle.manifest.files:
                    spent = cost if profile == "onnxruntime" else (None, None)
                    found.append(Made(f"qvit-deploy, {profile}", bundle.path_of(file).absolute(), *spent))
            for name in MAKERS:
                made = make(name, model, folder / "images.npy", folder)
                found += [] if made is None else [made]
                advance(1)
        plan = Plan(batch=arguments.batch, threads=arguments.threads, processes=arguments.processes)
        times = in_turn([made.path for made in found], plan, BLOCKS, bars)
        rows = [_row(made, blocks, times[0]) for made, blocks in zip(found, times, strict=True)]
    where = environment()
    if arguments.json:
        print(json.dumps({"batch": arguments.batch, "threads": arguments.threads, "rows": rows}, indent=2))
        return
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
    versions = ", ".join(f"{n} {v}" for n, v in where.versions.items())
    console.print(f"batch {arguments.batch}, threads {arguments.threads}; {where.cpu}; {versions}")


if __name__ == "__main__":
    main()
