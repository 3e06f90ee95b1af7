"""The command line: one small module per command. `main` is the entry point of `qvit-deploy`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache

import typer

from qvit_deploy.cli import (
    bench,
    bench_sites,
    build,
    build_plugin,
    check,
    compile,
    evaluate,
    import_trtexec,
    inspect,
    relp,
    sweep,
)
from qvit_deploy.cli.console import error_line
from qvit_deploy.errors import QvitError

app = typer.Typer(
    help="Deployment compiler for quantized vision transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("compile")(compile.command)
app.command("eval")(evaluate.command)
app.command("build")(build.command)
app.command("build-plugin")(build_plugin.command)
app.command("inspect")(inspect.command)
app.command("bench")(bench.command)
app.command("bench-sites")(bench_sites.command)
app.command("import-trtexec")(import_trtexec.command)
app.command("check")(check.command)
app.command("relp")(relp.command)
app.command("sweep")(sweep.command)


@cache
def _command() -> Callable[[], object]:
    """Returns what parses arguments and runs a command. Reading all signatures takes longer than refusing a flag."""
    return typer.main.get_command(app)


def main() -> None:
    """Runs a command. Exit code 0 done, 1 a check failed, 2 unusable input (one line on standard error)."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        _command()()
    except QvitError as error:
        error_line(str(error))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        error_line("interrupted; nothing was written")
        raise SystemExit(130) from None
