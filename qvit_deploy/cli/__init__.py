"""The command line: one small module per command. `main` is the entry point of `qvit-deploy`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated

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
    program,
    relp,
    sweep,
)
from qvit_deploy.frontend.budget import READ_BYTES

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def of_all_commands(
    read_memory: Annotated[
        float,
        typer.Option(min=0.1, help="GB that reading any ONNX file may take; eight times its own size come on top"),
    ] = READ_BYTES.get() / 1e9,
) -> None:
    """Deployment compiler for quantized vision transformers."""
    READ_BYTES.set(round(read_memory * 1e9))


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
    """Runs a command and ends the process with its exit code, as `program.run` says."""
    raise SystemExit(program.run(_command()))
