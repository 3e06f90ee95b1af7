"""How the program runs and ends: whatever happens, one line on standard error and an exit code that scripts know."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import typer

from qvit_deploy.cli.console import error_line
from qvit_deploy.errors import InputError, QvitError

UNUSABLE, BUG = QvitError.exit_code, os.EX_SOFTWARE
"""Exit codes: what was handed in, or the machine, cannot be used; and an error of our own."""

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
"""The class of all that typer says about arguments. Typer brings its own copy of click, whose names are private."""


class Stopped(BaseException):
    """A signal has asked the program to end. Files half written and processes started are cleaned up on its way."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Lets Ctrl-C, `kill` and a closed terminal raise `Stopped`, each once: a second one ends the program at once."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def stop(signum: int, _: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_DFL)
        raise Stopped(signum)

    for signum, handler in before.items():
        if handler != signal.SIG_IGN:  # `nohup`
            signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def run(app: Callable[..., object]) -> int:
    """Runs the command that the arguments name and returns the exit code.

    0 done, 1 a check failed, 2 unusable input or a machine that refuses (no such file, disk full, out of memory),
    70 an error of our own, 128 + N ended by signal N. Each but the first prints one line on standard error; that the
    reader of the output has gone (`| head`) goes without a word, as if by SIGPIPE.
    """
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s", level=logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no such character shows its escape
            stream.reconfigure(errors="backslashreplace")
    try:
        _require_arguments(sys.argv[1:])
        with _signals_raise():
            code = app(standalone_mode=False)
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except QvitError as error:
        error_line(str(error))
        return error.exit_code
    except Stopped as stopped:
        how = "interrupted" if stopped.signum == signal.SIGINT else f"ended by {signal.Signals(stopped.signum).name}"
        error_line(f"{how}; nothing was written")
        return 128 + stopped.signum
    except (BrokenPipeError, SystemExit):  # the latter is how typer and rich say it; failed checks are a CheckError
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still held has nowhere to go
        return 128 + signal.SIGPIPE
    except OSError as error:
        error_line(_refused(error))
        return UNUSABLE
    except MemoryError:
        error_line("out of memory; compile fewer images (--images), a smaller model, or on a larger machine")
        return UNUSABLE
    except _USAGE_ERROR as error:
        return _usage(error)
    except Exception:
        traceback.print_exc()
        error_line("this is an error of qvit-deploy itself, not of yours; please report it with the lines above")
        return BUG


def _require_arguments(arguments: Sequence[str]) -> None:
    """Raises InputError for arguments that no command can use."""
    for argument in arguments:
        if not argument:
            raise InputError(
                "an argument is empty (a shell variable that is not set?); leave it out or give it a value"
            )
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"{argument} is not UTF-8; rename the file: ONNX and JSON hold no other names") from None


def _refused(error: OSError) -> str:
    """Returns what the system refused, for which file."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return ": ".join([*names, error.strerror or str(error) or type(error).__name__])


def _usage(error: Exception) -> int:
    """Prints what is wrong with the arguments, in one line with where to read more; without arguments all the help."""
    context = getattr(error, "ctx", None)
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        context.get_help()  # typer prints it
        return UNUSABLE
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    command = context.command_path if context is not None else "qvit-deploy"
    error_line(f"{message} (see {command} --help)")
    return UNUSABLE
