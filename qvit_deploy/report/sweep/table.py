"""Holds the result of a sweep: one row per model, score and budget, and which rows are on the Pareto front."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from qvit_deploy.allocate.pareto import pareto_front
from qvit_deploy.tasks.tally import Figure

SCHEMA: Literal["qvit-deploy/sweep/1"] = "qvit-deploy/sweep/1"


@dataclass(frozen=True)
class SweepRow:
    """One allocation: its budget, its costs and its loss.

    Attributes:
        score: what ranked the sites; "none" where one width was given for all.
        budget: e.g. `mean_bits=5`.
        loss: predicted by the score, in its own unit: compare rows of one score only.
        latency_ms: of all sites, by the latency table.
        sqnr_db, agreement, images: the emitted model in ONNX Runtime against the float model, on calibration images;
            `held_out` says that calibration did not use them.
        top1, float_top1, test_agreement, test_images: on the test data.
        figure: what the task measures first on the test data, or else on those of `agreement`, where that is neither
            top-1 nor the agreement; by the keys of `eval` in files.
        pareto: no other row of the model loses less without costing more (see `mark_front`).

    What was not measured is None.
    """

    model: str
    score: str
    budget: str
    loss: float
    mean_w_bits: float
    mean_a_bits: float
    weight_bytes: int
    bitops: int
    latency_ms: float | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    images: int | None = None
    held_out: bool | None = None
    top1: float | None = None
    float_top1: float | None = None
    test_agreement: float | None = None
    test_images: int | None = None
    figure: Figure | None = None
    pareto: bool = False


def mark_front(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """Sets `pareto` by SQNR against weight bytes, BitOps and latency among the rows of a model.

    Test images have no influence. Without a measured SQNR the predicted loss is used, and since losses of two scores
    cannot be compared, each score then has its own front.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.model, row.score if row.sqnr_db is None else ""), []).append(index)
    marked = list(rows)
    for members in groups.values():
        for index, on_front in zip(members, pareto_front([_point(rows[i]) for i in members]), strict=True):
            marked[index] = replace(rows[index], pareto=on_front)
    return marked


def _point(row: SweepRow) -> tuple[float, ...]:
    loss = row.loss if row.sqnr_db is None else -row.sqnr_db
    return loss, row.weight_bytes, row.bitops, row.latency_ms or 0.0


def as_csv(rows: Sequence[SweepRow]) -> str:
    """Writes a header and one line per row; what was not measured is empty."""
    out, trees = io.StringIO(), [_tree(row) for row in rows]
    writer = csv.DictWriter(out, list(dict.fromkeys(name for tree in trees for name in tree)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(trees)
    return out.getvalue()


def as_tree(rows: Sequence[SweepRow]) -> dict[str, Any]:
    """Returns the JSON object of `qvit-deploy sweep --json` and of `sweep.json`."""
    return {"schema": SCHEMA, "rows": [_tree(row) for row in rows]}


def _tree(row: SweepRow) -> dict[str, Any]:
    """Returns a row by the names in files; only rows that have a figure have its keys, at the end."""
    tree, figure = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "figure"}, row.figure
    if figure is None:
        return tree
    of_float = {} if figure.of_float is None else {f"float_{figure.key}": figure.of_float}
    return {**tree, figure.key: figure.value, **of_float}
