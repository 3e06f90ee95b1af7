"""Builds TensorRT-RTX engines of bundles and prints what that took, next to what compiling verified of their files.

Engines are built into a temporary folder, one after the other, each in a process of its own; no GPU is needed.

    python -m tools.measure.engines BUNDLE_OR_FOLDER_OF_BUNDLES... [--sm 86 --sm 120] [--batch 1:4:8] [--markdown]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.artifacts.engine_record import Batch, BuildOptions
from qvit_deploy.artifacts.manifest import MANIFEST
from qvit_deploy.commands.build import BuiltEngine, build
from qvit_deploy.errors import InputError
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.targets.tensorrt import TENSORRT_RTX
from qvit_deploy.targets.tensorrt.verified import HalfVerification

TARGET = TARGETS[TENSORRT_RTX]
COLUMNS = (
    "bundle", "codes equal", "free", "dB", "in float", "SM", "ONNX, MB", "engine, MB", "layers", "parse, s", "build, s",
    "in all, s", "peak, MB", "messages",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--sm", type=int, action="append")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    lines = list(rows(bundles(arguments.paths), tuple(arguments.sm or (86, 120)), Batch.parse(arguments.batch)))
    if arguments.markdown:
        for line in (COLUMNS, ("---",) * len(COLUMNS), *lines):
            print("| " + " | ".join(line) + " |")
        return
    table = Table(*COLUMNS)
    for row in lines:
        table.add_row(*row)
    Console().print(table)


def bundles(paths: Iterable[Path]) -> Iterator[Path]:
    """Yields the bundles among `paths` and in their folders, by name. Raises InputError where there is none."""
    for path in paths:
        inside = [path] if (path / MANIFEST).is_file() else sorted(p.parent for p in path.glob(f"*/{MANIFEST}"))
        if not inside:
            raise InputError(f"no bundle at {path} or right below it")
        yield from inside


def rows(paths: Iterable[Path], sms: tuple[int, ...], batch: Batch) -> Iterator[tuple[str, ...]]:
    """Builds the engines and yields one row for every bundle and compute capability."""
    for path in paths:
        bundle = read_bundle(path)
        onnx = bundle.path_of(TARGET.file)
        checked = TARGET.read(bundle.manifest.verification.targets[TARGET.name])
        for sm in sms:
            with tempfile.TemporaryDirectory() as folder:
                (built,) = build(onnx, TARGET.name, BuildOptions(batch=batch), sms=(sm,), out=Path(folder) / "m.engine")
            yield (path.name, *_verification_cells(checked), *_build_cells(built))


def _verification_cells(checked: HalfVerification) -> tuple[str, ...]:
    return (
        f"{(checked.codes or 0) - (checked.code_mismatches or 0):,} of {checked.codes:,}",
        f"{checked.free_codes_equal:.1%}",
        f"{checked.reference_sqnr_db:.1f}",
        str(len(checked.in_float)),
    )


def _build_cells(built: BuiltEngine) -> tuple[str, ...]:
    record, result = built.record, built.record.build
    return (
        str(result.sm),
        f"{record.onnx.bytes / 1e6:.2f}",
        f"{record.engine.bytes / 1e6:.2f}",
        str(result.layers),
        f"{result.parse_seconds:.2f}",
        f"{result.build_seconds:.2f}",
        f"{record.seconds:.1f}",
        f"{result.peak_memory_bytes / 1e6:.0f}",
        "; ".join(result.messages) or "none",
    )


if __name__ == "__main__":
    main()
