"""Exact maps are the same however they are computed, and nothing is computed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.patching.components import find_components
from qvit_deploy.patching.exact import patch_effects
from qvit_deploy.pipeline import exact_maps as exact
from qvit_deploy.pipeline.exact_maps import exact_maps
from qvit_deploy.tasks.classify import CLASSIFY
from tests.support.artifacts.explained import image_pairs, model_file

CHOICES = {"metric": "logit-diff:0,1", "direction": "denoising"}


def test_maps_are_those_of_patching(tiny_vit: Graph, tmp_path: Path) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(2, tiny_vit.interface.image_size)
    components = find_components(model.graph)
    maps = exact_maps(model, pairs, **CHOICES)
    for pair in pairs:
        clean, corrupt = (torch.tensor(i)[None] for i in (pair.clean, pair.corrupt))
        expected = patch_effects(
            Executor(model.graph),
            components,
            Examples.images(clean),
            Examples.images(corrupt),
            CLASSIFY.parse_metric(CHOICES["metric"]),
        )
        for component, effects in maps.of(pair, components).items():
            np.testing.assert_allclose(effects, expected[component], atol=1e-6)


def test_processes_share_the_pairs(tiny_vit: Graph, tmp_path: Path) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(3, tiny_vit.interface.image_size)
    components, counted = find_components(model.graph), []
    alone = exact_maps(model, pairs, **CHOICES)
    shared = exact_maps(model, pairs, **CHOICES, processes=2, advance=counted.append)
    assert sum(counted) == 3
    for pair in pairs:
        for one, two in zip(alone.of(pair, components).values(), shared.of(pair, components).values(), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)


def written(folder: Path) -> dict[str, int]:
    """Files and their inodes: a map that is computed again gets a new file of its name."""
    return {path.name: path.stat().st_ino for path in folder.glob("*.safetensors")}


def test_what_is_kept_is_not_computed_again(tiny_vit: Graph, tmp_path: Path) -> None:
    model, pairs = model_file(tiny_vit, tmp_path), image_pairs(3, tiny_vit.interface.image_size)
    folder = tmp_path / "exact"
    first = exact_maps(model, pairs[:2], **CHOICES, folder=folder)
    two = written(folder)
    assert len(two) == 2
    whole = exact_maps(model, pairs, **CHOICES, folder=folder)
    three = written(folder)
    assert len(three) == 3 and two.items() <= three.items()
    components = find_components(model.graph)
    for component, effects in first.of(pairs[0], components).items():
        assert np.array_equal(effects, whole.of(pairs[0], components)[component])

    damaged = min(folder.glob("*.safetensors"))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:200])  # cut off
    again = exact_maps(model, pairs, **CHOICES, folder=folder)
    assert damaged.stat().st_size == len(content)
    assert three.items() - written(folder).items() == {(damaged.name, three[damaged.name])}
    for component, effects in again.of(pairs[0], components).items():
        np.testing.assert_allclose(effects, whole.of(pairs[0], components)[component], atol=1e-12)
    exact_maps(model, pairs, metric="logit:2", direction="denoising", folder=folder)
    assert len(written(folder)) == 6  # another metric, other files
    assert not list(folder.glob(".*.tmp"))


RUN = """
import sys
from pathlib import Path
from tests.support.artifacts.explained import image_pairs
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.pipeline.exact_maps import exact_maps
from qvit_deploy.pipeline.model_files import read_model

folder = Path(sys.argv[1])
model = read_model(folder / "model.onnx", "float", Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.5,)))
exact_maps(model, image_pairs(200, (3, 16, 16)), metric="logit-diff:0,1", direction="denoising", at_once=4,
           folder=folder / "exact")
"""


def test_a_killed_run_goes_on(tiny_vit: Graph, tmp_path: Path) -> None:
    """A process of its own, killed by the system in the middle of its pairs."""
    model, folder = model_file(tiny_vit, tmp_path), tmp_path / "exact"
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(exact.__file__).parents[1])])
    with subprocess.Popen([sys.executable, "-c", RUN, tmp_path], env=os.environ | {"PYTHONPATH": paths}) as process:
        limit = time.monotonic() + 60
        while len(list(folder.glob("*.safetensors"))) < 3 and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
        process.kill()
    files = written(folder)
    assert process.returncode == -signal.SIGKILL and 3 <= len(files) < 200
    pairs = image_pairs(
        len(files) + 2, tiny_vit.interface.image_size
    )  # pairs are drawn one after the other: the same first ones
    maps = exact_maps(model, pairs, **CHOICES, folder=folder)
    # A file that was cut off by the kill has another name until it is whole, so all that are there stay.
    assert files.items() <= written(folder).items() and len(written(folder)) == len(pairs)
    assert len(maps.effects) == len(pairs)


def test_a_pair_given_twice_is_computed_once(tiny_vit: Graph, tmp_path: Path) -> None:
    model, (pair,) = model_file(tiny_vit, tmp_path), image_pairs(1, tiny_vit.interface.image_size)
    counted: list[int] = []
    maps = exact_maps(model, [pair, pair], **CHOICES, advance=counted.append)
    assert len(maps.effects) == 1 and sum(counted) == 2


def test_a_folder_that_cannot_be_written(tiny_vit: Graph, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        exact_maps(
            model_file(tiny_vit, tmp_path),
            image_pairs(1, tiny_vit.interface.image_size),
            **CHOICES,
            folder=tmp_path / "file",
        )
