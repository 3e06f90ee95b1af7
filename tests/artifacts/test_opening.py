"""What a path is: a bundle, an engine, a file, or nothing; and who says how its images are prepared."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.artifacts.opening import EngineFile, OnnxFile, artifact_at, model_at, preprocess_of
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import BundleError, InputError
from tests.support.artifacts.bundle_example import MANIFEST, write

SAID = {"input_size": [3, 8, 8], "mean": [0.5], "std": [0.5]}
GIVEN = Preprocess(input_size=(1, 4, 4), mean=(0.0,), std=(1.0,), color="grey")


def bundle(folder: Path, **source: object) -> Path:
    write(folder, MANIFEST | {"source": source})
    return folder


def test_a_folder_is_a_bundle_and_is_checked(tmp_path: Path) -> None:
    artifact = artifact_at(bundle(tmp_path / "out"))
    assert isinstance(artifact, Bundle) and artifact.root == tmp_path / "out"
    (tmp_path / "out" / "report.html").write_bytes(b"changed")
    with pytest.raises(BundleError, match="was modified or damaged"):
        artifact_at(tmp_path / "out")
    with pytest.raises(BundleError, match="is not a bundle"):
        model_at(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"), [("m.onnx", OnnxFile), ("m", OnnxFile), ("m.engine", EngineFile), ("m.plan", EngineFile)]
)
def test_a_file_is_known_by_its_name(tmp_path: Path, name: str, kind: type) -> None:
    (tmp_path / name).write_bytes(b"")
    assert artifact_at(tmp_path / name) == kind(tmp_path / name)


def test_who_runs_a_model_takes_no_engine(tmp_path: Path) -> None:
    for name in ("m.onnx", "m.engine"):
        (tmp_path / name).write_bytes(b"")
    assert model_at(tmp_path / "m.onnx") == OnnxFile(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"m\.engine is an engine; name the bundle"):
        model_at(tmp_path / "m.engine")


def test_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^no bundle, \.onnx file or engine at "):
        artifact_at(tmp_path / "none")
    with pytest.raises(InputError, match=r"^no bundle or \.onnx file at "):
        model_at(tmp_path / "none.engine")


def test_preprocessing_is_what_was_given_or_what_the_bundle_says(tmp_path: Path) -> None:
    model = model_at(bundle(tmp_path / "out", preprocess=SAID))
    assert preprocess_of(model, None) == Preprocess.model_validate(SAID)
    assert preprocess_of(model, GIVEN) == GIVEN == preprocess_of(OnnxFile(tmp_path / "m.onnx"), GIVEN)


def test_nobody_says_how_images_are_prepared(tmp_path: Path) -> None:
    assert preprocess_of(OnnxFile(tmp_path / "m.onnx"), None) is None
    assert preprocess_of(model_at(bundle(tmp_path / "silent")), None) is None
    with pytest.raises(BundleError, match="wrong: its preprocessing: "):
        preprocess_of(model_at(bundle(tmp_path / "wrong", preprocess={**SAID, "std": [0]})), None)
