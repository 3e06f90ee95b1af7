"""`qvit-deploy compile`: a trained model in, a verified bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional, get_args

import typer
from rich.markup import escape

from qvit_deploy.artifacts.manifest import Manifest
from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, mega, print_json, short, skipped_lines, stdout, whole_numbers
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.recipe import Recipe, Score
from qvit_deploy.targets.process_memory import peak_memory
from qvit_deploy.targets.registry import REFERENCE, TARGETS
from qvit_deploy.tasks.registry import task_called

# typer reads these annotations at run time, where Python 3.10 needs Optional spelled out.
# ruff: noqa: UP045


def command(
    model: Annotated[str, typer.Argument(help="timm:NAME[?key=value&...], a path to .onnx, or demo:vit|deit|swin")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the bundle: a folder to create")],
    calib: options.Calib = None,
    checkpoint: options.Checkpoint = None,
    pretrained: options.Pretrained = False,
    preprocess: options.PreprocessFile = None,
    mean_bits: Annotated[Optional[float], typer.Option(help="budget: mean bits of weights and of activations")] = None,
    max_size: Annotated[Optional[float], typer.Option(help="budget: packed weights, MB (1e6 bytes)")] = None,
    max_bitops: Annotated[Optional[float], typer.Option(help="budget: giga BitOps per image")] = None,
    max_latency: Annotated[Optional[float], typer.Option(help="budget: ms of all sites by --latency-table")] = None,
    latency_table: options.LatencyTable = None,
    uniform: Annotated[Optional[str], typer.Option(help="one width everywhere, e.g. w8a8")] = None,
    effort: options.Effort = None,
    score: Annotated[Optional[str], typer.Option(help=f"what ranks layers: {', '.join(get_args(Score))}")] = None,
    bits: options.Bits = None,
    separate_bits: options.SeparateBits = None,
    images: options.Images = None,
    target: Annotated[
        Optional[list[str]], typer.Option(help=f"target to write a file for, repeatable: {', '.join(TARGETS)}")
    ] = None,
    recipe: Annotated[Optional[Path], typer.Option(help="TOML file with any of these choices; flags win")] = None,
    skip_bad_images: options.SkipBadImages = False,
    cache: options.Cache = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing bundle")] = False,
    json: options.Json = False,
) -> None:
    """Compile a trained vision transformer into a verified mixed-precision bundle."""
    choices = Recipe.load(
        recipe,
        effort=effort,
        mean_bits=mean_bits,
        max_size_mb=max_size,
        max_bitops_g=max_bitops,
        max_latency_ms=max_latency,
        latency_table=latency_table,
        uniform=uniform,
        score=score,
        bits=None if bits is None else whole_numbers("--bits", bits),
        separate_bits=separate_bits,
        calibration_images=images,
        targets=target,
    )
    try:
        from qvit_deploy.pipeline.compile import compile
    except ImportError as error:
        raise InputError(
            f'compiling needs {error.name}, which is not installed: pip install "qvit-deploy[compile]"'
        ) from error
    with Bars() as bars:
        compiled = compile(
            model,
            out,
            calib=calib,
            recipe=choices,
            checkpoint=checkpoint,
            pretrained=pretrained,
            preprocess=None if preprocess is None else Preprocess.from_file(preprocess),
            force=force,
            skip_bad_images=skip_bad_images,
            cache=cache,
            progress=bars,
        )
    skipped_lines(compiled.skipped_images)
    manifest = compiled.bundle.manifest
    if json:
        seconds = {name: round(value, 3) for name, value in compiled.seconds.items()}
        run = {"bundle": str(compiled.bundle.root), "seconds": seconds, "peak_memory_bytes": peak_memory()}
        print_json({**run, **manifest.model_dump(mode="json", by_alias=True)})
    else:
        _report(manifest, out, sum(compiled.seconds.values()))


def _report(manifest: Manifest, root: Path, seconds: float) -> None:
    summary, checked = manifest.summary, manifest.verification
    counts: dict[str, int] = {}
    for site in manifest.sites:
        width = f"w{site.w_bits}a{site.a_bits}"
        counts[width] = counts.get(width, 0) + 1
    ratio = summary.float_weight_bytes / max(summary.weight_bytes, 1)
    words = task_called(manifest.task).words
    rows: list[tuple[str, Any]] = [
        ("bundle", f"{root} (open {root / 'report.html'})"),
        ("sites", ", ".join(f"{n} x {width}" for width, n in sorted(counts.items()))),
        ("mean bits", f"weights {summary.mean_w_bits:.2f}, activations {summary.mean_a_bits:.2f}"),
        (
            "weights",
            f"{mega(summary.weight_bytes)} packed, {mega(summary.float_weight_bytes)} in float ({ratio:.1f}x)",
        ),
        (
            "BitOps",
            f"{short(summary.bitops)}, {short(summary.float_bitops)} in float "
            f"({summary.float_bitops / max(summary.bitops, 1):.1f}x)",
        ),
        *_latency(manifest),
        ("verified", REFERENCE.line(checked)),
        *((name, TARGETS[name].line(TARGETS[name].read(found))) for name, found in checked.targets.items()),
        (
            "against float",
            f"SQNR {checked.float_sqnr_db:.1f} dB, {words.same} agreement {checked.float_agreement:.1%} "
            f"(n={checked.images})",
        ),
        ("took", f"{seconds:.1f} s"),
    ]
    for label, value in rows:
        stdout.print(f"[bold]{label:<14}[/] {value}", soft_wrap=True)


def _latency(manifest: Manifest) -> list[tuple[str, str]]:
    measured = (manifest.model_extra or {}).get("latency")
    if not isinstance(measured, dict):
        return []
    return [("latency", f"{measured['sites_ms']:.3g} ms in the sites on {escape(str(measured['device']))}")]
