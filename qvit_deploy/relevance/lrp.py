"""Layer-wise relevance propagation on a graph: relevance of any tensor, and of every site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from qvit_deploy.errors import InputError, NonFiniteError
from qvit_deploy.execute.executor import Executor, Tap
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.query import names_with_gradient, pixels_as_floats
from qvit_deploy.graph.sites import Site
from qvit_deploy.progress import Advance
from qvit_deploy.relevance.rule_sets import RuleSet
from qvit_deploy.relevance.scores import Scores
from qvit_deploy.tasks.task import Objective

Tensor = torch.Tensor
Visit = Callable[[str, Tensor, Tensor], None]
"""Called with a tensor's name, its activation and its gradient-form relevance G, both of the tensor's shape."""


def propagate(
    executor: Executor,
    batch: Examples[Tensor],
    names: Iterable[str],
    visit: Visit,
    objective: Objective,
    replaced: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Runs one forward and one backward pass; `visit` sees each named tensor as relevance reaches it.

    Nothing is kept after `visit` returns, so the cost in memory is that of an ordinary backward pass.

    Args:
        executor: built with the overrides of a bound rule set.
        names: tensors to visit (those the inputs reach).
        objective: the scalar that the backward pass starts from; `RuleSet.starting_at` gives it the start a rule set
            wants.
        replaced: of the named tensors, values that the forward pass goes on with; what computed the tensor still gets
            its gradient, and `visit` its own value.

    Returns: the outputs by name.

    Raises:
        InputError: no gradient goes into the graph from the outputs that the objective reads.
        NonFiniteError: an output, or a relevance, is NaN or infinite; names the tensor.
        KeyError: the graph has no tensor of that name.
    """
    names, pending = set(names), dict[str, Tensor]()
    ends = pixels_as_floats(executor.graph)
    independent = (names - names_with_gradient(executor.graph)) | (names & ends)

    def tap(name: str) -> Tap:
        def read(tensor: Tensor) -> Tensor | None:
            pending[name] = tensor.detach()
            if name in independent and tensor.is_floating_point():
                # What does not come from the image, such as the queries of a decoder, damages outputs all the same.
                tensor = tensor.detach().requires_grad_()
            if tensor.requires_grad:  # an attention map's inputs under `relp-ah` may not
                tensor.register_hook(arrive)
            if replaced is None or name not in replaced:
                return tensor
            return replaced_by(tensor, replaced[name])

        def arrive(g: Tensor | None) -> None:
            if g is not None:
                _check_finite(name, g)
                visit(name, pending.pop(name), g)

        return read

    with torch.enable_grad():
        taps: dict[str, Tap] = {name: tap(name) for name in names}
        outputs = executor.run(batch.map(_tracked), {**dict.fromkeys(ends, _tracked), **taps})
    if missing := names - pending.keys():
        raise KeyError(f"no tensor named {min(missing)!r} in the graph")
    if not all(bool(torch.isfinite(value).all()) for value in outputs.values()):
        raise NonFiniteError(
            "the output of the float model is NaN or infinite on the images: the model overflows or holds broken "
            "weights; check it in its own framework first"
        )
    start = objective(outputs)
    if not start.requires_grad:
        raise InputError(
            f"no gradient goes from the outputs of {executor.graph.name!r} to its layers: all of them come out of an "
            "ArgMax, a TopK's indices or a comparison; export the scores in front of it as outputs"
        )
    start.sum().backward()
    for name, activation in pending.items():  # nothing reached these: behind a stop, or unused by this class
        visit(name, activation, torch.zeros_like(activation))
    return {name: value.detach() for name, value in outputs.items()}


def _tracked(value: Tensor) -> Tensor:
    """Returns a copy of an input whose gradient is wanted, where it can have one."""
    return value.detach().clone().requires_grad_() if value.is_floating_point() else value


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, computed: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, None


def replaced_by(computed: Tensor, value: Tensor) -> Tensor:
    """Returns `value`, whose gradient goes to `computed`."""
    result: Tensor = _Replaced.apply(computed, value)
    return result


def site_relevance(
    graph: Graph,
    sites: Sequence[Site],
    batches: Iterable[Examples[Tensor]],
    rule_set: RuleSet,
    objective: Objective,
    advance: Advance,
) -> Scores:
    """Returns the LRP score of every site: mean |relevance| per element of its input, over images, normalised to sum 1.

    For an attention product both operands count. The mean of the absolute value is used because these rules conserve
    the signed sum, which therefore cannot tell fc1 from fc2: they lie on one path and pass the same sum on.

    Args:
        batches: sizes may differ.
        objective: the scalar that relevance is of (`Task.objective_for`).
        advance: counts images.

    Raises:
        InputError: no images, or a rule set that does not apply to the graph.
        NonFiniteError: a relevance is NaN or infinite.
    """
    operands = {site.name: [n for n in (site.input, site.second) if n is not None] for site in sites}
    names = sorted({name for site in operands.values() for name in site})
    totals = dict.fromkeys(names, 0.0)
    sizes = dict.fromkeys(names, 0)

    def add(name: str, activation: Tensor, g: Tensor) -> None:
        totals[name] += float((activation * g).abs().sum(dtype=torch.float64))
        sizes[name] += activation.numel()

    done, size, firings = 0, 0, None
    for images in batches:
        if len(images) != size:  # the last batch may be smaller; sums per image need the batch size
            size = len(images)
            bound = rule_set.bind(graph, size)
            executor, firings = Executor(graph, overrides=bound.overrides), bound.firings
        propagate(executor, images, names, add, rule_set.scoring_from(objective))
        done += size
        advance(size)
    if firings is None:
        raise InputError("relevance needs at least one image")
    raw = {
        name: sum(totals[n] for n in inputs) / max(1, sum(sizes[n] for n in inputs))
        for name, inputs in operands.items()
    }
    total = sum(raw.values())
    if not total > 0:
        raise NonFiniteError(f"the relevance of all {len(raw)} sites is zero: the model's output ignores its input")
    return Scores({name: value / total for name, value in raw.items()}, f"lrp:{rule_set.name}", done, firings)


def _check_finite(name: str, g: Tensor) -> None:
    if not torch.isfinite(g).all():
        raise NonFiniteError(
            f"the relevance at tensor {name!r} is not finite; rule set 'relp' keeps its factors bounded"
        )
