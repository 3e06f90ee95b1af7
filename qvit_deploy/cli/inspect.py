"""`qvit-deploy inspect`: what a bundle or an ONNX file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from qvit_deploy.cli.console import mega, print_json, short, stdout
from qvit_deploy.describe import describe


def command(
    path: Annotated[Path, typer.Argument(help="a bundle or an .onnx file")],
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Sites, bits and bytes of a bundle or an ONNX file."""
    found = describe(path)
    if json:
        print_json(found)
    elif found["type"] == "bundle":
        _bundle(found)
    else:
        _onnx(str(path), found)


def _bundle(found: dict[str, Any]) -> None:
    manifest = found["manifest"]
    summary, sites = manifest["summary"], manifest["sites"]
    stdout.print(
        f"[bold]{manifest['source']['model']}[/], {len(sites)} sites, {mega(summary['weight_bytes'])} of weights"
    )
    table = Table(box=None, pad_edge=False)
    for title in ("site", "role"):
        table.add_column(title, no_wrap=True)
    for title in ("width", "params", "MACs", "score"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    top = max((s["score"] or 0.0 for s in sites), default=0.0) or 1.0
    for site in sites:
        score = site["score"] or 0.0
        bar = "▇" * max(1, round(5 * score / top))
        table.add_row(
            site["name"], site["role"], _width(site),
            short(site["params"]), short(site["macs"]), f"{score:.4f}", bar,
        )  # fmt: skip
    stdout.print(table)
    for name, record in manifest["files"].items():
        stdout.print(f"{name}: {mega(record['bytes'])}")


def _width(site: dict[str, Any]) -> str:
    bits = (site["w_bits"], site["a_bits"])
    return "float" if None in bits else "w{}a{}".format(*bits)


def _onnx(path: str, found: dict[str, Any]) -> None:
    opset = found["opset"].get("ai.onnx", "?")
    stdout.print(f"[bold]{path}[/]: opset {opset}, {mega(found['bytes'])}, inputs {found['inputs']}", soft_wrap=True)
    stdout.print(f"{found['quantized_products']} of {len(found['products'])} matrix products have integer operands")
    stdout.print(", ".join(f"{op} {n}" for op, n in found["operators"].items()), soft_wrap=True)
