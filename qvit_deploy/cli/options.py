"""Command line options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from qvit_deploy.recipe import EFFORTS

# typer reads these annotations at run time, where Python 3.10 needs Optional spelled out.
# ruff: noqa: UP045

Calib = Annotated[Optional[str], typer.Option(help="calibration images: a folder, an .npz or demo:fashion-mnist")]
Checkpoint = Annotated[Optional[Path], typer.Option(help="weights of a timm model (.safetensors or .pt)")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="let timm fetch its weights")]
PreprocessFile = Annotated[Optional[Path], typer.Option(help="JSON with input_size, mean, std, ...")]
LatencyTable = Annotated[
    Optional[Path], typer.Option(help="JSON with the ms of every site and width, measured on the device")
]
Effort = Annotated[Optional[str], typer.Option(help=f"time for accuracy: {', '.join(EFFORTS)}")]
Bits = Annotated[Optional[str], typer.Option(help="widths to choose from, 2 to 8, e.g. 4,6,8")]
SeparateBits = Annotated[
    Optional[bool],
    typer.Option("--separate-bits/--shared-bits", help="may weights and activations of a layer differ in width"),
]
Images = Annotated[Optional[int], typer.Option(help="calibration images to use")]
Cache = Annotated[
    Optional[Path], typer.Option(help="folder for results of stages; another budget, or a restart, goes on from them")
]
SkipBadImages = Annotated[bool, typer.Option(help="leave out images that cannot be read")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]
