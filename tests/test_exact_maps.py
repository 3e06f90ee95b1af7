"""Exact maps are the same however they are computed, and nothing is computed twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from explained import image_pairs, model_file

from qvit_deploy import exact
from qvit_deploy.errors import InputError
from qvit_deploy.exact import exact_maps
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.relevance.components import find_components
from qvit_deploy.relevance.objective import parse_metric
from qvit_deploy.relevance.patching import patch_effects

CHOICES = {"metric": "logit-diff:0,1", "direction": "denoising"}


def test_maps_are_those_of_patching(tiny_vit: Graph, tmp_path: Path) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(2, tiny_vit.image_shape)
    components = find_components(model.graph)
    found = exact_maps(model, pairs, **CHOICES)
    for pair in pairs:
        clean, corrupt = (torch.tensor(i)[None] for i in (pair.clean, pair.corrupt))
        expected = patch_effects(Executor(model.graph), components, clean, corrupt, parse_metric(CHOICES["metric"]))
        for component, effects in found.of(pair, components).items():
            np.testing.assert_allclose(effects, expected[component], atol=1e-6)


def test_processes_share_the_pairs(tiny_vit: Graph, tmp_path: Path) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(3, tiny_vit.image_shape)
    components, counted = find_components(model.graph), []
    alone = exact_maps(model, pairs, **CHOICES)
    shared = exact_maps(model, pairs, **CHOICES, processes=2, advance=counted.append)
    assert sum(counted) == 3
    for pair in pairs:
        for one, two in zip(alone.of(pair, components).values(), shared.of(pair, components).values(), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_an_interrupted_run_goes_on(tiny_vit: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(3, tiny_vit.image_shape)
    folder, computed = tmp_path / "exact", []
    run = exact._Work.run

    def counted(self: exact._Work, *images: np.ndarray) -> dict[str, np.ndarray]:
        computed.append(1)
        return run(self, *images)

    monkeypatch.setattr(exact._Work, "run", counted)
    first = exact_maps(model, pairs[:2], **CHOICES, folder=folder)
    assert len(computed) == 2 and len(list(folder.glob("*.npz"))) == 2
    whole = exact_maps(model, pairs, **CHOICES, folder=folder)
    assert len(computed) == 3
    components = find_components(model.graph)
    for component, effects in first.of(pairs[0], components).items():
        assert np.array_equal(effects, whole.of(pairs[0], components)[component])

    file = min(folder.glob("*.npz"))
    file.write_bytes(file.read_bytes()[:200])  # cut off
    exact_maps(model, pairs, **CHOICES, folder=folder)
    assert len(computed) == 4
    exact_maps(model, pairs, metric="logit:2", direction="denoising", folder=folder)
    assert len(computed) == 7  # another metric, other files
    assert not list(folder.glob("*.tmp"))


def test_a_pair_given_twice_is_computed_once(tiny_vit: Graph, tmp_path: Path) -> None:
    model, (pair,) = model_file(tiny_vit, tmp_path), image_pairs(1, tiny_vit.image_shape)
    counted: list[int] = []
    found = exact_maps(model, [pair, pair], **CHOICES, advance=counted.append)
    assert len(found.effects) == 1 and sum(counted) == 2


def test_a_folder_that_cannot_be_written(tiny_vit: Graph, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        exact_maps(
            model_file(tiny_vit, tmp_path), image_pairs(1, tiny_vit.image_shape), **CHOICES, folder=tmp_path / "file"
        )
