"""`qvit-deploy compile`: a trained model in, a verified bundle out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from qvit_deploy.artifacts.manifest import Manifest
from qvit_deploy.artifacts.verification import Verification
from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, line, mega, print_json, short, skipped_lines, sqnr_text, stdout
from qvit_deploy.commands.compile import compile_model
from qvit_deploy.commands.request import CompileRequest
from qvit_deploy.errors import CheckError
from qvit_deploy.targets.process_memory import peak_memory
from qvit_deploy.targets.registry import REFERENCE, TARGETS
from qvit_deploy.tasks.registry import task_called


@options.request_options
def command(
    model: Annotated[str, typer.Argument(help="timm:NAME[?key=value&...], a path to .onnx, or demo:vit|deit|swin")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the bundle: a folder to create")],
    request: CompileRequest,
    force: Annotated[bool, typer.Option("--force", help="replace an existing bundle")] = False,
    json: options.Json = False,
) -> None:
    """Compile a trained vision transformer into a verified mixed-precision bundle."""
    with Bars() as bars:
        compiled = compile_model(model, out, request, force=force, progress=bars)
    skipped_lines(compiled.skipped_images)
    manifest = compiled.bundle.manifest
    if json:
        seconds = {name: round(value, 3) for name, value in compiled.seconds.items()}
        run = {"bundle": str(compiled.bundle.root), "seconds": seconds, "peak_memory_bytes": peak_memory()}
        print_json({**run, **manifest.model_dump(mode="json", by_alias=True)})
    else:
        _report(manifest, out, sum(compiled.seconds.values()))
    if manifest.left_out:
        raise CheckError(_left_out(manifest, out))


def _report(manifest: Manifest, root: Path, seconds: float) -> None:
    summary, checked = manifest.summary, manifest.verification
    counts: dict[str, int] = {}
    for site in manifest.sites:
        width = "float" if site.w_bits is None else f"w{site.w_bits}a{site.a_bits}"
        counts[width] = counts.get(width, 0) + 1
    ratio = summary.float_weight_bytes / max(summary.weight_bytes, 1)
    agreement = ""
    if checked.float_agreement is not None:
        agreement = f", {task_called(manifest.task).words.same} agreement {checked.float_agreement:.1%}"
    rows: list[tuple[str, Any]] = [
        ("bundle", f"{root} (open {root / 'report.html'})"),
        ("sites", ", ".join(f"{n} x {width}" for width, n in sorted(counts.items()))),
        *_in_float(manifest),
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
        *_original(checked),
        ("verified", REFERENCE.line(checked)),
        *((name, TARGETS[name].line(TARGETS[name].read(verified))) for name, verified in checked.targets.items()),
        *(("left out", line((name, "red"), " (not verified)")) for name in manifest.left_out),
        (
            "against float",
            f"SQNR {sqnr_text(checked.sqnr_by_output)}{agreement} ({_measured_on(checked)})",
        ),
        *_calibrated(manifest),
        ("took", f"{seconds:.1f} s"),
    ]
    for label, value in rows:
        stdout.print(line((f"{label:<14}", "bold")), value, soft_wrap=True)


def _left_out(manifest: Manifest, root: Path) -> str:
    """Returns one line about the targets that failed, with what to do."""
    failed = ", ".join(f"--target {name}" for name in manifest.left_out)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in manifest.left_out.items())
    return (
        f"{root} was written without {', '.join(manifest.left_out)}, not verified: {reasons}; use the other files, "
        f"compile without {failed}, or keep the layer named here in float (--keep-float)"
    )


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


def _original(checked: Verification) -> list[tuple[str, str | Text]]:
    """Returns how the float model compares with the model that was handed in, or a warning that it was not compared."""
    original = checked.original
    if original is None:
        return []
    if original.worst is None:
        return [("original", line((f"not compared with the float model: {original.unavailable}", "yellow")))]
    name, error = original.worst
    count = len(original.errors)
    which = f"output {name}" if count == 1 else f"all {count} outputs, {name} the farthest,"
    return [("original", f"{which} within {error:.1e} of the model in {original.runtime} (n={original.images})")]


def _in_float(manifest: Manifest) -> list[tuple[str, str]]:
    """Returns a row with the layers that no target quantizes, by operator and with the first one's name."""
    layers = manifest.in_float
    if not layers:
        return []
    counts = Counter(layer.operator for layer in layers)
    kinds = ", ".join(f"{n} x {operator}" for operator, n in counts.items())
    return [("in float", f"{kinds} (the first {layers[0].name}; {short(sum(x.params for x in layers))} weights)")]


def _latency(manifest: Manifest) -> list[tuple[str, str]]:
    measured = (manifest.model_extra or {}).get("latency")
    if not isinstance(measured, dict):
        return []
    return [("latency", f"{measured['sites_ms']:.3g} ms in the sites on {measured['device']!s}")]
