"""`qvit-deploy build`: engines from a bundle or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional, get_args

import typer

from qvit_deploy.artifacts.engine_record import BuildOptions, Hardware
from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, line, mega, print_json, stderr, stdout
from qvit_deploy.commands.build import BuiltEngine, build, build_options, require_flags
from qvit_deploy.commands.build import trtexec as trtexec_commands
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.targets.tensorrt.engine.files import HALF_TARGETS
from qvit_deploy.targets.tensorrt.engine.kind import ENGINE_KINDS
from qvit_deploy.tasks.registry import task_called

# ruff: noqa: UP045


def command(
    path: Annotated[Path, typer.Argument(help="a bundle or an .onnx file")],
    target: Annotated[str, typer.Option(help=", ".join(ENGINE_KINDS))],
    file_for: Annotated[
        Optional[str],
        typer.Option(
            "--file-for",
            "--profile",
            help=f"which file of a bundle ({', '.join(HALF_TARGETS)}); else the target's; with --plugin the last",
        ),
    ] = None,
    sm: Annotated[
        Optional[list[int]], typer.Option(help="tensorrt-rtx: compute capability, e.g. 86; repeatable")
    ] = None,
    out: Annotated[Optional[Path], typer.Option("-o", "--out", help="the engine of a lone ONNX file")] = None,
    batch: Annotated[Optional[str], typer.Option(help="images per run, MIN:OPT:MAX or one number")] = None,
    plugin: Annotated[Optional[list[Path]], typer.Option(help="plugin library (.so), repeatable")] = None,
    compile_plugin: Annotated[
        bool, typer.Option("--compile-plugin", help="compile the plugin library first (build-plugin) and use it")
    ] = False,
    hardware: Annotated[
        str, typer.Option(help=f"GPUs to stay compatible with: {', '.join(get_args(Hardware))}")
    ] = "none",
    timing_cache: Annotated[Optional[Path], typer.Option(help="keep kernel timings in this file")] = None,
    workspace: Annotated[Optional[int], typer.Option(min=1, help="most device memory of a kernel, MiB")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="seconds one engine may take")] = 600.0,
    keep_slow: Annotated[
        bool, typer.Option("--keep-slow", help="keep an engine some of whose sites run in floating point")
    ] = False,
    data: Annotated[Optional[str], typer.Option(help="images to check the engine on, where it can run")] = None,
    preprocess: options.PreprocessFile = None,
    trtexec: Annotated[bool, typer.Option("--trtexec", help="print trtexec commands, build nothing")] = False,
    trt_version: Annotated[Optional[str], typer.Option(help="with --trtexec: TensorRT's version, 10.3 to 11.x")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace engines that are there")] = False,
    json: options.Json = False,
) -> None:
    """Build TensorRT or TensorRT-RTX engines, each in a process of its own."""
    sms = tuple(dict.fromkeys(sm or ()))
    require_flags(target, sms=sms, trtexec=trtexec, trt_version=trt_version, compile_plugin=compile_plugin)
    build_flags = build_options(
        batch=batch, plugins=plugin or (), hardware=hardware, timing_cache=timing_cache, workspace_mb=workspace
    )
    if trtexec:
        _print_commands(path, trt_version, build_flags, file_for, out, json)
        return
    with Bars() as bars:
        built = build(
            path,
            target,
            build_flags,
            file_for=file_for,
            sms=sms,
            out=out,
            timeout=timeout,
            force=force,
            compile_plugin=compile_plugin,
            keep_slow=keep_slow,
            data=data,
            preprocess=None if preprocess is None else Preprocess.from_file(preprocess),
            progress=bars,
        )
    if json:
        print_json({"engines": [_tree(engine) for engine in built]})
        return
    for engine in built:
        _report(engine)


def _print_commands(
    path: Path, version: str | None, flags: BuildOptions, file_for: str | None, out: Path | None, json: bool
) -> None:
    build_command, time_command = trtexec_commands(path, version, flags, file_for=file_for, out=out)
    if json:
        print_json({"build": build_command, "time": time_command})
    else:
        stdout.out(build_command, time_command, sep="\n")


def _tree(engine: BuiltEngine) -> dict[str, Any]:
    return {
        "path": str(engine.path),
        **engine.record.model_dump(mode="json", by_alias=True),
        "check": None if engine.check is None else engine.check.as_dict(),
        "layers": None if engine.layers is None else engine.layers.as_dict(),
        "slow": list(engine.slow),
    }


def _report(engine: BuiltEngine) -> None:
    record, result = engine.record, engine.record.build
    for message in result.messages:
        stderr.print(f"{record.target}: {message}", soft_wrap=True)
    on = f" on {result.gpu}" if result.gpu else ""
    stdout.print(
        line(
            (str(engine.path), "bold"),
            f": SM{result.sm}{on}, batch {record.batch}, {mega(record.engine.bytes)}, "
            f"{result.layers} layers, {record.target} {result.version}",
        ),
        soft_wrap=True,
    )
    stdout.print(
        f"parsed in {result.parse_seconds:.2f} s, built in {result.build_seconds:.2f} s, "
        f"{record.seconds:.1f} s in all, peak memory {mega(result.peak_memory_bytes)}"
    )
    if engine.layers is not None:
        for site in engine.layers.sites:
            kernel = "fused attention" if site.attention else site.kernel
            stdout.print(f"  {site.site:<28} {kernel:<16} {site.tactic}", soft_wrap=True)
    for sentence in engine.slow:
        stderr.print(f"not as emitted: {sentence}", soft_wrap=True)
    if engine.check is None:
        stdout.print("not run: its GPU, or pycuda, is not here")
    else:
        words, check = task_called(engine.check.task).words, engine.check
        agreement = "" if check.agreement is None else f", {words.same} agreement {check.agreement:.1%}"
        stdout.print(f"run: {words.signal} {check.sqnr_db:.1f} dB from ONNX Runtime's{agreement} (n={check.images})")
