"""Bundles: whole or not there, the same bytes for the same input, and never a way out of their folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy import bundle as bundle_module
from qvit_deploy.bundle import Manifest, check_output, read_bundle, write_bundle
from qvit_deploy.errors import BundleError, InputError, NonFiniteError

SITE = {"name": "blocks.0.qkv", "kind": "linear", "role": "post_layernorm", "w_bits": 4, "a_bits": 8}
SITE |= {"params": 12, "macs": 34, "score": 0.5}
SUMMARY = {"mean_w_bits": 4.0, "mean_a_bits": 8.0, "weight_bytes": 6, "float_weight_bytes": 48}
SUMMARY |= {"bitops": 1088, "float_bitops": 34816}
MANIFEST = {
    "source": {"model": "demo:vit"},
    "recipe": {"score": "lrp"},
    "sites": [SITE],
    "summary": SUMMARY,
    "verification": {"sqnr_db": 31.5},
    "preprocess": {"input_size": [3, 8, 8]},
}
FILES = {"model.onnxruntime.onnx": b"onnx", "report.html": b"<html>"}


def write(out, manifest=MANIFEST, files=FILES, force=False):
    return write_bundle(out, manifest=manifest, files=files, force=force)


def tree(folder):
    """Every path below `folder`, with contents."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


# --- writing


def test_round_trip(tmp_path):
    written = write(tmp_path / "out")
    read = read_bundle(tmp_path / "out")
    assert read.manifest == written.manifest
    assert read.path_of("report.html").read_bytes() == b"<html>"
    assert read.manifest.sites[0].w_bits == 4 and read.manifest.summary.bitops == 1088
    assert read.manifest.files["report.html"].sha256 == hashlib.sha256(b"<html>").hexdigest()
    assert read.manifest.preprocess == {"input_size": [3, 8, 8]}
    assert json.loads((tmp_path / "out/manifest.json").read_text())["schema"] == "qvit-deploy/bundle/1"


def test_the_manifest_has_what_the_contract_lists(tmp_path):
    write(tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest == MANIFEST | {"schema": "qvit-deploy/bundle/1", "files": manifest["files"]}
    assert manifest["files"]["report.html"] == {"sha256": hashlib.sha256(b"<html>").hexdigest(), "bytes": 6}


def test_same_input_same_bytes(tmp_path):
    manifest = MANIFEST | {"recipe": {"score": "lrp", "bits": [4, 8]}, "extra": {}}
    reordered = dict(reversed(manifest.items())) | {"recipe": {"bits": [4, 8], "score": "lrp"}}
    write(tmp_path / "a", manifest)
    write(tmp_path / "b", reordered, dict(reversed(FILES.items())))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(handle):
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "out", files={"a/model.onnx": b"x"})
    names = [path.split(".tmp", 1)[1] for path in synced[:-1]]
    assert names == ["/a/model.onnx", "/manifest.json", "", "/a"]
    assert synced[-1] == str(tmp_path)


def test_a_manifest_object_or_numpy_numbers_do_as_well(tmp_path):
    first = write(tmp_path / "a")
    write(tmp_path / "b", first.manifest)
    write(tmp_path / "c", MANIFEST | {"sites": [SITE | {"score": np.float64(0.5)}]})
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")


def test_files_are_copied_and_may_lie_in_folders(tmp_path):
    (tmp_path / "big.onnx").write_bytes(b"x" * (3 << 20))
    write(tmp_path / "out", files={"a/b/model.onnx": tmp_path / "big.onnx", "empty": b""})
    bundle = read_bundle(tmp_path / "out")
    assert bundle.manifest.files["a/b/model.onnx"].bytes == 3 << 20
    assert (tmp_path / "big.onnx").exists()


def test_parents_are_made_and_permissions_follow_the_umask(tmp_path):
    write(tmp_path / "a/b/out")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a/b/out").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_path_that_is_no_utf8_does_not_cost_the_bundle(tmp_path):
    path = os.fsdecode(b"caf\xe9.onnx")
    write(tmp_path / "out", MANIFEST | {"source": {"path": path}})
    assert read_bundle(tmp_path / "out").manifest.source["path"] == path


