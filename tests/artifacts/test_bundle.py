"""Bundles: the same bytes for the same input, checked when read, and never a way out of their folder."""

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

from qvit_deploy.artifacts.bundle import Manifest, read_bundle
from qvit_deploy.errors import BundleError, NonFiniteError
from tests.support.artifacts.bundle_example import FILES, MANIFEST, SITE, tree, write

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
    written = {"schema": "qvit-deploy/bundle/1", "files": manifest["files"], "digest": manifest["digest"]}
    assert manifest == MANIFEST | written
    assert manifest["files"]["report.html"] == {"sha256": hashlib.sha256(b"<html>").hexdigest(), "bytes": 6}


def test_same_input_same_bytes(tmp_path):
    manifest = MANIFEST | {"recipe": {"score": "lrp", "bits": [4, 8]}, "extra": {}}
    reordered = dict(reversed(manifest.items())) | {"recipe": {"bits": [4, 8], "score": "lrp"}}
    write(tmp_path / "a", manifest)
    write(tmp_path / "b", reordered, dict(reversed(FILES.items())))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    # Watches the real fsync: whether it was called shows in no file, only after a loss of power.
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
        ({"summary": {}}, r"summary.mean_w_bits: Field required; .*\(and 2 more\)"),
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


@pytest.mark.parametrize("change", [{"source": {"model": "another"}}, {"digest": "0" * 64}])
def test_a_manifest_that_was_changed_is_seen(tmp_path, change):
    write(tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError, match="was modified or damaged"):
        read_bundle(tmp_path / "out")


def test_a_manifest_without_a_digest_is_read(tmp_path):
    """As they were written before there was one."""
    write(tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    content = json.loads(path.read_text())
    del content["digest"]
    path.write_text(json.dumps(content))
    assert read_bundle(tmp_path / "out").manifest.source == MANIFEST["source"]
