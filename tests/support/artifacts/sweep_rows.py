"""Rows of a sweep."""

from __future__ import annotations

from typing import Any

from qvit_deploy.report.sweep.table import SweepRow


def row(**changes: Any) -> SweepRow:
    facts = {
        "model": "m", "score": "lrp", "budget": "mean_bits=5", "loss": 1.0, "mean_w_bits": 5.0, "mean_a_bits": 5.0,
        "weight_bytes": 100, "bitops": 1000,
    }  # fmt: skip
    return SweepRow(**{**facts, **changes})
