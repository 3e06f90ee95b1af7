"""The COCO table on a handful of drawn pictures: its rows are complete, are made once, and survive a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import qvit_deploy
from tests.support.paper_tables import Tool, require_no_second_measurement, require_one_line, rows, tool_of
from tools.paper import reproduce_coco
from tools.paper.coco import measure
from tools.paper.coco.detector import Detector, architecture

pytest.importorskip("pycocotools")

NAME = "mask_rcnn_swin_tiny"
MODEL = f"{NAME}?width=16&depths=1,2,1,1&heads=1,1,2,2&channels=16&hidden=32"
CANVAS = (64, 96)
CATEGORIES = (3, 7)
RUNS = ("FP32", "W6A6", "MP6")


def draw(path: Path, seed: int, size: tuple[int, int] = (60, 90)) -> list[tuple[int, list[int]]]:
    """A picture with two rectangles; returns their (category, [left, top, width, height])."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 110, (*size, 3)).astype(np.uint8)
    boxes = []
    for category in CATEGORIES:
        height, width = (int(v) for v in rng.integers(20, 40, 2))
        top, left = int(rng.integers(0, size[0] - height)), int(rng.integers(0, size[1] - width))
        pixels[top : top + height, left : left + width] = (220, 30, 30) if category == 3 else (30, 30, 220)
        boxes.append((category, [left, top, width, height]))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return boxes


def polygon(box: Sequence[int]) -> list[int]:
    left, top, width, height = box
    return [left, top, left + width, top, left + width, top + height, left, top + height]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`coco/` with 10 pictures to calibrate on, one unreadable, and 4 to evaluate; `weights/`."""
    root = tmp_path_factory.mktemp("fake")
    for i in range(10):
        draw(root / "coco" / "train2017" / f"{i}.png", 100 + i)
    (root / "coco" / "train2017" / "5.png").write_bytes(b"no picture")
    images, annotations = [], []
    for i in range(1, 5):
        for category, box in draw(root / "coco" / "val2017" / f"{i}.png", i):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": i, "category_id": category, "bbox": box, "iscrowd": 0,
                    "area": box[2] * box[3], "segmentation": [polygon(box)],
                }
            )  # fmt: skip
        images.append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 90})
    tree = {"images": images, "annotations": annotations, "categories": [{"id": c, "name": str(c)} for c in CATEGORIES]}
    (root / "coco" / "annotations").mkdir()
    (root / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(tree))
    torch.manual_seed(0)
    (root / "weights").mkdir()
    state = Detector(architecture(MODEL), CANVAS, len(CATEGORIES)).state_dict()
    save_file(state, root / "weights" / f"{NAME}.safetensors")
    return root


def command(folder: Path, out: Path, *more: object) -> list[str]:
    size = f"{CANVAS[0]}x{CANVAS[1]}"
    given = ("--checkpoints", folder / "weights", "--models", MODEL, "--size", size)
    return [str(a) for a in (folder / "coco", "--out", out, *given, *more)]


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    return tool_of(reproduce_coco.main, capsys)


@pytest.fixture(scope="session")
def interrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The CSV of a float, a fixed and a mixed run, interrupted at the third picture of the second run and resumed; and
    the pictures that the two commands ran."""
    out = tmp_path_factory.mktemp("results") / "coco.csv"
    arguments = command(folder, out, "--runs", *RUNS)
    ran: list[int] = []
    real_rows, real_compile = measure.rows, qvit_deploy.compile
    stop = True

    def counted(found: Any, masks: Any, inside: Any, size: Any, image: int, categories: Any) -> Any:
        if stop and len(ran) == 9:  # 4 pictures, 3 compiles, 2 pictures
            raise KeyboardInterrupt
        ran.append(image)
        return real_rows(found, masks, inside, size, image, categories)

    def compiled(*given: Any, **named: Any) -> Any:
        ran.append(0)
        return real_compile(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "rows", counted)
        patch.setattr(qvit_deploy, "compile", compiled)
        assert reproduce_coco.main(arguments) == 130
        assert [row["run"] for row in rows(out)] == ["FP32"]
        (half,) = out.with_name("coco.csv.work").glob("*/detections.jsonl")
        with half.open("a") as file:
            file.write("[3, [{")  # a line that a killed process did not finish
        stop = False
        assert reproduce_coco.main(arguments) == 0
    return out, ran


def test_an_interrupted_table_goes_on_after_its_last_picture(interrupted: tuple[Path, list[int]]) -> None:
    out, ran = interrupted
    images, compiles = [1, 2, 3, 4], [0, 0, 0]  # trunk, boxes, masks
    assert ran == [*images, *compiles, *images, *compiles, *images]
    assert not list(out.with_name("coco.csv.work").iterdir())


