"""Writes the table of lint rules into docs/lint.md: `python -m tools.ci.write_lint_table`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from qvit_deploy.lint import RULES, Rule

PAGE = Path(__file__).parents[2] / "docs" / "lint.md"
BEGIN, END = "<!-- rules -->\n", "<!-- end of rules -->\n"
_TARGETS = {"tensorrt": "TRT", "tensorrt-rtx": "RTX", "onnxruntime": "ORT"}


def summary() -> str:
    """Counts the rules by severity and by source."""
    severities = ", ".join(f"{n} {s}s" for s, n in Counter(r.severity for r in RULES).most_common())
    sources = ", ".join(f"{n} {s}" for s, n in Counter(r.source for r in RULES).most_common())
    untried = ", ".join(r.id for r in RULES if r.severity == "error" and r.source == "documentation")
    return f"{len(RULES)} rules: {severities}. Sources: {sources}. Errors from documentation alone: {untried}.\n"


def table() -> str:
    """Writes all rules as a Markdown table, in the order of `RULES`."""
    rows = ["| rule | severity | targets | what | why | hint | source |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*rows, *map(_row, RULES)]) + "\n"


def _row(rule: Rule) -> str:
    targets = ", ".join(_TARGETS[p] for p in rule.targets)
    cells = (rule.id, rule.severity, targets, rule.what, rule.why, rule.hint, rule.source)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(text: str) -> str:
    """Replaces the summary and the table between the marks of a page."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + summary() + "\n" + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
