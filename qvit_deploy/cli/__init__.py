"""The command line: one small module per command. `main` is the entry point of `qvit-deploy`."""

from __future__ import annotations

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


def main() -> None:
    """Runs a command and ends the process with its exit code, as `program.run` says."""
    raise SystemExit(program.run(app))