def test_every_run_is_a_row_that_says_what_was_measured(interrupted: tuple[Path, list[int]]) -> None:
    found = rows(interrupted[0])
    assert tuple(found[0]) == reproduce_coco.COLUMNS and [row["run"] for row in found] == list(RUNS)
    for row in found:
        assert row["n"] == "4" and row["limit"] == "" and row["size"] == "64x96" and row["seed"] == "0"
        assert 0 <= float(row["box_ap"]) <= 100 and 0 <= float(row["mask_ap"]) <= 100
        assert row["weights"].startswith("sha256 ") and row["version"]
    assert found[0]["recipe"] == found[0]["in_float"] == ""
    for row in found[1:]:
        trunk, boxes, masks = row["quantized"].split(" | ")
        assert "5 matmul_av" in trunk and boxes.startswith("4 linear; ") and masks.startswith("4 conv, 1 linear; ")
        assert row["calibration_images"].startswith("8 | ") and row["calibration_skipped"] == "1"
        assert row["in_float"] == "masks.heads.0.upsample" and len(row["recipe"]) == 16
    assert found[1]["quantized"].split(" | ")[1] == "4 linear; 4 w6a6"
    assert all(float(part) <= 6.1 for part in found[2]["mean_w_bits"].split(" | "))
    assert "our choice" in found[2]["widths"]


def test_a_second_run_measures_nothing_and_prints_the_table(
    tool: Tool, folder: Path, interrupted: tuple[Path, list[int]], tmp_path: Path
) -> None:
    copied = Path(shutil.copy(interrupted[0], tmp_path / "r.csv"))
    require_no_second_measurement(tool, command(folder, copied, "--runs", *RUNS), copied)


def _without_a_tensor(root: Path) -> None:
    state = Detector(architecture(MODEL), CANVAS, len(CATEGORIES)).state_dict()
    state["extra.weight"] = state.pop("neck.lateral_convs.0.conv.bias")
    save_file(state, root / "weights" / f"{NAME}.safetensors")


def _one_category_more(root: Path) -> None:
    path = root / "coco" / "annotations" / "instances_val2017.json"
    tree = json.loads(path.read_text())
    tree["categories"].append({"id": 9, "name": "9"})
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("spoil", "more", "words"),
    [
        (lambda root: shutil.rmtree(root / "coco"), (), "COCO needs it"),
        (lambda root: shutil.rmtree(root / "coco" / "train2017"), (), "images to calibrate on"),
        (lambda root: (root / "coco" / "val2017" / "2.png").unlink(), (), "2.png does not exist"),
        (
            lambda root: (root / "coco" / "annotations" / "instances_val2017.json").write_text("[]"), (),
            "does not hold COCO's categories",
        ),
        (lambda root: shutil.rmtree(root / "weights"), (), f"there is no {{root}}/weights/{NAME}.pth"),
        (_without_a_tensor, (), "missing: neck.lateral_convs.0.conv.bias; unexpected: extra.weight"),
        (_one_category_more, (), "wrong shape: roi_head.bbox_head.fc_cls.weight is [3, 32], expected [4, 32]"),
        (lambda root: None, ("--models", "mask_rcnn_swin_huge"), "there is no detector 'mask_rcnn_swin_huge'"),
        (lambda root: None, ("--models", f"{NAME}?depths=1,2"), "depths needs 4 whole numbers"),
        (lambda root: (root / "r.csv").write_text("a,b\n"), (), "has other columns"),
    ],
)  # fmt: skip
def test_unusable_input_is_one_line_before_anything_runs(
    tool: Tool, folder: Path, tmp_path: Path, spoil: Callable[[Path], object], more: tuple[str, ...], words: str
) -> None:
    root = shutil.copytree(folder, tmp_path / "copy")
    spoil(root)
    require_one_line(tool, command(root, root / "r.csv", *more), words.format(root=root))


@pytest.mark.parametrize(
    ("run", "repq", "aphq"), [("W4A4", "36.1/36.0", "38.9/38.1"), ("MP6", "45.1/41.2", ""), ("FP32", "", "")]
)
def test_published_numbers_stand_beside_the_same_nominal_width(run: str, repq: str, aphq: str) -> None:
    cells = reproduce_coco.published(NAME, run)
    assert cells["float (published)"] == "46.0/41.6" and cells["RepQ-ViT (published)"] == repq
    assert cells["APHQ-ViT (published)"] == aphq and cells["LRP-QViT (published)"] == ""
    assert set(cells) == set(reproduce_coco.PUBLISHED) <= set(reproduce_coco.COLUMNS)


def test_a_changed_detector_has_no_published_numbers() -> None:
    assert set(reproduce_coco.published(MODEL, "W4A4").values()) == {""}
