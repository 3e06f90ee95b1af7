from __future__ import annotations

import csv
import io

from qvit_deploy.report.sweep.table import SweepRow, as_csv, as_tree, mark_front
from qvit_deploy.tasks.tally import Figure
from tests.support.artifacts.sweep_rows import row


def fronts(*rows: SweepRow) -> list[bool]:
    marked = mark_front(rows)
    assert [r.budget for r in marked] == [r.budget for r in rows]
    return [r.pareto for r in marked]


def test_without_measurements_each_score_has_its_own_front() -> None:
    rows = [row(), row(loss=2.0), row(score="relp", loss=500.0), row(score="relp", loss=400.0, weight_bytes=101)]
    assert fronts(*rows) == [True, False, True, True]


def test_measured_rows_of_a_model_compete_whatever_their_score() -> None:
    rows = [row(sqnr_db=20.0), row(score="relp", loss=9.0, sqnr_db=21.0), row(model="other", sqnr_db=3.0)]
    assert fronts(*rows) == [False, True, True]


def test_test_images_decide_nothing() -> None:
    worse_on_test = row(sqnr_db=21.0, top1=0.1, test_agreement=0.1)
    assert fronts(row(sqnr_db=20.0, top1=0.9, test_agreement=0.9), worse_on_test) == [False, True]


def test_every_cost_counts() -> None:
    dear = row(loss=0.5, bitops=2000)
    assert fronts(row(), dear) == [True, True]
    assert fronts(row(latency_ms=1.0), row(latency_ms=2.0)) == [True, False]


def test_the_files_have_every_field_and_leave_out_what_was_not_measured() -> None:
    rows = [row(), row(sqnr_db=20.5, held_out=True)]
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [r["sqnr_db"] for r in read] == ["", "20.5"] and read[0]["budget"] == "mean_bits=5"
    tree = as_tree(rows)
    assert tree["schema"] == "qvit-deploy/sweep/1"
    assert set(tree["rows"][0]) == set(read[0]) and tree["rows"][0]["sqnr_db"] is None


def test_a_figure_of_the_task_has_the_keys_of_eval() -> None:
    rows = [row(figure=Figure("mean_iou", "mIoU", 0.5, 0.75)), row(figure=Figure("cosine_mean", "cosine", 0.9)), row()]
    first, second, none = as_tree(rows)["rows"]
    assert (first["mean_iou"], first["float_mean_iou"], second["cosine_mean"]) == (0.5, 0.75, 0.9)
    assert "float_cosine_mean" not in second and set(none) == set(as_tree([row()])["rows"][0])
    assert "figure" not in none and set(none) < set(first)
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [r["mean_iou"] for r in read] == ["0.5", "", ""] and [r["cosine_mean"] for r in read] == ["", "0.9", ""]
