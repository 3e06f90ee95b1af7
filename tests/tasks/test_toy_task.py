"""A task of its own, known to nothing but the registry: a compile and an evaluation go through the seam alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.labels.opening import Labels
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.frontend import Source
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.interface import Interface
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.tasks.all_outputs import AllOutputs
from qvit_deploy.tasks.registry import TASKS
from qvit_deploy.tasks.tally import Figure, Tally, agreement_with_float, share
from qvit_deploy.tasks.task import Arrays, Metric, Objective, Outputs, Task, Words
from tests.support.graphs.quantizable_graphs import mixed_vit

if TYPE_CHECKING:
    from qvit_deploy.tasks.task import Array

PREPROCESS = Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.25,))
EMBEDDING = "embedding"


class Direction(AllOutputs):
    """The output `embedding` [batch, channels] is compared by the cosine; whatever else comes out does not count."""

    name = "direction"
    labels = "classes"
    words = Words(score="recall@1", same="direction", signal="embeddings", answer="axis", answers="directions")

    def for_model(self, interface: Interface) -> Task:
        if EMBEDDING not in [output.name for output in interface.outputs]:
            raise InputError("task 'direction' needs an output 'embedding'")
        return self

    def signals(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        embedding = outputs[EMBEDDING]
        length = (embedding * embedding).sum(-1) ** 0.5
        return {EMBEDDING: embedding / length[:, None]}

    def objective_for(self, sample: Iterable[Outputs], seed: int) -> Objective:
        return lambda outputs: outputs[EMBEDDING].square().sum(-1)

    def answers(self, outputs: Arrays) -> np.ndarray:
        return np.asarray(np.abs(outputs[EMBEDDING]).argmax(-1))

    def agreement(self, reference: Arrays, other: Arrays) -> float:
        cosine = (self.signals(reference)[EMBEDDING] * self.signals(other)[EMBEDDING]).sum(-1)
        return float((cosine > 0.9).mean())

    def tally(self, labels: Labels | None) -> Tally:
        return SameAxis(self, labels)

    def parse_metric(self, text: str) -> Metric:
        if text != "cosine":
            raise InputError(f"there is no metric {text!r}; choose from cosine")

        def metric(clean: Outputs, _: Outputs) -> object:
            return lambda outputs: (self.signals(outputs)[EMBEDDING] * self.signals(clean)[EMBEDDING].detach()).sum(-1)

        return metric  # type: ignore[return-value]

    def metric_text(self, metric: str) -> str:
        return "the cosine"

    def pair_metric_text(self, metric: str, clean: int | None, corrupt: int | None) -> str:
        return "cosine with the clean image's embedding"


class SameAxis(Tally):
    """Counts images whose largest channel is their label."""

    def __init__(self, task: Direction, labels: Labels | None) -> None:
        assert isinstance(labels, np.ndarray)
        self.task, self.labels = task, labels
        self.hits, self.agreements = 0, list[float]()

    def add(self, outputs: Arrays, reference: Arrays | None, place: slice) -> None:
        assert reference is not None
        self.hits += int((self.task.answers(outputs) == self.labels[place]).sum())
        self.agreements.append(self.task.agreement(reference, outputs))

    def by_labels(self) -> list[Figure]:
        return [share("axis of the label", "axis_hits", self.hits / len(self.labels), None)]

    def to_float(self) -> list[Figure]:
        return [agreement_with_float(float(np.mean(self.agreements)))]


@pytest.fixture
def direction(monkeypatch: pytest.MonkeyPatch) -> Direction:
    task = Direction()
    monkeypatch.setitem(TASKS, task.name, task)
    return task


def two_outputs() -> Graph:
    """A model whose first output says nothing, all zeros, and whose second is the embedding."""
    graph = mixed_vit()
    (logits,) = graph.outputs
    logits.name = EMBEDDING
    nothing = ir.node("Mul", [logits, ir.val("zero", const_value=ir.tensor(np.float32(0), name="zero"))])
    graph.model.graph.initializers["zero"] = nothing.inputs[1]  # type: ignore[assignment]
    nothing.outputs[0].name, nothing.outputs[0].shape, nothing.outputs[0].type = "nothing", logits.shape, logits.type
    graph.model.graph.append(nothing)
    graph.model.graph.outputs.insert(0, nothing.outputs[0])
    return graph


@pytest.fixture
def images(tmp_path: Path) -> str:
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8), np.arange(24) % 4
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    return str(tmp_path / "images.npz")


@pytest.mark.parametrize("score", ["gradient", "exact"])
def test_a_compile_and_an_evaluation_by_a_task_of_its_own(
    score: str, direction: Direction, images: str, tmp_path: Path
) -> None:
    recipe = Recipe.load(
        None, mean_bits=6, score=score, task=direction.name, calibration_images=24, targets=["onnxruntime-fused"]
    )
    compiled = compile(
        Source(two_outputs(), None, "two"), tmp_path / "out", calib=images, recipe=recipe, preprocess=PREPROCESS
    )  # fmt: skip
    manifest = compiled.bundle.manifest
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["task"] == "direction"
    # A classifier's task would have seen the zeros of the first output: no error, no gradient.
    assert 10 < (manifest.verification.float_sqnr_db or 0) < 100
    assert all(site.score is not None and site.score > 0 for site in manifest.sites)
    assert "keep their direction" in (tmp_path / "out" / "report.html").read_text()

    evaluation = evaluate(tmp_path / "out", images)
    assert evaluation.task is direction and evaluation.sqnr_db is not None and 10 < evaluation.sqnr_db < 100
    assert evaluation.agreement == 1 and 0 <= float(str(evaluation.as_dict()["axis_hits"])) <= 1


def test_without_its_task_a_bundle_is_not_evaluated(direction: Direction, images: str, tmp_path: Path) -> None:
    recipe = Recipe.load(None, uniform="w8a8", task=direction.name, calibration_images=24)
    compile(
        Source(two_outputs(), None, "two"), tmp_path / "out", calib=images, recipe=recipe, preprocess=PREPROCESS
    )  # fmt: skip
    del TASKS[direction.name]
    with pytest.raises(InputError, match="no task 'direction'"):
        evaluate(tmp_path / "out", images)
