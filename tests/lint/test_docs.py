from __future__ import annotations

import re

from qvit_deploy.lint import RULES
from tools.ci import write_lint_table as tool


def test_the_page_has_the_rules_as_they_are() -> None:
    """`python -m tools.ci.write_lint_table` brings it up to date."""
    text = tool.PAGE.read_text(encoding="utf-8")
    assert text.count(tool.BEGIN) == text.count(tool.END) == 1
    assert tool.page(text) == text


def test_the_table_has_a_row_per_rule_and_seven_cells() -> None:
    rows = tool.table().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [rule.id for rule in RULES]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 8 for row in rows)


def test_rules_are_said_in_whole_sentences() -> None:
    for rule in RULES:
        assert not rule.what.endswith(".") and rule.why.endswith(".") and rule.hint.endswith("."), rule.id
        assert len({rule.what for rule in RULES}) > len(RULES) - 3
