"""Fetches intermediate tensors of a model from ONNX Runtime by making them graph outputs."""

from __future__ import annotations

import numpy as np
import onnx

from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime.runtime import run, session

_CONV_ADD = "ConvAddActivationFusion"
"""Adds to a float convolution's result inside of the convolution, and loses it where it is an output too (as of 1.32;
the two branches of FastViT's downsampling)."""


def probe(emitted: Graph, images: Examples[np.ndarray], fetch: list[str]) -> list[np.ndarray]:
    """Returns the tensors `fetch` of `emitted` on `images`."""
    return fetched(emitted.to_proto(), images, emitted.static_batch, fetch)


def fetched(
    proto: onnx.ModelProto, images: Examples[np.ndarray], static_batch: int | None, fetch: list[str]
) -> list[np.ndarray]:
    """Returns the tensors `fetch` of `proto`, to which it adds them as outputs."""
    known = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fetch if name not in known)
    model = proto.SerializeToString()
    try:
        opened = session(model)
    except InputError:
        opened = session(model, without=[_CONV_ADD])
    return run(opened, images, static_batch, fetch)
