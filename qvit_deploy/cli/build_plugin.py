"""`qvit-deploy build-plugin`: the TensorRT plugin library, compiled on the machine it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, line, mega, print_json, stdout
from qvit_deploy.targets.tensorrt import TENSORRT
from qvit_deploy.targets.tensorrt.engine.builder.plugin_build import build_plugin

# ruff: noqa: UP045


def command(
    sm: Annotated[
        Optional[list[int]], typer.Option(help="compute capability, e.g. 87; repeatable; default: the GPU here")
    ] = None,
    out: Annotated[Optional[Path], typer.Option("-o", "--out", help="where a copy of the library goes")] = None,
    headers: Annotated[
        Optional[Path], typer.Option(help="folder of TensorRT's headers; default: TENSORRT_INCLUDE_DIR, usual places")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="compile again, and replace the copy")] = False,
    json: options.Json = False,
) -> None:
    """Compile libqvit_plugins.so, which the target tensorrt-plugin runs in."""
    with Bars() as bars:
        built = build_plugin(sms=tuple(sm or ()), headers=headers, out=out, force=force, progress=bars)
    size, tools = built.path.stat().st_size, built.tools
    if json:
        print_json({
            "path": str(built.path), "bytes": size, "sms": list(built.sms), "cached": built.cached,
            "seconds": built.seconds, TENSORRT: list(tools.tensorrt), "cuda": list(tools.nvcc_version),
        })  # fmt: skip
        return
    how = "compiled before" if built.cached else f"compiled in {built.seconds:.0f} s"
    stdout.print(
        line(
            (str(built.path), "bold"),
            f": SM{', '.join(map(str, built.sms))}, {mega(size)}, TensorRT {'.'.join(map(str, tools.tensorrt))}, "
            f"CUDA {'.'.join(map(str, tools.nvcc_version))}, {how}",
        ),
        soft_wrap=True,
    )
