"""The rows of the coverage table, and the page of the docs that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from qvit_deploy.targets.registry import TARGETS
from tools.measure.architectures.architecture import Architecture

OK, NOISY, NOT_RUN = "ok", "noisy", "not run"
LIBRARIES = ("torch", "timm", "transformers", "onnx", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Row:
    """What became of one export of one architecture.

    Attributes:
        outcome: `ok`, `export` (the exporter failed), `refused` (one clear line), `wrong` (a check failed, or an output
            of the float file is not the exported file's), `noisy` (all checks passed, but an output of the quantized
            file is far from the exported file's), `error` (a traceback or a process that died) or `not run`.
        reason: one line; empty for most that are `ok`.
        outputs: name -> shape, without the batch.
        float_db, quantized_db: of the worst output, against the exported file.
        targets: those that it was compiled for, the reference first.
        without: those of them that refuse the model or fail their verification, with the reason of each.
    """

    name: str
    exporter: str
    outcome: str
    reason: str = ""
    outputs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    float_db: float | None = None
    quantized_db: float | None = None
    targets: Sequence[str] = ()
    without: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def page(rows: Mapping[tuple[str, str], Row], architectures: Sequence[Architecture], exporters: Sequence[str]) -> str:
    """Returns the page in Markdown: the counts, then a table for every task, a line for every architecture.

    Args:
        rows: (name of the architecture, exporter) -> its row, for all of both.
    """
    shown = [rows[a.name, e] for a in architectures for e in exporters]
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    lines = [_TITLE, f"Printed with {versions}.", "", *_counts(shown, exporters)]
    for task in dict.fromkeys(a.task for a in architectures):
        lines += ["", f"## {task[0].upper()}{task[1:]}", "", *_header(exporters)]
        lines += [_line(a, [rows[a.name, e] for e in exporters]) for a in architectures if a.task == task]
    return "\n".join(lines) + "\n"


def names_of(text: str) -> list[str]:
    """Returns the names of the architectures in a page, in its order."""
    return [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]


_TITLE = """# Coverage: which architectures compile

A small model of every family of timm that has attention (or that backbones of transformers are made of), and of the
vision architectures of transformers, exported by torch's two exporters and compiled at w8a8. Printed by

```
pip install transformers
python -m tools.measure.coverage WORK --markdown docs/coverage.md
```

In the column of an exporter stands the SQNR in dB of the worst output of the quantized file against the exported file,
both in ONNX Runtime, on four images that the compile did not see; outputs that are the same for all of them are left
out. The compile has 16 images, or 64 where that is noted. The float file of every bundle is at least 60 dB from the
exported one. A row with less than 15 dB is `noisy`: its integers are those that were planned, and beside it stands how
far noise of 1 % of the pixels' deviation (40 dB) takes the float model alone. Models that take queries by rank or
groups by an ArgMax move far by little, and so do deep ones with batch norms of random weights.

Weights are random, scaled to pictures (every product has unit variance, every batch norm the statistics of what it
gets), and no layer is tuned: the figures say that a model is compiled right, not how well a trained one quantizes.
Targets are those that the model was compiled for (`--target`) and whose files passed their verification, with every
export that was tried; what was left out stands beside it with its reason, and `onnxruntime` alone means that no other
was tried. The order of queries that are taken by rank does not count where all of them are outputs (RT-DETR, D-FINE).
"""


def _counts(rows: Sequence[Row], exporters: Sequence[str]) -> list[str]:
    lines = ["| exporter | rows | ok | failed |", "|---|---|---|---|"]
    for exporter in exporters:
        outcomes = Counter(r.outcome for r in rows if r.exporter == exporter)
        failed = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if outcome != OK) or "none"
        lines.append(f"| {exporter} | {outcomes.total()} | {outcomes[OK]} | {failed} |")
    return lines


def _header(exporters: Sequence[str]) -> list[str]:
    columns = ["architecture", "outputs", *exporters, "targets", "notes, and what fails"]
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def _line(architecture: Architecture, rows: Sequence[Row]) -> str:
    name = architecture.name
    outputs = next((r.outputs for r in rows if r.outputs), {})
    shapes = ", ".join(f"{n} {'x'.join(map(str, shape))}".strip() for n, shape in outputs.items())
    without = {target: why for row in rows for target, why in row.without.items()}
    verified = dict.fromkeys(t for row in rows if row.quantized_db is not None for t in row.targets if t not in without)
    targets = "all" if len(verified) == len(TARGETS) else ", ".join(verified)
    reasons = [f"{r.exporter}: {r.reason}" for r in rows if r.reason]
    reasons += [f"{target}: {why}" for target, why in without.items()]
    cells = [f"`{name}`", shapes, *map(_result, rows), targets, _cell("; ".join(reasons))]
    return "| " + " | ".join(cells) + " |"


def _result(row: Row) -> str:
    decibels = "" if row.quantized_db is None else f"{row.quantized_db:.0f}"
    return decibels if row.outcome == OK else f"**{row.outcome}** {decibels}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
