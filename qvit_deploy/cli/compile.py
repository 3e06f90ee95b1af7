"""`qvit-deploy compile`: a trained model in, a verified bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape

from qvit_deploy.artifacts.manifest import Manifest
from qvit_deploy.artifacts.verification import Verification
from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, mega, print_json, short, skipped_lines, stdout
from qvit_deploy.commands.compile import compile_model
from qvit_deploy.targets.process_memory import peak_memory
from qvit_deploy.targets.registry import REFERENCE, TARGETS
from qvit_deploy.tasks.registry import task_called

# typer reads these annotations at run time, where Python 3.10 needs Optional spelled out.
# ruff: noqa: UP045


@options.recipe_options()
def command(
    model: Annotated[str, typer.Argument(help="timm:NAME[?key=value&...], a path to .onnx, or demo:vit|deit|swin")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the bundle: a folder to create")],
    calib: options.Calib = None,
    checkpoint: options.Checkpoint = None,
    pretrained: options.Pretrained = False,
    preprocess: options.PreprocessFile = None,
    *,
    choices: options.Choices,
    effort: options.Effort = None,
    recipe: Annotated[Optional[Path], typer.Option(help="TOML file with any of these choices; flags win")] = None,
    skip_bad_images: options.SkipBadImages = False,
    cache: options.Cache = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing bundle")] = False,
    json: options.Json = False,
) -> None:
    """Compile a trained vision transformer into a verified mixed-precision bundle."""
    with Bars() as bars:
        compiled = compile_model(
            model,
            out,
            choices.fields,
            recipe=recipe,
            effort=effort,
            calib=calib,
            checkpoint=checkpoint,
            pretrained=pretrained,
            preprocess=preprocess,
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
        *((name, TARGETS[name].line(TARGETS[name].read(verified))) for name, verified in checked.targets.items()),
        (
            "against float",
            f"SQNR {checked.float_sqnr_db:.1f} dB, {words.same} agreement {checked.float_agreement:.1%} "
            f"({_measured_on(checked)})",
        ),
        *_calibrated(manifest),
        ("took", f"{seconds:.1f} s"),
    ]
    for label, value in rows:
        stdout.print(f"[bold]{label:<14}[/] {value}", soft_wrap=True)


def _measured_on(checked: Verification) -> str:
    others = "held-out images" if checked.held_out else "those of calibration: the data have too few others"
    return f"n={checked.images}{' ' if checked.held_out else ', '}{others}"


def _calibrated(manifest: Manifest) -> list[tuple[str, str]]:
    """Returns a row where calibration has fewer images than were asked for."""
    count, wanted = (manifest.model_extra or {})["calibration"]["images"], manifest.recipe["calibration_images"]
    if count == wanted:
        return []
    apart = f"; {manifest.verification.images} were kept apart to measure on" if manifest.verification.held_out else ""
    return [("calibration", f"on {count} images, {wanted} wanted{apart}")]


def _latency(manifest: Manifest) -> list[tuple[str, str]]:
    measured = (manifest.model_extra or {}).get("latency")
    if not isinstance(measured, dict):
        return []
    return [("latency", f"{measured['sites_ms']:.3g} ms in the sites on {escape(str(measured['device']))}")]
