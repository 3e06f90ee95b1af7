"""Each task through a compile, an evaluation without labels and with them, and a drift by its own metric."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.frontend import Source
from qvit_deploy.graph.graph import Graph
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.session import open_model, outputs
from tests.support.command_line import Command
from tests.support.graphs.task_graphs import detector, embedder, segmenter

P = Preprocess(input_size=(3, 8, 8), mean=(0.5,), std=(0.25,))
COUNT = 24


@pytest.fixture
def data(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    return str(tmp_path / "images.npz")


def compiled(graph: Graph, task: str, data: str, tmp_path: Path, uniform: str = "w6a6") -> Path:
    recipe = Recipe.load(None, uniform=uniform, calibration_images=COUNT, task=task)
    compile(Source(graph, None, "small"), tmp_path / "out", calib=data, recipe=recipe, preprocess=P)
    return tmp_path / "out"


def manifest_task(bundle: Path) -> str:
    return str(json.loads((bundle / "manifest.json").read_text())["task"])


def numbers(bundle: Path, data: str, **options: Any) -> dict[str, Any]:
    return dict(evaluate(bundle, data, **options).as_dict())


def test_embed(tmp_path: Path, data: str) -> None:
    bundle = compiled(embedder(), "embed:output=tokens,pool=mean,k=3", data, tmp_path)
    assert manifest_task(bundle) == "embed:output=tokens,pool=mean,k=3"
    figures = numbers(bundle, data)
    assert 0.9 < figures["cosine_min"] < figures["cosine_mean"] < 1 and 0.3 < figures["agreement"] <= 1
    assert list(figures["sqnr_by_output"]) != [] and figures["top1"] is None

    with np.load(data) as archive:
        np.savez(tmp_path / "classes.npz", images=archive["images"], labels=np.arange(COUNT) % 2)
    labelled = numbers(bundle, str(tmp_path / "classes.npz"))
    assert 0 <= labelled["knn_accuracy"] <= 1 and 0 <= labelled["float_knn_accuracy"] <= 1


@pytest.mark.parametrize("last", [False, True])
def test_segment(tmp_path: Path, data: str, last: bool) -> None:
    bundle = compiled(segmenter(last=last), "segment", data, tmp_path)
    assert manifest_task(bundle) == f"segment:output=masks,axis={3 if last else 1}"
    assert 0.7 < numbers(bundle, data)["agreement"] < 1
    labels = np.random.default_rng(1).integers(0, 5, (COUNT, 4, 4))
    labels[:, 0] = 255
    np.savez(tmp_path / "maps.npz", labels=labels)
    figures = numbers(bundle, data, labels=str(tmp_path / "maps.npz"))
    assert 0 < figures["mean_iou"] < 0.4 and 0 < figures["float_pixel_accuracy"] < 0.5


def test_labels_made_of_the_float_model_are_met_by_it(tmp_path: Path, data: str) -> None:
    bundle = compiled(segmenter(), "segment", data, tmp_path)
    masks = outputs(open_model(bundle / "model.float.onnx"), open_images(data, P), lambda _: None)["masks"]
    np.savez(tmp_path / "maps.npz", labels=masks.argmax(1))
    figures = numbers(bundle, data, labels=str(tmp_path / "maps.npz"))
    assert figures["float_mean_iou"] == figures["float_pixel_accuracy"] == 1
    assert figures["pixel_accuracy"] == pytest.approx(figures["agreement"])


def test_dense(tmp_path: Path, data: str) -> None:
    bundle = compiled(segmenter(classes=1), "dense", data, tmp_path)
    assert manifest_task(bundle) == "dense:output=masks"
    figures = numbers(bundle, data)
    assert 0 < figures["mae_relative"] < 0.3 and figures["agreement"] is None
    np.savez(tmp_path / "depth.npz", labels=np.random.default_rng(1).uniform(1, 9, (COUNT, 8, 8)))
    figures = numbers(bundle, data, labels=str(tmp_path / "depth.npz"), task="dense:align=affine")
    assert (
        figures["abs_rel"] > 0
        and 0 < figures["delta1"] < 1
        and figures["mae"] == pytest.approx(figures["float_mae"], rel=0.1)
    )
    figures = numbers(bundle, data, labels=str(tmp_path / "depth.npz"), task="dense:threshold=0.5,scale=9")
    assert 0 < figures["iou"] < 1 and figures["mae"] > 0 and 0.5 < figures["iou_to_float"] <= 1


def test_detect(tmp_path: Path, data: str) -> None:
    bundle = compiled(detector(), "detect:head=softmax,score=0.2", data, tmp_path)
    assert manifest_task(bundle) == "detect:head=softmax,logits=logits,boxes=pred_boxes,score=0.2,size=8x8"
    assert 0.5 < numbers(bundle, data)["agreement"] <= 1


class EndToEnd(torch.nn.Module):
    """A detector of 16 patches that hands out its 5 best boxes, as YOLOv10 and YOLO26 are exported."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Conv2d(3, 32, 2, 2)
        self.middle = torch.nn.Sequential(torch.nn.LayerNorm(32), torch.nn.Linear(32, 64), torch.nn.GELU())
        self.boxes, self.scores = torch.nn.Linear(64, 4), torch.nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.middle(self.embed(x).flatten(2).transpose(1, 2))
        centre, size = (4 * self.boxes(tokens).sigmoid()).split(2, dim=-1)
        best, number = self.scores(tokens).sigmoid().max(-1)
        score, place = best.topk(5)
        boxes = torch.cat([centre, centre + size], -1).gather(1, place[..., None].expand(-1, -1, 4))
        return torch.cat([boxes, score[..., None], number.gather(1, place)[..., None].float()], -1)


