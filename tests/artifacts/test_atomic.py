"""Files and folders are there whole, or what was there before is: whatever goes wrong, and whoever else writes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qvit_deploy.artifacts.atomic import append, make_folder, whole_file, whole_folder, write_file, write_files
from qvit_deploy.errors import InputError
from tests.support.hostile_files import largest_file


class Interrupted(BaseException):
    """Stands for Ctrl-C, which is no Exception either."""


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for content in (b"first", b"second"):
        write_file(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/file")
    for content in (b"1", b"2"):
        write_file(tmp_path / "link", content)
        assert (tmp_path / "elsewhere/file").read_bytes() == content and (tmp_path / "link").is_symlink()


def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE, "/dev/stdout", "through"], capture_output=True, check=True, text=True
    )
    assert done.stdout == "through"


WRITE = """
import sys
from pathlib import Path
from qvit_deploy.artifacts.atomic import write_file
write_file(Path(sys.argv[1]), sys.argv[2].encode())
"""


@pytest.mark.parametrize("error", [Interrupted(), ValueError()])
@pytest.mark.parametrize("before", [None, b"old"])
def test_an_exception_in_the_middle_leaves_what_was_there(
    tmp_path: Path, error: BaseException, before: bytes | None
) -> None:
    path = tmp_path / "r.json"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(type(error)), whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b"old")
    with largest_file(4096), pytest.raises(InputError, match=r"r\.json cannot be written: File too large; try -o"):
        write_file(path, b"x" * 10_000, "; try -o")
    with largest_file(4096), pytest.raises(InputError, match=r"b cannot be written: File too large"):
        write_files(tmp_path, {"r.json": b"new", "b": b"x" * 10_000})
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [("none/r.json", "No such file or directory"), ("file/r.json", "Not a directory"), (".", "it is not a file")],
)
def test_places_that_cannot_be_written_are_one_line(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        write_file(tmp_path / place, b"x")
    assert str(caught.value) == f"{tmp_path / place} cannot be written: {reason}"
    with pytest.raises(InputError, match="cannot be written"):
        append(tmp_path / place, b"x")
    with pytest.raises(InputError, match="cannot be written"):
        make_folder(tmp_path / "file" / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        write_file(tmp_path / "locked" / "r.json", b"x")


def test_proc_takes_no_files() -> None:
    with pytest.raises(InputError, match=r"^/proc/r\.json cannot be written: No such file or directory$"):
        write_file(Path("/proc/r.json"), b"x")


def test_appending_keeps_what_is_there(tmp_path: Path) -> None:
    for content in (b"one\n", b"two\n"):
        append(tmp_path / "summary.md", content)
    assert (tmp_path / "summary.md").read_bytes() == b"one\ntwo\n"


KILLED = """
import sys, time
from pathlib import Path
from qvit_deploy.artifacts.atomic import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"


MANY = """
import sys
from pathlib import Path
from qvit_deploy.artifacts.atomic import write_file
for i in range(50):
    write_file(Path(sys.argv[1]), sys.argv[2].encode() * 20_000)
"""


def test_a_reader_of_two_writers_sees_one_of_them_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_file(path, b"a" * 20_000)
    writers = [subprocess.Popen([sys.executable, "-c", MANY, path, letter]) for letter in "ab"]
    seen = 0
    while any(w.poll() is None for w in writers):
        content = path.read_bytes()
        assert content in (b"a" * 20_000, b"b" * 20_000)
        seen += 1
        time.sleep(0.0005)
    assert [w.wait() for w in writers] == [0, 0] and seen > 10 and list(tmp_path.iterdir()) == [path]


def test_several_files_are_there_when_the_last_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, order, real = tmp_path / "new" / "folder", [], Path.replace
    # Watches the real rename: the order it happens in shows in no file.
    monkeypatch.setattr(Path, "replace", lambda self, to: order.append(Path(to).name) or real(self, to))
    write_files(folder, {"b": b"1", "a": b"2", "index": b"3"})
    assert order == ["b", "a", "index"]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"b": b"1", "a": b"2", "index": b"3"}


def test_a_folder_that_must_not_be_replaced_stays(tmp_path: Path) -> None:
    def refuse() -> None:
        raise InputError("it is mine")

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_bytes(b"x")
    with pytest.raises(InputError, match="it is mine"), whole_folder(tmp_path / "out", refuse) as folder:
        (folder / "ours").write_bytes(b"y")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "theirs"]


def test_a_replaced_file_hands_on_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write_file(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o640


def test_standard_output_that_is_a_file_gets_the_bytes(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", WRITE, "/dev/stdout", "through"], stdout=out, check=True)
        assert (tmp_path / "out").stat().st_ino == os.fstat(out.fileno()).st_ino
    assert (tmp_path / "out").read_bytes() == b"through" and len(list(tmp_path.iterdir())) == 1
