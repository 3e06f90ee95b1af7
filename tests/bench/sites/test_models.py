"""A folder of site models: what it is written from, and what of it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qvit_deploy.bench.sites.models import (
    INDEX,
    OVERHEAD,
    Index,
    SiteModelRequest,
    read_index,
    require_library,
    require_requested,
)
from qvit_deploy.bench.sites.write import emitted_target
from qvit_deploy.errors import InputError
from qvit_deploy.targets.target import file_of
from tests.support.artifacts.bundle_example import write

LIBRARY = (Path("libqvit_plugins.so"),)
SITES = {"fc1": {"w4a4": "0.w4a4.onnx", "w8a8": "1.w8a8.onnx"}, "head": {"w4a4": "2.onnx", "w8a8": "2.onnx"}}
TREE = {
    "schema": "qvit-deploy/site-models/2", "target": "tensorrt", "profile": "tensorrt", "batch": 2, "sites": SITES,
    "baselines": {"1.w8a8.onnx": "3.norm.onnx"},
}  # fmt: skip


def folder_of(folder: Path, **changes: Any) -> Path:
    (folder / INDEX).write_text(json.dumps({**TREE, **changes}))
    for name in (OVERHEAD, "0.w4a4.onnx", "1.w8a8.onnx", "2.onnx", "3.norm.onnx"):
        (folder / name).write_bytes(b"")
    return folder


def index(**changes: Any) -> Index:
    return Index.model_validate({**TREE, **changes})


def test_files_are_named_by_their_first_site() -> None:
    site_models = index()
    assert site_models.widths == ("w4a4", "w8a8") and next(iter(site_models.files)) == OVERHEAD
    assert site_models.files["3.norm.onnx"] == "the LayerNorm in front of site 'fc1' at w8a8"
    assert site_models.files["1.w8a8.onnx"] == "site 'fc1' at w8a8"
    assert site_models.files["2.onnx"] == "site 'head' at w4a4"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "qvit-deploy/site-models/1"}, "site-models/2"),
        ({"target": "tensorrt-plugin"}, "target"),
        ({"profile": "float"}, "profile"),
        ({"batch": 0}, "batch"),
        ({"sites": {}}, "sites"),
        ({"sites": {"fc1": {}}}, "do not all have the same widths"),
        ({"sites": {**SITES, "fc2": {"w4a4": "2.onnx"}}}, "do not all have the same widths"),
        ({"sites": {"fc1": {"w9a9": "2.onnx"}}}, "w9a9"),
        ({"sites": {"fc1": {"w4a4": "../2.onnx"}}}, "sites.fc1.w4a4"),
        ({"baselines": {"2.onnx": "/2.onnx"}}, "baselines"),
        ({"more": 1}, "more"),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"{INDEX}: .*{said}") as caught:
        read_index(folder_of(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_whole(tmp_path: Path) -> None:
    assert read_index(folder_of(tmp_path)) == index()
    (tmp_path / "2.onnx").unlink()
    with pytest.raises(InputError, match=r"lacks 2\.onnx, which its index\.json names"):
        read_index(tmp_path)
    (tmp_path / INDEX).write_text('{"schema": ')
    with pytest.raises(InputError, match="cut off"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (SiteModelRequest("onnxruntime"), "for tensorrt, not onnxruntime: pass --target tensorrt"),
        (SiteModelRequest("tensorrt-rtx"), "for tensorrt, not tensorrt-rtx"),
        (SiteModelRequest("tensorrt", batch=1), "for batches of 2, not 1: leave --batch out"),
        (SiteModelRequest("tensorrt", bits=(4, 6, 8)), "of w4a4, w8a8, not w4a4, w6a6, w8a8: leave --bits out"),
        (SiteModelRequest("tensorrt", bits=(4,)), "of w4a4, w8a8, not w4a4"),
        (
            SiteModelRequest("tensorrt", plugins=LIBRARY),
            "of the tensorrt file, which calls no plugins: leave --plugin out",
        ),
    ],
)
def test_another_folder_than_asked_for(asked: SiteModelRequest, said: str) -> None:
    with pytest.raises(InputError) as caught:
        require_requested(Path("models"), index(), asked)
    assert said in str(caught.value) and str(caught.value).startswith("models holds site models")


def test_what_is_not_asked_for_is_the_folder_s() -> None:
    require_requested(Path("models"), index(), SiteModelRequest("tensorrt"))
    require_requested(Path("models"), index(), SiteModelRequest("tensorrt", bits=(8, 4, 4), batch=2))


def test_models_in_plugins_need_a_library_where_there_are_plugins() -> None:
    packed = index(profile="tensorrt-plugin")
    require_library(Path("models"), packed, SiteModelRequest("tensorrt", plugins=LIBRARY))
    require_library(Path("models"), index(), SiteModelRequest("tensorrt"))
    require_library(
        Path("models"), packed.model_copy(update={"target": "tensorrt-rtx"}), SiteModelRequest("tensorrt-rtx")
    )
    with pytest.raises(InputError, match=r"run in the plugins of libqvit_plugins\.so: pass --plugin"):
        require_library(Path("models"), packed, SiteModelRequest("tensorrt"))


@pytest.mark.parametrize(
    ("target", "plugins", "held", "file_for"),
    [
        ("onnxruntime", (), ("tensorrt",), "onnxruntime"),
        ("tensorrt", (), (), "tensorrt"),
        ("tensorrt", (), ("tensorrt", "tensorrt-plugin"), "tensorrt"),
        ("tensorrt", (), ("tensorrt-plugin",), "tensorrt-plugin"),
        ("tensorrt", LIBRARY, ("tensorrt",), "tensorrt-plugin"),
        ("tensorrt-rtx", (), ("tensorrt", "tensorrt-rtx"), "tensorrt-rtx"),
        ("tensorrt-rtx", (), ("tensorrt-plugin",), "tensorrt-plugin"),
    ],
)
def test_the_file_is_chosen_as_build_chooses_it(
    target: str, plugins: tuple[Path, ...], held: tuple[str, ...], file_for: str, tmp_path: Path
) -> None:
    bundle = write(tmp_path / "bundle", files={file_of(name): b"onnx" for name in held})
    assert emitted_target(bundle, SiteModelRequest(target, plugins=plugins)) == file_for


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"target": "tensorrt-plugin"}, "onnxruntime, tensorrt, tensorrt-rtx"),
        ({"target": "openvino"}, "not on 'openvino'"),
        ({"target": "tensorrt", "bits": (4, 9)}, "--bits 4,9"),
        ({"target": "tensorrt", "bits": ()}, "--bits"),
        ({"target": "tensorrt", "batch": 0}, "--batch must be at least 1"),
        ({"target": "tensorrt-rtx", "plugins": LIBRARY}, "--target tensorrt-rtx takes no plugins"),
        ({"target": "onnxruntime", "plugins": LIBRARY}, "--target onnxruntime takes no plugins"),
    ],
)
def test_what_cannot_be_asked_for(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SiteModelRequest(**flags)
