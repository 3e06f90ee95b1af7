"""Embeddings: a vector per image, of which the direction matters, for search and for classifiers on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qvit_deploy.data.labels.opening import Labels
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface
from qvit_deploy.tasks.configured import ConfiguredTask, chosen_output, shape_text
from qvit_deploy.tasks.scores.neighbours import cosines, knn_accuracy, nearest, shared
from qvit_deploy.tasks.tally import AGREEMENT, Figure, Tally, share
from qvit_deploy.tasks.task import Arrays, Metric, Objective, Outputs, Task, Words
from qvit_deploy.validation import Record

if TYPE_CHECKING:
    from torch import Tensor

    from qvit_deploy.tasks.task import Array

COSINE = "cosine"

Vectors = NDArray[Any]
"""Floats [n, dim]."""


class EmbedOptions(Record):
    """What `embed` has to know of a model."""

    output: str | None = Field(default=None, description="the output that is the embedding")
    pool: Literal["class", "mean"] | None = Field(
        default=None, description="of tokens [batch, tokens, dim]: the first of them (class), or their mean"
    )
    k: int = Field(default=10, ge=1, description="nearest neighbours that are compared, and vote")


class Embed(ConfiguredTask[EmbedOptions]):
    """One output is a vector per image [batch, dim], or tokens [batch, tokens, dim] that are pooled to one."""

    name = "embed"
    words = Words(
        score="kNN accuracy", same="nearest neighbours", signal="outputs", answer="image", answers="images",
        counted="nearest neighbours",
    )  # fmt: skip
    labels = "classes"

    def for_model(self, interface: Interface) -> Task:
        """Finds the output.

        Raises:
            InputError: none is a vector or tokens, or several are; or pooling is not said for tokens, or said for a
                vector.
        """
        super().for_model(interface)
        tokens = {3: "of tokens [batch, tokens, dim]"}
        vectors = {2: "of vectors [batch, dim]"}
        # Who says how to pool means tokens, also where a vector comes out beside them.
        ranks = tokens if self.options.pool else vectors | tokens
        output = chosen_output(self.name, interface, self.options.output, ranks)
        if len(output.shape) == 3 and self.options.pool is None:
            raise InputError(
                f"task embed: output {output.name!r} is tokens {shape_text(output)}; say how they become one vector: "
                "embed:pool=class for the first token, embed:pool=mean for the mean of all"
            )
        return self.completed(output=output.name)

    def embeddings(self, outputs: Mapping[str, Array]) -> Array:
        """Returns one vector per image, [batch, dim]."""
        value = outputs[self.known("output")]
        if self.options.pool is None:
            return value
        return value[:, 0] if self.options.pool == "class" else value.mean(1)

    def agreement(self, reference: Arrays, other: Arrays) -> float | None:
        """Returns the mean share of every image's nearest neighbours that are the same; None for one or
        two images, which have no choice."""
        return self.same_neighbours(self.embeddings(reference), self.embeddings(other))

    def same_neighbours(self, reference: Vectors, other: Vectors) -> float | None:
        """Returns the same of embeddings [n, dim]."""
        k = self.neighbours(len(reference))
        return shared(nearest(reference, k), nearest(other, k)) if k else None

    def neighbours(self, images: int) -> int:
        """Returns how many neighbours of each of so many images are looked at: k, but at most a quarter of the other
        images, as all of them would be the same for any model. 0 for fewer than three images."""
        return max(1, min(self.options.k, (images - 1) // 4)) if images > 2 else 0

    def tally(self, labels: Labels | None) -> Tally:
        """Counts cosines and neighbours; with classes of the images the accuracy of their neighbours' votes."""
        return _EmbedTally(self, labels)

    def parse_metric(self, text: str) -> Metric:
        """Reads `cosine`: how much nearer an embedding is to the clean image's than to the corrupt one's, the
        difference of two cosines (the cosine to one of them alone has no gradient there); or `output-change`.

        Raises:
            InputError: there is no such metric.
        """
        if text != COSINE:
            return super().parse_metric(text)

        def metric(clean: Outputs, corrupt: Outputs) -> Objective:
            from torch.nn.functional import cosine_similarity

            towards, away = self.embeddings(clean), self.embeddings(corrupt)

            def nearer(outputs: Outputs) -> Tensor:
                vectors = self.embeddings(outputs)
                return cosine_similarity(vectors, towards) - cosine_similarity(vectors, away)

            return nearer

        return metric

    @property
    def metrics(self) -> tuple[str, ...]:
        """Returns the names of the metrics there are."""
        return (*super().metrics, COSINE)

    def metric_text(self, metric: str) -> str:
        """Says what a metric measures."""
        if metric != COSINE:
            return super().metric_text(metric)
        return "the cosine to the clean image's embedding less that to the corrupt image's"

    def pair_metric_text(self, metric: str, clean: int | None, corrupt: int | None) -> str:
        """Says the same for one pair."""
        return (
            "cosine to clean minus cosine to corrupt"
            if metric == COSINE
            else super().pair_metric_text(metric, clean, corrupt)
        )


class _EmbedTally(Tally):
    """Keeps the embeddings, which are small, until all are there."""

    def __init__(self, task: Embed, labels: Labels | None) -> None:
        assert labels is None or isinstance(labels, np.ndarray)
        self._task, self._labels = task, labels
        self._vectors: list[Vectors] = []
        self._exact: list[Vectors] = []

    def add(self, outputs: Arrays, reference: Arrays | None, place: slice) -> None:
        self._vectors.append(self._task.embeddings(outputs))
        if reference is not None:
            self._exact.append(self._task.embeddings(reference))

    def by_labels(self) -> list[Figure]:
        if self._labels is None:
            return []
        k = self._task.neighbours(len(self._labels))
        if not k:
            raise InputError("task embed: a vote of nearest neighbours needs three images at least")
        accuracies = [
            knn_accuracy(nearest(np.concatenate(vectors), k), self._labels) if vectors else None
            for vectors in (self._vectors, self._exact)
        ]
        assert accuracies[0] is not None
        return [share(f"kNN accuracy (k={k}, leave-one-out)", "knn_accuracy", accuracies[0], accuracies[1])]

    def to_float(self) -> list[Figure]:
        if not self._exact:
            return []
        vectors, exact = np.concatenate(self._vectors), np.concatenate(self._exact)
        cosine, same = cosines(exact, vectors), self._task.same_neighbours(exact, vectors)
        figures = [
            Figure("cosine_mean", "cosine to float", float(cosine.mean()), form="{:.4f}"),
            Figure("cosine_min", "least", float(cosine.min()), form="{:.4f}"),
        ]
        if same is not None:
            k = self._task.neighbours(len(vectors))
            figures.append(Figure(AGREEMENT, f"nearest {k} neighbours as in float", same))
        return figures


EMBED = Embed(EmbedOptions())
