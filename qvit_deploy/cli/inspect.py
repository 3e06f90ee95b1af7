"""`qvit-deploy inspect`: describes a bundle, an ONNX file or an engine, and prints lint findings for its target."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.table import Table

from qvit_deploy.cli.console import line, mega, print_json, short, stdout
from qvit_deploy.commands.inspect import describe
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.lint import OLDEST_TENSORRT, RULES, SEVERITIES
from qvit_deploy.targets.registry import TARGETS, target_called

# ruff: noqa: UP045

_SHOWN_NODES = 3
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def command(
    path: Annotated[Path, typer.Argument(help="a bundle, an .onnx file or an .engine")],
    target: Annotated[
        Optional[str], typer.Option("--target", "--profile", help=f"lint for {', '.join(TARGETS)}")
    ] = None,
    trt_version: Annotated[str, typer.Option(help="TensorRT to lint for")] = "{}.{}".format(*OLDEST_TENSORRT),
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Print sites, bits and bytes of a bundle or an ONNX file, and lint findings; exit code 1 if there are errors.

    Without --target a file is linted for the target its name in a bundle says (model.tensorrt.onnx), any other file
    with Q/DQ pairs for tensorrt, the rest for onnxruntime. With --target a bundle's file for that target is linted, or
    the one for onnxruntime where the bundle has none.
    """
    description = describe(path, None if target is None else target_called(target), _version(trt_version))
    bundle = description["type"] == "bundle"
    if json:
        print_json(description)
    elif description["type"] == "engine":
        _print_engine(str(path), description)
    elif bundle:
        _print_bundle(description)
    else:
        _print_onnx(str(path), description)
    models = description["models"] if bundle else {"": description} if "lint" in description else {}
    for name, model in models.items():
        _raise_errors(str(path / name) if name else str(path), model["lint"])


def _version(text: str) -> tuple[int, int]:
    """Parses '10.3'. Raises InputError."""
    parts = text.split(".")
    if len(parts) < 2 or not all(p.isascii() and p.isdigit() and len(p) < 5 for p in parts):
        raise InputError(f"--trt-version {text!r}: give a version such as 10.3")
    return int(parts[0]), int(parts[1])


def _raise_errors(path: str, lint: dict[str, Any]) -> None:
    """Raises CheckError if there are lint errors."""
    rules = Counter(f["rule"] for f in lint["findings"] if f["severity"] == "error")
    if rules:
        raise CheckError(f"{path}: {_count(rules.total(), 'lint error')} for {_target(lint)} ({', '.join(rules)})")


def _print_bundle(description: dict[str, Any]) -> None:
    manifest = description["manifest"]
    summary, sites = manifest["summary"], manifest["sites"]
    model = str(manifest["source"].get("model", "unnamed model"))
    stdout.print(line((model, "bold"), f", {len(sites)} sites, {mega(summary['weight_bytes'])} of weights"))
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
            site["name"], site["role"], _width(site["w_bits"], site["a_bits"]),
            short(site["params"]), short(site["macs"]), f"{score:.4f}", bar,
        )  # fmt: skip
    stdout.print(table)
    for name, record in manifest["files"].items():
        stdout.print(f"{name}: {mega(record['bytes'])}")
    for name, model in description["models"].items():
        _print_lint(f"{name}: ", model["lint"], ("error", "warning"))


def _width(w_bits: int | None, a_bits: int | None) -> str:
    return "float" if None in (w_bits, a_bits) else f"w{w_bits}a{a_bits}"


