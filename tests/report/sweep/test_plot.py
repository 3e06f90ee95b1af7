from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from qvit_deploy.report.sweep.plot import sweep_plot
from qvit_deploy.report.sweep.table import SweepRow
from qvit_deploy.tasks.tally import Figure
from tests.support.artifacts.sweep_rows import row


def texts(svg: bytes) -> str:
    ET.fromstring(svg)
    return " ".join(re.findall(r"<!-- (.*?) -->", svg.decode()))


def test_measured_rows_show_sqnr_against_every_cost_there_is() -> None:
    rows = [row(sqnr_db=20.0 + i, weight_bytes=100 + i, score=score) for i in range(3) for score in ("lrp", "none")]
    shown = texts(sweep_plot(rows))
    assert all(word in shown for word in ("SQNR, dB", "weights, MB", "BitOps, G", "lrp", "one width"))
    assert "latency" not in shown
    assert "latency of the sites, ms" in texts(sweep_plot([row(latency_ms=2.0)]))


def test_predicted_losses_of_several_models() -> None:
    shown = texts(sweep_plot([row(), row(loss=0.1, weight_bytes=200), row(model="a $model$ of_another")]))
    assert "predicted loss, relative" in shown and "a $model$ of_another" in shown


def test_the_same_rows_give_the_same_bytes() -> None:
    rows = [row(), row(loss=0.1, weight_bytes=200)]
    assert sweep_plot(rows) == sweep_plot(rows)


def test_a_figure_of_the_task_has_panels_of_its_own() -> None:
    def rows(figure: Figure | None) -> list[SweepRow]:
        return [row(sqnr_db=20.0 + i, weight_bytes=100 + i, figure=figure) for i in range(2)]

    shown = texts(sweep_plot(rows(Figure("mean_iou", "mIoU", 0.5))))
    assert "mIoU" in shown and "SQNR, dB" in shown
    assert sweep_plot(rows(None)) == sweep_plot([row(sqnr_db=20.0 + i, weight_bytes=100 + i) for i in range(2)])
    mixed = [*rows(Figure("mean_iou", "mIoU", 0.5)), row(model="other", loss=0.5)]
    assert "mIoU" in texts(sweep_plot(mixed)) and "predicted loss" in texts(sweep_plot(mixed))
