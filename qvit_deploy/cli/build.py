"""`qvit-deploy build`: engines from a bundle or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional, get_args

import typer

from qvit_deploy.artifacts.engine_record import Batch, BuildOptions, Hardware
from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, mega, print_json, stderr, stdout
from qvit_deploy.commands.build import Built, build
from qvit_deploy.commands.build import trtexec as trtexec_lines
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.files import HALF_TARGETS
from qvit_deploy.targets.tensorrt.engine.kind import ENGINE_KINDS, engine_kind
from qvit_deploy.targets.tensorrt.engine.plugin_build import build_plugin
from qvit_deploy.tasks.classify import CLASSIFY

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
    kind = engine_kind(target)
    if hardware not in get_args(Hardware):
        raise InputError(f"--hardware {hardware!r} is not one of {', '.join(get_args(Hardware))}")
    how = BuildOptions(
        batch=Batch() if batch is None else Batch.parse(batch),
        plugins=tuple(plugin or ()),
        hardware=hardware,  # type: ignore[arg-type]
        timing_cache=timing_cache,
        workspace_mb=workspace,
    )
    if compile_plugin and (not kind.takes_plugins or trtexec):
        raise InputError(
            "--compile-plugin goes with --target tensorrt, without --trtexec: it is for the machine it runs on"
        )
    if trtexec:
        if not kind.on_device or sm:
            raise InputError("--trtexec goes with --target tensorrt, without --sm")
        commands = trtexec_lines(path, trt_version, how, file_for=file_for, out=out)
        if json:
            print_json({"build": commands[0], "time": commands[1]})
        else:
            print("\n".join(commands))
        return
    if trt_version is not None:
        raise InputError("--trt-version goes with --trtexec; a build uses the installed TensorRT")
    with Bars() as bars:
        if compile_plugin:
            made = build_plugin(progress=bars).path
            how = how.model_copy(update={"plugins": (*how.plugins, made)})
        built = build(
            path,
            kind.name,
            how,
            file_for=file_for,
            sms=tuple(dict.fromkeys(sm or ())),
            out=out,
            timeout=timeout,
            force=force,
            keep_slow=keep_slow,
            data=data,
            preprocess=None if preprocess is None else Preprocess.from_file(preprocess),
            progress=bars,
        )
    if json:
        print_json({"engines": [_tree(one) for one in built]})
        return
    for one in built:
        _report(one)


def _tree(built: Built) -> dict[str, Any]:
    found: dict[str, Any] = {
        "check": None if built.check is None else built.check.as_dict(),
        "layers": None if built.layers is None else built.layers.as_dict(),
    }
    found["slow"] = list(built.slow)
    return {"path": str(built.path), **built.record.model_dump(mode="json", by_alias=True), **found}


def _report(built: Built) -> None:
    record, made = built.record, built.record.build
    for message in made.messages:
        stderr.print(f"{record.target}: {message}", markup=False, soft_wrap=True)
    on = f" on {made.gpu}" if made.gpu else ""
    stdout.print(
        f"[bold]{built.path}[/]: SM{made.sm}{on}, batch {record.batch}, {mega(record.engine.bytes)}, "
        f"{made.layers} layers, {record.target} {made.version}",
        soft_wrap=True,
    )
    stdout.print(
        f"parsed in {made.parse_seconds:.2f} s, built in {made.build_seconds:.2f} s, "
        f"{record.seconds:.1f} s in all, peak memory {mega(made.peak_memory_bytes)}"
    )
    if built.layers is not None:
        for site in built.layers.sites:
            kernel = "fused attention" if site.attention else site.kernel
            stdout.print(f"  {site.site:<28} {kernel:<16} {site.tactic}", markup=False, soft_wrap=True)
    for sentence in built.slow:
        stderr.print(f"not as emitted: {sentence}", markup=False, soft_wrap=True)
    if built.check is None:
        stdout.print("not run: its GPU, or pycuda, is not here")
    else:
        words = CLASSIFY.words
        stdout.print(
            f"run: {words.signal} {built.check.sqnr_db:.1f} dB from ONNX Runtime's, "
            f"{words.same} agreement {built.check.agreement:.1%} (n={built.check.images})"
        )
