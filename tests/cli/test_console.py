from __future__ import annotations

import pytest
from rich.table import Table

from qvit_deploy.cli.console import line, short, stdout


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (960, "960"), (27_648, "27.6 k"), (999_900, "1.00 M"), (34_100_000_000, "34.1 G")]
)
def test_counts_are_three_digits_and_a_prefix(count: int, text: str) -> None:
    assert short(count) == text


def test_names_are_neither_markup_nor_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(box=None)
    table.add_column("[/b]")
    table.add_row("a\x1b[31m[/x]\u202e")
    stdout.print(table)
    stdout.print("[bold]x", soft_wrap=True)
    stdout.print(line(("[/]\n", "bold"), "[red]"))
    shown = [text.strip() for text in capsys.readouterr().out.splitlines()]
    assert shown == ["[/b]", "a\\x1b[31m[/x]\\u202e", "[bold]x", "[/]\\n[red]"]
