"""`qvit-deploy relp`: which parts of the network carry a decision, and which parts quantization damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from qvit_deploy.cli.console import Bars, json_text, print_json, stdout
from qvit_deploy.cli.options import Json, PreprocessFile
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.targets.registry import REFERENCE
from qvit_deploy.targets.target import FLOAT

# typer reads these annotations at run time, where Python 3.10 needs Optional spelled out.
# ruff: noqa: UP045


def command(
    path: Annotated[Path, typer.Argument(help="a bundle or an .onnx file")],
    clean: Annotated[Optional[Path], typer.Option(help="image that shows the decision")] = None,
    corrupt: Annotated[Optional[Path], typer.Option(help="the same image without what decides it")] = None,
    pairs: Annotated[
        Optional[Path], typer.Option(help="folder with NAME.clean.* and NAME.corrupt.*, or an .npz")
    ] = None,
    data: Annotated[
        Optional[str], typer.Option(help="images to make pairs of, or for --quantization: a folder, an .npz or demo:")
    ] = None,
    edit: Annotated[
        str, typer.Option(help="how pairs are made of --data: composite, patch-swap, inpaint, blur, noise, unrelated")
    ] = "composite",
    count: Annotated[int, typer.Option(min=1, help="pairs to make of --data, or images for --quantization")] = 8,
    seed: Annotated[int, typer.Option(help="which images and regions are drawn")] = 0,
    metric: Annotated[
        str, typer.Option(help="logit-diff, logit or log-prob, with classes: logit-diff:3,5")
    ] = "logit-diff",
    rules: Annotated[
        Optional[str], typer.Option(help="gradient, relp, relp-ah, attnlrp or deep-taylor (relp; drift: gradient)")
    ] = None,
    direction: Annotated[str, typer.Option(help="denoising (clean into corrupt) or noising")] = "denoising",
    target: Annotated[
        str, typer.Option("--target", "--profile", help=f"which of the bundle's models: {REFERENCE.name} or {FLOAT}")
    ] = REFERENCE.name,
    quantizers: Annotated[
        str, typer.Option(help="backward pass of quantizers: straight-through or secant")
    ] = "straight-through",
    exact: Annotated[bool, typer.Option("--exact", help="also patch every cell for real, the ground truth")] = False,
    processes: Annotated[int, typer.Option(min=1, help="processes that share exact patching")] = 1,
    at_once: Annotated[int, typer.Option(min=1, help="patches each process runs side by side")] = 64,
    quantization: Annotated[
        bool, typer.Option("--quantization", help="what quantization did, by site: float against quantized model")
    ] = False,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", help="folder for the page, plots, numbers and exact maps")
    ] = None,
    preprocess: PreprocessFile = None,
    json: Json = False,
) -> None:
    """RelP: attribute a decision to residual stream, attention, MLP and heads; or the damage to quantized layers."""
    try:
        from qvit_deploy.commands import relp as relp_session
    except ModuleNotFoundError as error:
        raise InputError(
            f'relp runs the model in torch; {error.name} is missing: pip install "qvit-deploy[compile]"'
        ) from error
    if quantizers not in ("straight-through", "secant"):
        raise InputError(f"quantizers can be straight-through or secant, not {quantizers!r}")
    images = Preprocess.from_file(preprocess) if preprocess is not None else None
    with Bars() as bars:
        if quantization:
            if clean or corrupt or pairs or exact:
                raise InputError("--quantization takes --data only: clean is the float model, corrupt the quantized")
            session: relp_session.Session = relp_session.drift(
                path, target, data, count, seed, metric=metric, rules=rules or "gradient", progress=bars
            )
        else:
            session = relp_session.relp(
                path,
                target,
                relp_session.Pairs(clean, corrupt, pairs, data, edit, count, seed),
                preprocess=images,
                metric=metric,
                rules=rules or "relp",
                secant_quantizers=quantizers == "secant",
                direction=direction,
                exact=exact,
                processes=processes,
                at_once=at_once,
                folder=out,
                progress=bars,
            )
    if out is not None:
        session.write(out, json_text(session.tree))
    if json:
        print_json(session.tree)
        return
    for line in _drift_lines(session.tree) if quantization else _relp_lines(session.tree):
        stdout.print(line, markup=False, soft_wrap=True)
    if out is not None:
        stdout.print(f"written to {out} (open {out / relp_session.PAGE})", markup=False, soft_wrap=True)


def _relp_lines(tree: dict[str, Any]) -> list[str]:
    from qvit_deploy.report.relp import completeness_text as completeness_words

    lines = [f"{tree['model']}: {tree['metric']}, {tree['rules']}, {tree['direction']}"]
    for pair in tree["pairs"]:
        lines.append(
            f"{pair['name']} ({pair['kind']}): class {pair['clean_class']} at {pair['clean']:+.2f} clean, "
            f"class {pair['corrupt_class']} at {pair['corrupt']:+.2f} corrupt"
        )
        lines += [
            f"  note: {warning}" for warning in [*pair["warnings"], completeness_words.warning(tree, pair)] if warning
        ]
        for kind in ("attention", "mlp", "head"):
            mine = [c for c in pair["components"] if c["kind"] == kind]
            if mine:
                lines.append(f"  {kind:<9} " + ", ".join(_strongest(kind, mine)))
    for kind, methods in (tree["agreement"] or {}).items():
        words = [
            f"{method} {summary['metrics']['pearson']['mean']:.3f}"
            for method, summary in methods.items()
            if summary["metrics"]["pearson"]["mean"] is not None
        ]
        lines.append(f"Pearson with exact patching, {kind:<9} " + ", ".join(words))
    if tree["circuits"]:
        words = [f"{m} {c['cpr']:.2f}/{c['cmd']:.2f}" for m, c in tree["circuits"].items() if c["cpr"] is not None]
        lines.append("CPR (1 is best) / CMD (0 is best): " + ", ".join(words))
    if tree["cross_check"] is not None:
        lines.append(f"ONNX Runtime agrees on patched logits to {tree['cross_check']:.0e} of the largest")
    return lines


def _strongest(kind: str, components: list[dict[str, Any]]) -> list[str]:
    """The three largest: whole outputs by the sum over tokens, heads one by one."""
    if kind == "head":
        cells = [(e, f"{c['label']} head {i}") for c in components for i, e in enumerate(c["effects"])]
    else:
        cells = [(sum(c["effects"]), c["label"]) for c in components]
    return [f"{name} {effect:+.2f}" for effect, name in sorted(cells, key=lambda cell: -abs(cell[0]))[:3]]


def _drift_lines(tree: dict[str, Any]) -> list[str]:
    from qvit_deploy.report.relp.drift_page import beyond_text

    found = tree["agreement"]
    rms = (sum((a - b) ** 2 for a, b in zip(tree["after"], tree["before"], strict=True)) / tree["images"]) ** 0.5
    lines = [
        f"{tree['model']}: {tree['metric']} moves by {rms:.3f} (root mean square, n={tree['images']}), "
        f"{tree['changed_predictions']} predictions change"
    ]
    if found["pearson"] is not None:
        lines.append(
            f"the sum over sites gives it with Pearson {found['pearson']:.3f}, slope {found['slope']:.2f}, "
            f"error {found['normalized_error']:.1%}"
        )
    if warning := beyond_text(tree):
        lines.append(f"note: {warning}")
    worst = sorted(tree["sites"], key=lambda s: -s["rms_effect"])
    width = max(len(s["name"]) for s in worst)
    lines.append(f"{'site':<{width}}  bits   effect  error   share of the drift")
    for s in worst[:8]:
        share = "" if s["share"] is None else f"{s['share']:6.1%}"
        bits = f"w{s['w_bits']}a{s['a_bits']}"
        lines.append(f"{s['name']:<{width}}  {bits:<5}  {s['rms_effect']:6.3f}  {s['error']:5.1%}  {share}")
    return lines
