"""Runs a few images through the float and the quantized graph, for the report to show side by side."""

from __future__ import annotations

import numpy as np

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.interface import IMAGE
from qvit_deploy.report.compile.views import ViewedImage
from qvit_deploy.targets.executor_outputs import executor_outputs
from qvit_deploy.tasks.task import Task

SHOWN = 4
"""Images that a report shows."""


def viewed(exact: Graph, quantized: Graph, images: Examples[np.ndarray], task: Task) -> list[ViewedImage]:
    """Returns what the two graphs make of the first of `images`; nothing for tasks whose outputs nobody looks at, or
    where no input is an image."""
    shown = images[:SHOWN]
    pictures = shown.arrays.get(IMAGE)
    if pictures is None:
        return []
    views = [task.views(executor_outputs(Executor(g), shown, g.static_batch)) for g in (exact, quantized)]
    return [ViewedImage(image, *pair) for image, *pair in zip(pictures, *views, strict=True)] if views[0] else []
