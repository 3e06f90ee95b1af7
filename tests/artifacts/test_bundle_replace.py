"""Bundles and what is already there: whole or not there, and nothing that is not a bundle is ever removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qvit_deploy.artifacts import atomic
from qvit_deploy.artifacts import bundle as bundle_module
from qvit_deploy.artifacts.bundle import FileRecord, check_output, read_bundle
from qvit_deploy.errors import InputError
from tests.support.artifacts.bundle_example import tree, write
from tests.support.hostile_files import largest_file

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
    engine = b"old engine of the old model"
    (out / "engines/sm87.engine").write_bytes(engine)
    record = {"schema": "qvit-deploy/engine/1", "engine": FileRecord.of(engine).model_dump()}
    (out / "engines/sm87.json").write_text(json.dumps(record))
    write(out, files={"model.tensorrt.onnx": b"new"}, force=True)
    assert sorted(tree(out)) == ["manifest.json", "model.tensorrt.onnx"]
    assert list(tmp_path.iterdir()) == [out]


def test_force_keeps_the_history_of_measurements(tmp_path):
    out = tmp_path / "out"
    write(out)
    (out / "measurements").mkdir()
    (out / "measurements/a.json").write_text('{"schema": "qvit-deploy/measurement/1"}')
    write(out, files={"new": b"new"}, force=True)
    assert sorted(tree(out)) == ["manifest.json", "measurements", "measurements/a.json", "new"]


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


@pytest.mark.parametrize(
    "stray", ["notes.txt", "old/notes.txt", "measurements/thesis.docx", "measurements/a.json", "engines/a.engine"]
)
def test_force_never_removes_what_somebody_put_into_a_bundle(tmp_path, stray):
    out = tmp_path / "out"
    write(out)
    (out / stray).parent.mkdir(exist_ok=True)
    (out / stray).write_text("mine")
    with pytest.raises(InputError, match=f"holds {stray}, which no bundle has"):
        write(out, force=True)
    assert (out / stray).read_text() == "mine"


def test_force_never_removes_a_file_that_was_changed_since(tmp_path):
    out = tmp_path / "out"
    write(out, files={"report.html": b"ours"})
    (out / "report.html").write_text("with notes in the margin")
    with pytest.raises(InputError, match=r"report\.html was changed since it was written"):
        write(out, force=True)


def test_force_never_removes_an_empty_folder_of_somebody(tmp_path):
    out = tmp_path / "out"
    write(out)
    (out / "ideas").mkdir()
    with pytest.raises(InputError, match="holds the folder ideas"):
        write(out, force=True)


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


@pytest.mark.parametrize("replacing", [False, True])
def test_a_file_that_the_system_refuses_leaves_everything_as_it_was(tmp_path, replacing):
    """A real failure in the middle of a file: the system allows no file of more than 4 kB."""
    if replacing:
        write(tmp_path / "out")
    before = tree(tmp_path)
    with largest_file(4096), pytest.raises(InputError, match=r"cannot be written: .*File too large"):
        write(tmp_path / "out", files={"first": b"x", "other": b"x" * 10_000}, force=True)
    assert tree(tmp_path) == before


# The steps below are replaced because Ctrl-C or a full disk cannot be made to come at a chosen step.
@pytest.mark.parametrize(("module", "step"), [(bundle_module, "_write"), (atomic, "sync"), (bundle_module, "validate")])
@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("error", [Interrupted, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_everything_as_it_was(tmp_path, monkeypatch, module, step, replacing, error):
    if replacing:
        write(tmp_path / "out")
    before = tree(tmp_path)

    def fail(*args):
        raise error

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(Interrupted if error is Interrupted else InputError):
        write(tmp_path / "out", files={"other": b"x"}, force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("renames_that_work", [0, 1])
def test_a_failed_rename_brings_the_old_bundle_back(tmp_path, monkeypatch, renames_that_work):
    write(tmp_path / "out")
    before = tree(tmp_path)
    # Replaced: the rename stays inside one folder, where no file system in reach refuses it.
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
    # The other writer is put into a step: a second process would have to win a race of microseconds.
    out, real = tmp_path / "out", atomic.sync

    def someone_else_is_faster(folder):
        out.mkdir(exist_ok=True)
        (out / "theirs").write_text("x")
        real(folder)

    monkeypatch.setattr(atomic, "sync", someone_else_is_faster)
    with pytest.raises(InputError, match="exists"):
        write(out)
    assert tree(tmp_path) == {"out": None, "out/theirs": b"x"}


def test_a_missing_source_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written: .*gone"):
        write(tmp_path / "out", files={"model.onnx": tmp_path / "gone"})
    assert list(tmp_path.iterdir()) == []


def killed(folder, code):
    """Runs `code` with `out`, a path, and write_bundle at hand, in a process that is killed in the middle of it."""
    text = (
        "import os, signal, sys; from pathlib import Path\n"
        "from qvit_deploy.artifacts import atomic\n"
        "from tests.support.artifacts.bundle_example import write\n"
        f"out = Path({str(folder / 'out')!r})\n"
        "die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n" + code
    )
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == -signal.SIGKILL


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    write(tmp_path / "out")
    before = tree(tmp_path)
    killed(tmp_path, "atomic.sync = die\nwrite(out, files={'first': b'x'}, force=True)")
    assert tree(tmp_path).items() > before.items()
    write(tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out"]


def test_the_next_writer_puts_back_what_a_killed_one_had_moved_aside(tmp_path):
    """Killed between the two renames."""
    write(tmp_path / "out")
    before = tree(tmp_path / "out")
    moves = "rename = Path.rename\nPath.rename = lambda p, to: rename(p, to) if p == out else die()\n"
    killed(tmp_path, moves + "write(out, files={'first': b'x'}, force=True)")
    assert not (tmp_path / "out").exists()
    write(tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out"]
    assert tree(tmp_path / "out") == before


def test_debris_that_cannot_be_removed_is_in_nobodys_way(tmp_path):
    """A folder that somebody else's dead process left: here, one whose entries no process may unlink."""
    killed(tmp_path, "atomic.sync = die\nwrite(out)")
    (debris,) = tmp_path.iterdir()
    debris.chmod(0o500)
    write(tmp_path / "other")
    assert (tmp_path / "other/manifest.json").is_file()
