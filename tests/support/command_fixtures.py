"""Fixtures that run the program on small files."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from qvit_deploy.cli import main
from tests.support.command_line import Command, Inputs, Result
from tests.support.graphs.quantizable_graphs import mixed_vit


@pytest.fixture
def qvit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the program's own entry point in this process: importing torch once saves seconds per command."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["qvit-deploy", *map(str, arguments)])  # the program reads nothing else
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        return Result(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    inputs = Inputs(folder / "tiny.onnx", folder / "calib.npz", folder / "preprocess.json")
    inputs.model.write_bytes(mixed_vit().serialize())
    random = np.random.default_rng(0)
    np.savez(
        inputs.calib,
        images=random.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8),
        labels=random.integers(0, 5, 12),
    )
    inputs.preprocess.write_text(json.dumps({"input_size": [3, 16, 16], "mean": [0.5], "std": [0.25]}))
    return inputs
