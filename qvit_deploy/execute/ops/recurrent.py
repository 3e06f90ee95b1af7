"""LSTM and GRU, by torch's own: heads of text recognizers have them. They run in floating point everywhere.

ONNX keeps the gates of an LSTM as (input, output, forget, cell), torch as (input, forget, cell, output); those of a GRU
as (update, reset, hidden), torch as (reset, update, hidden). Both have one matrix for the input and one for the state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op

_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
"""ONNX's gates in torch's order."""

_USUAL = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}


@op("LSTM", "GRU")
def _recurrent(view: NodeView) -> OpFn:
    kind = view.node.op_type
    direction = view.attr("direction", "forward")
    activations = [str(name).lower() for name in view.attr("activations", [])]
    directions = 2 if direction == "bidirectional" else 1
    if activations not in ([], _USUAL[kind] * directions):
        raise view.unsupported(f"activations {activations} are not the usual ones")
    if view.has(4) or (kind == "LSTM" and view.has(7)) or view.attr("clip", 0.0) or view.attr("input_forget", 0):
        raise view.unsupported("lengths of sequences, peepholes and clipped or coupled gates do not run")
    if kind == "GRU" and not view.attr("linear_before_reset", 0):
        raise view.unsupported("linear_before_reset=0 does not run; torch and Keras (reset_after) write 1")
    if view.attr("layout", 0):
        raise view.unsupported("layout=1 does not run; export with the time axis first")
    reverse, order = direction == "reverse", _ORDER[kind]

    def run(
        x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, _: None = None, h: Tensor | None = None,
        c: Tensor | None = None, __: None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        hidden = r.shape[-1]
        biases = w.new_zeros(w.shape[0], 2 * w.shape[1]) if b is None else b
        parameters = [p for i in range(directions) for p in _of_direction(w[i], r[i], biases[i], order)]
        start = x.new_zeros(directions, x.shape[1], hidden) if h is None else h
        x = x.flip(0) if reverse else x
        # has_biases, layers, dropout, training, bidirectional, batch_first
        more = (True, 1, 0.0, False, directions == 2, False)
        if kind == "LSTM":
            y, *last = torch.lstm(x, (start, torch.zeros_like(start) if c is None else c), parameters, *more)
        else:
            y, *last = torch.gru(x, start, parameters, *more)
        y = y.flip(0) if reverse else y
        return y.unflatten(-1, (directions, hidden)).transpose(1, 2), *last

    return run


def _of_direction(w: Tensor, r: Tensor, b: Tensor, order: Sequence[int]) -> list[Tensor]:
    """Returns torch's parameters (input weight, state weight, their biases) of one direction."""
    inputs, states = b.chunk(2)
    return [torch.cat([t.chunk(len(order))[gate] for gate in order]) for t in (w, r, inputs, states)]