def test_float_operands_have_no_bits(tmp_path):
    bundle = write(tmp_path / "out", MANIFEST | {"sites": [SITE | {"w_bits": None, "a_bits": None, "score": None}]})
    assert bundle.manifest.sites[0].w_bits is None


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"verification": {"top1": [1.0, {"x": math.nan}]}}, "verification.top1.1.x"),
        ({"extra": math.inf}, "extra"),
    ],
)
def test_numbers_must_be_finite(tmp_path, change, where):
    with pytest.raises(NonFiniteError, match=f"infinity at {where};"):
        write(tmp_path / "out", MANIFEST | change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"sites": [SITE | {"score": math.nan}]}, "sites.0.score"),
        ({"sites": [SITE | {"w_bits": 0}]}, "sites.0.w_bits"),
        ({"sites": [SITE | {"wbits": 4}]}, "sites.0.wbits"),
        ({"summary": {}}, r"summary.mean_w_bits: Field required \(and 5 more\)"),
        ({"verification": None}, "verification"),
        ({"extra": object()}, "extra"),
        ({"schema": "qvit-deploy/bundle/2"}, "schema"),
    ],
)
def test_a_bad_manifest_names_the_field(tmp_path, change, where):
    with pytest.raises(BundleError, match=where) as caught:
        write(tmp_path / "out", MANIFEST | change)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


ESCAPES = ["", ".", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/", "a\\b", "a\0", "manifest.json"]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_leave_the_bundle_are_not_written(tmp_path, name):
    with pytest.raises(BundleError, match="cannot be the name of a file in a bundle"):
        write(tmp_path / "out", files={name: b"x"})
    assert list(tmp_path.iterdir()) == []


# --- an output that exists


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.write_text("x"), write])
def test_an_existing_output_needs_force(tmp_path, make):
    make(tmp_path / "out")
    before = tree(tmp_path)
    for call in (lambda: check_output(tmp_path / "out", False), lambda: write(tmp_path / "out")):
        with pytest.raises(InputError, match="exists; choose another output or pass --force"):
            call()
    assert tree(tmp_path) == before


def test_force_replaces_a_bundle_with_its_engines(tmp_path):
    out = tmp_path / "out"
    write(out)
    (out / "engines").mkdir()
    (out / "engines/sm87.engine").write_bytes(b"old engine of the old model")
    (out / "measurements").mkdir()
    write(out, files={"model.tensorrt.onnx": b"new"}, force=True)
    assert sorted(tree(out)) == ["manifest.json", "model.tensorrt.onnx"]
    assert list(tmp_path.iterdir()) == [out]


