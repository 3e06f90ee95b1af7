"""What compile and sweep are told: faults of a recipe name the file where they are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvit_deploy.commands.request import CompileRequest
from qvit_deploy.errors import InputError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text('targets = ["openvino", "hailo"]\n')
    return path


def test_an_unknown_target_of_a_recipe_names_the_file(recipe: Path) -> None:
    with pytest.raises(InputError) as caught:
        CompileRequest(recipe=recipe).load_recipe()
    assert str(caught.value).startswith(f"recipe {recipe}: targets: there is no target 'hailo'; choose from onnxrun")


def test_one_of_the_command_line_does_not(recipe: Path) -> None:
    with pytest.raises(InputError, match=r"^there is no target 'tflite'; choose from onnxruntime, "):
        CompileRequest(choices={"targets": ["tflite"]}, recipe=recipe).load_recipe()


def test_targets_of_the_command_line_replace_those_of_the_file(recipe: Path) -> None:
    request = CompileRequest(choices={"targets": ["tensorrt", "openvino"]}, recipe=recipe)
    assert request.load_recipe().targets == ("onnxruntime", "openvino", "tensorrt")
