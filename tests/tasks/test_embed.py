"""Which output is the embedding, how tokens are pooled, and neighbours over batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.tasks.embed import Embed
from qvit_deploy.tasks.registry import task_of
from tests.support.interfaces import interface

TOKENS = ("b", 5, 8)


def embed(outputs: dict[str, tuple[int | str, ...]], text: str = "embed") -> Embed:
    task = task_of(interface(outputs), text)
    assert isinstance(task, Embed)
    return task


def test_a_vector_is_found_beside_tokens() -> None:
    both = {"last_hidden_state": TOKENS, "pooler_output": ("b", 8)}
    assert embed(both).text == "embed:output=pooler_output"  # type: ignore[arg-type]
    assert embed(both, "embed:pool=mean").text == "embed:output=last_hidden_state,pool=mean"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outputs", "text", "message"),
    [
        ({"tokens": TOKENS}, "embed", r"'tokens' is tokens \[b, 5, 8\]; say .*embed:pool=class .*embed:pool=mean"),
        (
            {"v": ("b", 8)},
            "embed:pool=mean",
            r"needs an output of tokens \[batch, tokens, dim\]; the model gives 'v' \[b, 8\]",
        ),
        ({"v": ("b", 8), "w": ("b", 9)}, "embed", "2 outputs fit"),
        ({"m": ("b", 8, 2, 2)}, "embed", r"needs an output of vectors \[batch, dim\] or of tokens"),
        ({"v": ("b", 8)}, "embed:k=0", "k: Input should be greater than or equal to 1"),
        ({"v": ("b", 8)}, "embed:pool=max", "pool: Input should be 'class' or 'mean'"),
    ],
)
def test_what_has_to_be_said(outputs: dict[str, tuple[int | str, ...]], text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embed(outputs, text)


def test_tokens_are_pooled_as_said() -> None:
    tokens = np.random.default_rng(0).standard_normal((3, 5, 8))
    first, mean = (embed({"t": TOKENS}, f"embed:pool={pool}") for pool in ("class", "mean"))
    np.testing.assert_array_equal(first.embeddings({"t": tokens}), tokens[:, 0])
    np.testing.assert_allclose(mean.embeddings({"t": torch.from_numpy(tokens)}), tokens.mean(1))


def test_neighbours_are_those_of_all_batches_together() -> None:
    task, random = embed({"v": ("b", 8)}, "embed:k=3"), np.random.default_rng(0)
    exact = random.standard_normal((10, 8))
    ours = exact + 0.6 * random.standard_normal((10, 8))
    labels = np.arange(10) % 2
    tally = task.tally(labels)
    for place in (slice(0, 4), slice(4, 10)):
        tally.add({"v": ours[place]}, {"v": exact[place]}, place)
    mean, least, same = tally.to_float()
    assert same.value == task.agreement({"v": exact}, {"v": ours}) and 0 < (same.value or 0) < 1
    assert same.text.startswith("nearest 2 neighbours as in float ")
    cosine = (exact * ours).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(ours, axis=1)
    assert mean.value == pytest.approx(cosine.mean()) and least.value == pytest.approx(cosine.min())
    (accuracy,) = tally.by_labels()
    assert accuracy.key == "knn_accuracy" and 0 <= (accuracy.value or 0) <= 1 and accuracy.of_float is not None


def test_few_images_have_fewer_neighbours_than_all_others() -> None:
    task = embed({"v": ("b", 8)})
    assert [task.neighbours(n) for n in (1, 2, 3, 6, 12, 41, 1000)] == [0, 0, 1, 1, 2, 10, 10]


def test_one_image_has_no_neighbours() -> None:
    task = embed({"v": ("b", 8)})
    assert task.agreement({"v": np.ones((1, 8))}, {"v": np.ones((1, 8))}) is None
    tally = task.tally(np.zeros(1, np.int64))
    tally.add({"v": np.ones((1, 8))}, None, slice(0, 1))
    assert tally.to_float() == []
    with pytest.raises(InputError, match="needs three images"):
        tally.by_labels()


def test_the_cosine_metric_has_a_gradient_on_either_image() -> None:
    task, random = embed({"v": ("b", 8)}), torch.Generator().manual_seed(0)
    clean, corrupt = ({"v": torch.randn(2, 8, generator=random)} for _ in range(2))
    metric = task.parse_metric("cosine")(clean, corrupt)
    between = torch.nn.functional.cosine_similarity(clean["v"], corrupt["v"])
    assert torch.allclose(metric(clean), 1 - between) and torch.allclose(metric(corrupt), between - 1)
    for outputs in (clean, corrupt):
        value = outputs["v"].clone().requires_grad_()
        metric({"v": value}).sum().backward()
        assert value.grad is not None and value.grad.abs().sum() > 0.1
