from __future__ import annotations

import pickle

import pytest

from qvit_deploy.errors import BudgetError, CheckError, InputError, QvitError, UnsupportedOpError, reading, visible


@pytest.mark.parametrize(
    "error",
    [
        InputError("no such file"),
        BudgetError("too small"),
        CheckError("differs"),
        UnsupportedOpError("Loop", "n0", "export it"),
    ],
)
def test_an_error_survives_the_way_from_a_worker(error: QvitError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)
    assert again.exit_code == error.exit_code


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("vit_b/16 größer 模型", "vit_b/16 größer 模型"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("m\udcff.onnx", "m\\udcff.onnx"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
    ],
)
def test_messages_are_one_line_in_which_nothing_hides(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert str(InputError(text)) == shown


@pytest.mark.parametrize("error", [AssertionError(), RecursionError("too deep"), KeyError("x"), ValueError("a\nb")])
def test_what_a_library_raises_on_a_file_becomes_one_line_about_the_file(error: Exception) -> None:
    with (
        pytest.raises(InputError, match=rf"^m\.onnx is damaged \({type(error).__name__}") as caught,
        reading("m.onnx is damaged"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [CheckError("differs"), PermissionError(13, "Permission denied", "m"), MemoryError()])
def test_errors_that_speak_for_themselves_pass_the_boundary(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, reading("m.onnx is damaged"):
        raise error
    assert caught.value is error