def test_force_takes_an_empty_folder_and_a_bundle_of_another_version(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write(out, force=True)
    older = json.loads((out / "manifest.json").read_text()) | {"schema": "qvit-deploy/bundle/0"}
    (out / "manifest.json").write_text(json.dumps(older))
    write(out, force=True)
    read_bundle(out)


@pytest.mark.parametrize(
    ("name", "content"),
    [("thesis.tex", "years of work"), ("manifest.json", '{"name": "a web page"}'), ("manifest.json", "not JSON")],
)
def test_force_never_removes_a_folder_that_is_no_bundle(tmp_path, name, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(content)
    before = tree(tmp_path)
    for call in (lambda: check_output(out, True), lambda: write(out, force=True)):
        with pytest.raises(InputError, match="is not a bundle, so --force will not replace it"):
            call()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("stray", ["notes.txt", "old/notes.txt"])
def test_force_never_removes_what_somebody_put_into_a_bundle(tmp_path, stray):
    out = tmp_path / "out"
    write(out)
    (out / stray).parent.mkdir(exist_ok=True)
    (out / stray).write_text("mine")
    with pytest.raises(InputError, match=f"holds {stray}, which no bundle has"):
        write(out, force=True)
    assert (out / stray).read_text() == "mine"


def test_force_refuses_files_and_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="exists and is not a folder"):
        write(tmp_path / "file", force=True)
    (tmp_path / "here/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/sub")
    for out in (".", "..", "/"):
        with pytest.raises(InputError, match="the current folder"):
            check_output(Path(out), True)


def test_a_linked_output_replaces_what_it_points_to(tmp_path):
    write(tmp_path / "v1")
    (tmp_path / "latest").symlink_to(tmp_path / "v1")
    write(tmp_path / "latest", files={"new": b""}, force=True)
    assert (tmp_path / "latest").is_symlink()
    assert sorted(tree(tmp_path / "v1")) == ["manifest.json", "new"]


def test_check_output_says_early_what_cannot_be_created(tmp_path):
    check_output(tmp_path / "a/b/c", False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is not a folder"):
        check_output(tmp_path / "file/out", False)
    (tmp_path / "locked").mkdir(mode=0o500)
    if not os.access(tmp_path / "locked", os.W_OK):  # root may write anywhere
        with pytest.raises(InputError, match="no permission to write"):
            check_output(tmp_path / "locked/out", False)


# --- interruption


class Interrupted(BaseException):
    """Stands for Ctrl-C, which is no Exception either."""


@pytest.mark.parametrize("step", ["_write", "_sync", "validate"])
@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("error", [Interrupted, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_everything_as_it_was(tmp_path, monkeypatch, step, replacing, error):
    if replacing:
        write(tmp_path / "out")
    before = tree(tmp_path)

    def fail(*args):
        raise error

    monkeypatch.setattr(bundle_module, step, fail)
    with pytest.raises(Interrupted if error is Interrupted else InputError):
        write(tmp_path / "out", files={"other": b"x"}, force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("renames_that_work", [0, 1])
def test_a_failed_rename_brings_the_old_bundle_back(tmp_path, monkeypatch, renames_that_work):
    write(tmp_path / "out")
    before = tree(tmp_path)
    real, calls = bundle_module.Path.rename, []

    def rename(self, target):
        calls.append(target)
        if len(calls) == renames_that_work + 1:
            raise OSError(18, "Invalid cross-device link")
        return real(self, target)

    monkeypatch.setattr(bundle_module.Path, "rename", rename)
    with pytest.raises(InputError, match=r"cannot be written: .*Invalid cross-device link"):
        write(tmp_path / "out", files={"other": b"x"}, force=True)
    assert tree(tmp_path) == before


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    out, real = tmp_path / "out", bundle_module._sync

    def someone_else_is_faster(folder):
        out.mkdir(exist_ok=True)
        (out / "theirs").write_text("x")
        real(folder)

    monkeypatch.setattr(bundle_module, "_sync", someone_else_is_faster)
    with pytest.raises(InputError, match="exists"):
        write(out)
    assert tree(tmp_path) == {"out": None, "out/theirs": b"x"}


def test_a_missing_source_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written: .*gone"):
        write(tmp_path / "out", files={"model.onnx": tmp_path / "gone"})
    assert list(tmp_path.iterdir()) == []


# --- reading


def test_what_is_no_bundle(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, message in (
        ("nowhere", "no such folder"),
        ("file", "it is a file"),
        (".", r"it has no manifest\.json"),
    ):
        with pytest.raises(BundleError, match=message):
            read_bundle(tmp_path / path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_a_damaged_manifest(tmp_path, content):
    write(tmp_path / "out")
    (tmp_path / "out/manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match="is damaged"):
        read_bundle(tmp_path / "out")


@pytest.mark.parametrize(
    ("schema", "hint"),
    [
        ("qvit-deploy/bundle/2", "compile it again"),
        ("web-app/3", "not written by qvit-deploy"),
        (None, "not written"),
    ],
)
def test_an_unknown_schema(tmp_path, schema, hint):
    write(tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    with pytest.raises(BundleError, match=hint):
        read_bundle(tmp_path / "out")


@pytest.mark.parametrize("change", [lambda p: p.write_bytes(b"onnX"), lambda p: p.write_bytes(b"onnx2"), os.truncate])
def test_a_modified_file_is_named(tmp_path, change):
    write(tmp_path / "out")
    path = tmp_path / "out/model.onnxruntime.onnx"
    change(path, 2) if change is os.truncate else change(path)
    with pytest.raises(BundleError, match=r"model\.onnxruntime\.onnx was modified or damaged"):
        read_bundle(tmp_path / "out")
    read_bundle(tmp_path / "out", verify=False)


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out/report.html").unlink()
    with pytest.raises(BundleError, match=r"lacks its file report\.html"):
        read_bundle(tmp_path / "out")


def test_engines_added_later_do_not_matter(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out/engines").mkdir()
    (tmp_path / "out/engines/a.engine").write_bytes(b"x")
    read_bundle(tmp_path / "out")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "manifest.json"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_manifest_cannot_reach_outside(tmp_path, name, verify):
    write(tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="cannot be the name of a file in a bundle"):
        read_bundle(tmp_path / "out", verify=verify)


def test_a_link_out_of_the_bundle_is_refused(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "secret").write_bytes(b"<html>")
    (tmp_path / "out/report.html").unlink()
    (tmp_path / "out/report.html").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="symbolic link that leaves the bundle"):
        read_bundle(tmp_path / "out")


def test_a_moved_bundle_still_reads(tmp_path):
    write(tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    assert read_bundle(tmp_path / "elsewhere").path_of("report.html") == tmp_path / "elsewhere/report.html"


def test_path_of_names_what_there_is(tmp_path):
    with pytest.raises(BundleError, match=r"no file 'x' \(it has model.onnxruntime.onnx, report.html\)"):
        write(tmp_path / "out").path_of("x")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_survives_the_manifest(verification):
    text = Manifest.model_validate(MANIFEST | {"verification": verification}).to_json()
    assert json.loads(text)["verification"] == verification
    assert Manifest.model_validate_json(text).to_json() == text
