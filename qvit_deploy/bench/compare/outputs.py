"""Writes a check's report for other programs: JUnit, a GitHub job summary, github-action-benchmark."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from qvit_deploy.artifacts.measurement import QUANTILES, Subject
from qvit_deploy.bench.compare.regression import Report


def junit(report: Report) -> bytes:
    """Returns a JUnit XML file (UTF-8) with one test case per criterion."""
    failures = sum(c.failed for c in report.criteria)
    suite = ET.Element(
        "testsuite", name="qvit-deploy check", tests=str(len(report.criteria)), failures=str(failures), errors="0"
    )
    for criterion in report.criteria:
        case = ET.SubElement(suite, "testcase", classname=report.candidate.file.name, name=criterion.name)
        if criterion.failed:
            ET.SubElement(case, "failure", message=criterion.text)
        else:
            ET.SubElement(case, "system-out").text = criterion.text
    for note in report.notes:
        ET.SubElement(suite, "system-err").text = note
    ET.indent(suite)
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def markdown(report: Report) -> str:
    """Returns a GitHub job summary in Markdown."""
    verdict = "regression" if report.failed else "no regression"
    old, new = report.baseline, report.candidate
    lines = [f"### qvit-deploy check: {verdict}", "", "| | | |", "|---|---|---|"]
    lines += [f"| {'❌' if c.failed else '✅'} | {c.name} | {_cell(c.text)} |" for c in report.criteria]
    lines += ["", "| | baseline | candidate | |", "|---|---|---|---|"]
    lines.append(f"| file | {_cell(old.file.name)} | {_cell(new.file.name)} | |")
    lines.append(f"| sha256 | {old.file.sha256[:8]} | {new.file.sha256[:8]} | |")
    for name in QUANTILES:
        before, after = getattr(old.latency_ms, name), getattr(new.latency_ms, name)
        lines.append(f"| {name} | {before:.3g} ms | {after:.3g} ms | {after / before - 1:+.1%} |")
    lines.append(
        f"| size | {old.file.bytes / 1e6:.2f} MB | {new.file.bytes / 1e6:.2f} MB | "
        f"{new.file.bytes / max(old.file.bytes, 1) - 1:+.1%} |"
    )
    lines += ["", *(f"- {_cell(note)}" for note in report.notes)] if report.notes else []
    return "\n".join(lines) + "\n"


def benchmark_action(candidate: Subject) -> list[dict[str, Any]]:
    """Returns the candidate's numbers as github-action-benchmark's tool `customSmallerIsBetter` reads them."""
    latency, name = candidate.latency_ms, candidate.file.name
    rows: list[dict[str, Any]] = []
    for quantile in QUANTILES:
        low, high = latency.interval95[quantile]  # type: ignore[index]
        row = {"name": f"{name}: latency {quantile}", "unit": "ms", "value": getattr(latency, quantile)}
        rows.append({**row, "range": f"{low:.4g} to {high:.4g}", "extra": f"{latency.samples} runs"})
    rows.append({"name": f"{name}: size", "unit": "bytes", "value": candidate.file.bytes})
    if candidate.peak_memory_bytes is not None:
        rows.append({"name": f"{name}: peak memory", "unit": "bytes", "value": candidate.peak_memory_bytes})
    return rows


def as_tree(report: Report) -> dict[str, Any]:
    """Returns the report as the JSON object of `qvit-deploy check --json`."""
    return {
        "failed": report.failed,
        "latency_ratio": {
            "p50": report.latency.value,
            "interval95": list(report.latency.interval),
            "units": report.latency.units,
            "interleaved": report.latency.interleaved,
        },
        "findings": [{"name": c.name, "failed": c.failed, "text": c.text} for c in report.criteria],
        "notes": list(report.notes),
        "baseline": report.baseline.file.model_dump(),
        "candidate": report.candidate.file.model_dump(),
    }


def _cell(text: str) -> str:
    """Escapes text so that it neither leaves its cell of a table nor becomes markup."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
