"""`qvit-deploy relp`: which parts of the network carry a decision, and which parts quantization damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, print_json, stdout
from qvit_deploy.cli.relp_text import drift_lines, relp_lines
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
    seed: Annotated[int, typer.Option(min=0, help="which images and regions are drawn")] = 0,
    task: options.Task = None,
    metric: Annotated[
        Optional[str],
        typer.Option(
            help="of a classifier logit-diff (default), logit or log-prob, with classes: logit-diff:3,5; by task "
            "cosine, pixel:ROW,COL,CLASS, query:N,CLASS; of any other model output-change"
        ),
    ] = None,
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
    preprocess: options.PreprocessFile = None,
    json: options.Json = False,
) -> None:
    """RelP: attribute a decision to residual stream, attention, MLP and heads; or the damage to quantized layers."""
    try:
        from qvit_deploy.commands import relp as relp_command
    except ModuleNotFoundError as error:
        raise InputError(
            f'relp runs the model in torch; {error.name} is missing: pip install "qvit-deploy[compile]"'
        ) from error
    images = Preprocess.from_file(preprocess) if preprocess is not None else None
    source = relp_command.PairSource(clean, corrupt, pairs, data, edit, count, seed)
    with Bars() as bars:
        if quantization:
            drift = relp_command.DriftRequest(
                path, target, source, metric, rules or "gradient", quantizers, exact, task
            )
            result = relp_command.drift(drift, bars)
        else:
            request = relp_command.RelpRequest(
                path=path,
                target=target,
                source=source,
                preprocess=images,
                metric=metric,
                rules=rules or "relp",
                direction=direction,
                quantizers=quantizers,
                exact=relp_command.ExactPatching(processes, at_once, out and out / relp_command.EXACT)
                if exact
                else None,
                task=task,
            )
            result = relp_command.relp(request, bars)
    if out is not None:
        result.write(out)
    if json:
        print_json(result.tree)
        return
    for line in drift_lines(result.tree) if quantization else relp_lines(result.tree):
        stdout.print(line, soft_wrap=True)
    if out is not None:
        stdout.print(f"written to {out} (open {out / relp_command.PAGE})", soft_wrap=True)