def _print_onnx(path: str, description: dict[str, Any]) -> None:
    opset = description["opset"].get("ai.onnx", "?")
    producer = f", made by {description['producer']}" if description["producer"] else ""
    _line(f"{path}: opset {opset}, {mega(description['bytes'])}{producer}", "bold")
    for title in ("inputs", "outputs"):
        types = {n: f" {t}" for n, t in description["input_types"].items() if title == "inputs" and t != "float"}
        sizes = {n: ", ".join(str(d or "?") for d in shape) for n, shape in description[title].items()}
        _line(f"{title:<10} " + ", ".join(f"{n}{types.get(n, '')} [{s}]" for n, s in sizes.items()))
    pairs = description["quantizers"]
    _line(f"{'Q/DQ':<10} {pairs['QuantizeLinear']} QuantizeLinear, {pairs['DequantizeLinear']} DequantizeLinear")
    widths = Counter(_product_width(p) for p in description["products"])
    counts = ", ".join(f"{n} x {width}" for width, n in widths.most_common())
    quantized = f"{description['quantized_products']} of {len(description['products'])}"
    _line(f"{'products':<10} {quantized} matrix products have integer operands" + (f": {counts}" if counts else ""))
    in_file, packed = description["weight_bytes"], description["packed_weight_bytes"]
    _line(f"{'weights':<10} {mega(in_file)} in products, {mega(packed)} when packed at their widths")
    _line(f"{'operators':<10} " + ", ".join(f"{op} {n}" for op, n in description["operators"].items()))
    _print_lint("", description["lint"], SEVERITIES)


def _print_engine(path: str, record: dict[str, Any]) -> None:
    """Prints the record of an engine."""
    build, batch = record["build"], record["batch"]
    device = f"SM{build['sm']}" + (f" ({build['gpu']})" if build["gpu"] else "")
    _line(
        f"{path}: {record['target']} {build['version']} for {device}, {mega(record['engine']['bytes'])}",
        "bold",
    )
    for title in ("inputs", "outputs"):
        values = ", ".join(f"{t['name']} {t['dtype']} {t['shape']}" for t in build[title])
        _line(f"{title:<10} {values}")
    _line(f"{'batch':<10} {batch['least']} to {batch['most']}, chosen for {batch['best']}")
    digest = record["onnx"]["sha256"][:16]
    _line(f"{'built from':<10} {record['onnx_name']} (SHA-256 {digest}) in {record['seconds']:.1f} s")
    if record["plugins"]:
        _line(f"{'plugins':<10} " + ", ".join(p["name"] for p in record["plugins"]))
    for message in build["messages"]:
        _line(f"{'said':<10} {message}")


def _product_width(product: dict[str, Any]) -> str:
    """Returns `w4a8` for a weight and an activation, `a8a8` for two activations, with f for a float operand."""
    bits = [(("w" if o["weight"] else "a"), o["bits"]) for o in product["operands"]]
    if all(b is None for _, b in bits):
        return "float"
    return "".join(f"{kind}{'f' if b is None else b}" for kind, b in sorted(bits, reverse=True))


def _print_lint(prefix: str, lint: dict[str, Any], shown: tuple[str, ...]) -> None:
    """Prints findings grouped by rule: their number, the first nodes, what to do."""
    counts = [_count(lint["counts"][s], s) for s in SEVERITIES if lint["counts"][s]]
    _line(f"{prefix}lint for {_target(lint)}: {', '.join(counts) or 'nothing found'}", "bold")
    meanings = {rule.id: rule.what for rule in RULES}
    for (severity, rule), group in groupby(lint["findings"], key=lambda f: (f["severity"], f["rule"])):
        findings = list(group)
        if severity not in shown:
            continue
        stdout.print(f"{severity:<8}", style=_STYLES[severity], end="")
        _line(f"{rule} x {len(findings)}  {meanings[rule]}")
        for finding in findings[:_SHOWN_NODES]:
            _line(f"{'':8}{finding['node'] + ': ' if finding['node'] else ''}{finding['message']}")
        if len(findings) > _SHOWN_NODES:
            _line(f"{'':8}and {len(findings) - _SHOWN_NODES} more")
        _line(f"{'':8}{findings[0]['hint']}", "dim")


def _target(lint: dict[str, Any]) -> str:
    return f"{lint['profile']} {lint['version']}" if lint["version"] else str(lint["profile"])


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _line(text: str, style: str = "") -> None:
    stdout.print(text, style=style, soft_wrap=True)
