from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from qvit_deploy.cli.program import BUG, run
from qvit_deploy.errors import CheckError, InputError

Ends = Callable[[BaseException], "tuple[int, str]"]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ends:
    """Runs a program whose command raises; gives the exit code and what stands on standard error."""

    def run_with(error: BaseException) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["qvit-deploy"])
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command()
        def command() -> None:
            raise error

        return run(app), capsys.readouterr().err

    return run_with


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such file"), 2, "error: no such file"),
        (CheckError("slower"), 1, "error: slower"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), 2, "error: b: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device"),
        (MemoryError(), 2, "error: out of memory"),
        (typer.BadParameter("1 is not allowed"), 2, "error: Invalid value: 1 is not allowed (see "),
    ],
)
def test_what_a_user_or_the_machine_cannot_do_is_one_line(ends: Ends, error: Exception, code: int, line: str) -> None:
    got, text = ends(error)
    assert got == code
    assert text.startswith(line) and text.count("\n") == 1


def test_an_error_of_our_own_keeps_its_traceback_and_has_a_code_of_its_own(ends: Ends) -> None:
    code, text = ends(KeyError("lost"))
    assert code == BUG == 70
    assert "KeyError: 'lost'" in text and "please report it" in text.splitlines()[-1]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_the_command_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], signum: signal.Signals
) -> None:
    monkeypatch.setattr(sys, "argv", ["qvit-deploy"])
    cleaned, before = [], signal.getsignal(signum)
    app = typer.Typer()

    @app.command()
    def command() -> None:
        try:
            os.kill(os.getpid(), signum)
            signal.pause()
        finally:
            cleaned.append(True)

    assert run(app) == 128 + signum
    assert cleaned and signal.getsignal(signum) == before
    assert capsys.readouterr().err.endswith("nothing was written\n")


@pytest.mark.parametrize(
    ("argument", "message"), [("", "an argument is empty"), ("b\udcff", "b\\udcff is not UTF-8; rename the file")]
)
def test_arguments_that_no_command_can_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["qvit-deploy", "inspect", argument])
    assert run(typer.Typer()) == 2
    assert message in capsys.readouterr().err


def test_pipes_and_disks_that_take_no_more() -> None:
    """A reader that has gone is no failed check, and a full disk is told."""
    program = "from qvit_deploy.cli import main; main()"
    many = subprocess.run(
        f"{sys.executable} -c '{program}' inspect --help | true; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert many.stdout.strip() in {"0", "141"} and "Traceback" not in many.stderr
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, "inspect", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2 and done.stderr == "error: No space left on device\n"