def test_an_exported_end_to_end_detector(tmp_path: Path, data: str, qvit: Command) -> None:
    recipe = Recipe.load(None, uniform="w8a8", calibration_images=COUNT, task="detect")
    compile(EndToEnd(), tmp_path / "out", calib=data, recipe=recipe, preprocess=P)
    bundle = tmp_path / "out"
    assert manifest_task(bundle) == "detect:head=end2end,logits=logits,boxes=logits,score=0.25,size=8x8"
    figures = numbers(bundle, data)
    assert 0.6 < figures["agreement"] <= 1 and figures["sqnr_db"] > 10
    relp = qvit("relp", bundle, "--quantization", "--data", data, "--count", 4, "--metric", "query:0,0")
    assert relp.code == 2 and "choose output-change" in relp.err


@pytest.mark.parametrize(
    ("graph", "task", "metric"),
    [
        (embedder, "embed:pool=class,output=tokens", "cosine"),
        (segmenter, "segment", "pixel:1,0,3"),
        (detector, "detect:head=softmax", "query:2,1"),
        (segmenter, "segment", "output-change"),
    ],
)
def test_what_quantization_does_to_a_metric_of_the_task(
    graph: Any, task: str, metric: str, tmp_path: Path, data: str, qvit: Command
) -> None:
    bundle = compiled(graph(), task, data, tmp_path)
    result = qvit("relp", bundle, "--quantization", "--data", data, "--count", 8, "--metric", metric, "--json")
    tree = json.loads(result.out)
    assert result.code == 0 and tree["task"] == manifest_task(bundle) and tree["metric"] == metric
    assert 0.8 < tree["agreement"]["pearson"] <= 1


def test_what_a_person_reads(tmp_path: Path, data: str, qvit: Command) -> None:
    bundle = compiled(segmenter(), "segment", data, tmp_path)
    np.savez(tmp_path / "maps.npz", labels=np.zeros((COUNT, 4, 4), int))
    labels = ("--labels", tmp_path / "maps.npz")
    by_labels, to_float = qvit("eval", bundle, "--data", data, *labels).out.splitlines()
    share = r"\d+\.\d%"
    assert re.fullmatch(rf"mIoU {share} \(float {share}\), pixel accuracy {share} \(float {share}\), n=24", by_labels)
    assert re.fullmatch(r"pixels of the same class as in float \d+\.\d\d%, SQNR \d+\.\d dB, n=24", to_float)


def test_labels_that_do_not_fit_are_one_line(tmp_path: Path, data: str, qvit: Command) -> None:
    bundle = compiled(segmenter(), "segment", data, tmp_path)
    np.savez(tmp_path / "maps.npz", labels=np.full((COUNT, 4, 4), 9))
    (tmp_path / "coco.json").write_text("{}")
    with np.load(data) as archive:
        np.savez(tmp_path / "classes.npz", images=archive["images"], labels=np.arange(COUNT) % 2)
    for arguments, message in (
        (["--data", data, "--labels", tmp_path / "maps.npz"], "images[0] has the number 9, the model has 5 classes"),
        (["--data", data, "--labels", tmp_path / "coco.json"], "takes label maps"),
        (["--data", data, "--labels", tmp_path / "none.npz"], "no such labels"),
        (["--data", data, "--task", "classify"], "needs an output of logits [batch, classes]"),
        (["--data", data, "--task", "detect:head=softmax"], "none of the outputs may be the boxes"),
        (["--data", tmp_path / "classes.npz"], "--labels none"),
        (["--data", tmp_path / "classes.npz", "--task", "outputs"], "has no score by labels"),
    ):
        result = qvit("eval", bundle, *arguments)
        assert result.code == 2 and result.out == "" and len(result.errors) == 1 and message in result.errors[0], result
    assert qvit("eval", bundle, "--data", tmp_path / "classes.npz", "--labels", "none").code == 0


