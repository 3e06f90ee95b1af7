"""Measures what `--cache` saves a compile with another budget, and costs one that fills it, interleaved in one process.

python -m tools.measure.cache demo:deit timm:deit_small_patch16_224 [--rounds 5]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qvit_deploy.pipeline.compile import Compiled, compile
from qvit_deploy.recipe import Recipe

FIRST, CHANGED = Recipe.load(None, mean_bits=5), Recipe.load(None, mean_bits=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--calib", default="demo:fashion-mnist")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    table = Table("model", "without", "cold", "warm", "stages spared", "in their place", "folder")
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            table.add_row(model, *_row(model, arguments.calib, arguments.rounds, Path(folder)))
    Console().print(table)


def _row(model: str, calib: str, rounds: int, folder: Path) -> list[str]:
    """Returns median seconds of compiles and of the stages that the cache replaces, and the megabytes of the cache."""

    def run(out: str, recipe: Recipe, cache: Path | None) -> dict[str, float]:
        done: Compiled = compile(model, folder / out, calib=calib, recipe=recipe, cache=cache, force=True)
        return dict(done.seconds)

    filled = folder / "filled"
    run("first", FIRST, filled)
    size = sum(p.stat().st_size for p in filled.iterdir())
    seconds: dict[str, list[dict[str, float]]] = {"without": [], "cold": [], "warm": []}
    for i in range(rounds):
        warm = Path(shutil.copytree(filled, folder / f"warm {i}"))
        seconds["without"].append(run("without", CHANGED, None))
        seconds["cold"].append(run("cold", CHANGED, folder / f"cold {i}"))
        seconds["warm"].append(run("warm", CHANGED, warm))
        for other in ("cold", "warm"):
            _require_equal(folder / "without", folder / other)
    skipped = set(seconds["without"][0]) - set(seconds["warm"][0])
    assert skipped and all(any(n.endswith("(cached)") for n in t) for t in seconds["warm"])
    columns = [
        *([sum(t.values()) for t in times] for times in seconds.values()),
        [sum(t[n] for n in skipped) for t in seconds["without"]],
        [sum(s for n, s in t.items() if n == "cache" or n.endswith("(cached)")) for t in seconds["warm"]],
    ]
    return [*(f"{statistics.median(column):.2f} s" for column in columns), f"{size / 1e6:.0f} MB"]


def _require_equal(one: Path, other: Path) -> None:
    names = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    assert all((one / n).read_bytes() == (other / n).read_bytes() for n in names), f"{one} and {other} differ"


if __name__ == "__main__":
    main()