def test_a_lone_file_by_its_labels(tmp_path: Path, data: str, qvit: Command) -> None:
    (tmp_path / "model.onnx").write_bytes(segmenter().serialize())
    (tmp_path / "preprocess.json").write_text(P.model_dump_json())
    np.savez(tmp_path / "maps.npz", labels=np.zeros((COUNT, 4, 4), int))
    result = qvit(
        "eval", tmp_path / "model.onnx", "--data", data, "--preprocess", tmp_path / "preprocess.json", "--task",
        "segment", "--labels", tmp_path / "maps.npz", "--json",
    )  # fmt: skip
    printed = json.loads(result.out)
    assert 0 < printed["mean_iou"] < 1 and printed["float_mean_iou"] is None and printed["sqnr_db"] is None


def test_coco_through_the_program(tmp_path: Path, qvit: Command) -> None:
    pytest.importorskip("pycocotools")
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for i in range(COUNT):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    bundle = compiled(detector(), "detect:head=softmax,score=0.2", str(folder), tmp_path)
    exact = outputs(open_model(bundle / "model.float.onnx"), open_images(str(folder), P), lambda _: None)
    annotations = [
        {"image_id": i, "category_id": int(logits[:-1].argmax()) + 1,
         "bbox": [8 * (x - w / 2), 8 * (y - h / 2), 8 * w, 8 * h]}
        for i, (queries, boxes) in enumerate(zip(exact["logits"], exact["pred_boxes"].astype(float), strict=True))
        for logits, (x, y, w, h) in zip(queries, boxes, strict=True)
    ]  # fmt: skip
    tree = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(COUNT)],
        "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)], "annotations": annotations,
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    numbers = json.loads(qvit("eval", bundle, "--data", folder, "--labels", tmp_path / "coco.json", "--json").out)
    # The labels are what the float model finds.
    assert numbers["float_ap"] == pytest.approx(1) and 0.3 < numbers["ap"] <= 1 and numbers["n"] == COUNT


@pytest.mark.parametrize(
    ("graph", "task", "keys", "words"),
    [
        (embedder, "embed:output=tokens,pool=mean,k=3", ("cosine_mean",), "cosine to float"),
        (lambda: segmenter(classes=1), "dense", ("mae_relative",), "MAE to float of the mean magnitude on n=24"),
        (segmenter, "segment", ("mean_iou", "float_mean_iou"), "float mIoU"),
        (detector, "detect:head=softmax,score=0.2", (), "agree"),
    ],
)
def test_a_sweep_shows_what_eval_measures_first(
    graph: Any, task: str, keys: tuple[str, ...], words: str, tmp_path: Path, data: str, qvit: Command
) -> None:
    """Of classifiers that is top-1, as ever (test_sweep.py); of detectors without boxes the agreement of every task."""
    (tmp_path / "m.onnx").write_bytes(graph().serialize())
    (tmp_path / "p.json").write_text(P.model_dump_json())
    np.savez(tmp_path / "maps.npz", labels=np.random.default_rng(1).integers(0, 5, (COUNT, 4, 4)))
    asked = [
        "sweep", tmp_path / "m.onnx", "--calib", data, "--preprocess", tmp_path / "p.json", "--images", 16,
        "--uniform", "w6a6", "--task", task, "--data", data,
    ]  # fmt: skip
    asked += ["--labels", tmp_path / "maps.npz"] if task == "segment" else []
    done = qvit(*asked, "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["rows"]
    assert set(keys) <= set(row) and "figure" not in row and row["top1"] is None
    assert row["test_images"] == COUNT
    if keys:
        measured = evaluate(
            compiled(graph(), task, data, tmp_path), data,
            labels=str(tmp_path / "maps.npz") if task == "segment" else None,
        ).as_dict()  # fmt: skip
        assert set(keys) <= set(measured)
    assert words in qvit(*asked, "-o", tmp_path / "table").out
    assert all(key in (tmp_path / "table" / "sweep.csv").read_text() for key in keys)


def test_labels_of_a_sweep_need_its_test_images(tmp_path: Path, qvit: Command) -> None:
    done = qvit("sweep", "demo:vit", "--mean-bits", "5", "--labels", tmp_path)
    assert done.code == 2 and "--labels are of the test images: pass --data" in done.err
