"""Rule sets: named lists of rules. What happens in the backward pass is this data and nothing else.

`gradient` is attribution patching; `relp` and `relp-ah` are RelP (arXiv 2508.21258);
`attnlrp` is Achtibat et al. 2024 as in LXT's efficient mode; `deep-taylor` is Chefer et al. 2021, which LRP-QViT
(arXiv 2401.11243) builds on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import onnx_ir as ir
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.execute.ops import OpFn
from qvit_deploy.graph.graph import Graph
from qvit_deploy.relevance import quantizer_rules
from qvit_deploy.relevance import rules as r
from qvit_deploy.relevance.dataflow import Dataflow
from qvit_deploy.tasks.task import Objective, Outputs


@dataclass(frozen=True)
class BoundRules:
    """A rule set applied to one graph.

    Attributes:
        overrides: node -> replacement, for `Executor(overrides=...)`.
        firings: rule name -> number of nodes it replaced, 0 included.
    """

    overrides: Mapping[ir.Node, OpFn]
    firings: Mapping[str, int]


@dataclass(frozen=True)
class RuleSet:
    """A named, ordered list of rules; the first rule that matches a node takes it.

    Attributes:
        rules: freezing rules first (see `Dataflow`).
        expected: names of rules that must fire where the graph holds operators they apply to.
        unit_start: the relevance of the start is 1 per image (Chefer: R = one-hot) instead of the objective's value:
            `unit` of one class or a metric, `shared_unit` of what scores layers by all outputs.
    """

    name: str
    rules: tuple[r.Rule, ...]
    expected: tuple[str, ...] = ()
    unit_start: bool = False

    def starting_at(self, objective: Objective) -> Objective:
        """Returns `objective` as the backward pass of this rule set starts from it."""
        return unit(objective) if self.unit_start else objective

    def scoring_from(self, objective: Objective) -> Objective:
        """Returns the start of the backward pass that scores layers, where relevance of both signs would cancel."""
        return shared_unit(objective) if self.unit_start else objective

    def with_secant_quantizers(self) -> RuleSet:
        """Returns this rule set with the slope of the secant at quantizers instead of a straight-through gradient."""
        others = tuple(rule for rule in self.rules if rule.name != quantizer_rules.NAME)
        return replace(self, name=f"{self.name}+secant", rules=(quantizer_rules.SECANT, *others))

    def or_gradient(self, graph: Graph) -> RuleSet:
        """Returns this rule set, or `gradient`, which is the same, where `graph` has nothing for a rule.

        A graph with an operator that is evidence for a rule has something for it; `bind` refuses where it is missed.
        """
        flow = Dataflow(graph)
        used = [node for node in graph.nodes() if flow.is_used(node)]
        present = {node.op_type for node in used}
        own = [rule for rule in self.rules if rule.name != quantizer_rules.NAME]
        if not own or any(rule.evidence & present or any(rule.matches(n, flow) for n in used) for rule in own):
            return self
        return replace(RULE_SETS["gradient"], unit_start=self.unit_start)

    def bind(self, graph: Graph, batch: int) -> BoundRules:
        """Returns the replacements for `graph` when it runs on `batch` images at a time.

        The product of a linear layer may come to hold the bias that follows: who reads it gets the layer's output.

        Raises:
            InputError: a rule that this graph needs matches nothing, so its backward pass would silently be the
                plain gradient.
        """
        flow = Dataflow(graph)
        present = {node.op_type for node in graph.nodes() if flow.is_used(node)}
        context = r.Context(flow, batch)
        overrides: dict[ir.Node, OpFn] = {}
        firings = dict.fromkeys((rule.name for rule in self.rules), 0)
        for rule in self.rules:
            matched = [n for n in graph.nodes() if n not in overrides and rule.matches(n, flow)]
            for node in matched:
                overrides.update(rule.replace(node, context))
            firings[rule.name] += len(matched)
            if rule.freezes:
                flow.freeze(matched)
        self._check(graph, firings, present)
        return BoundRules(MappingProxyType(overrides), MappingProxyType(firings))

    def _check(self, graph: Graph, firings: Mapping[str, int], present: set[str]) -> None:
        for rule in self.rules:
            silent = sorted(rule.evidence & present)
            if rule.name in self.expected and not firings[rule.name] and silent:
                raise InputError(
                    f"rule set {self.name!r}: rule {rule.name!r} matches no node of {graph.name!r} although it has "
                    f"{', '.join(silent)}; canonicalize the graph first, or use rule set 'gradient'"
                )
        own = [count for name, count in firings.items() if name != quantizer_rules.NAME]
        if own and "Softmax" in present and not any(own):
            raise InputError(
                f"rule set {self.name!r} matches no node of {graph.name!r}; use rule set 'gradient', which is the same"
            )


def fitting(rule_set: RuleSet, graph: Graph, purpose: str) -> RuleSet:
    """Returns `rule_set.or_gradient(graph)`, and logs a warning, which begins with `purpose`, where that is another."""
    usable = rule_set.or_gradient(graph)
    if usable is not rule_set:
        logging.getLogger(__name__).warning(
            "%s: the model has nothing that a rule of %r applies to, no norm and no activation: the gradient is used",
            purpose, rule_set.name,
        )  # fmt: skip
    return usable


def unit(objective: Objective) -> Objective:
    """Returns `objective` with relevance 1 per image at the start, whatever its value (Chefer et al. 2021: R =
    one-hot)."""

    def scaled(outputs: Outputs) -> torch.Tensor:
        value = objective(outputs)
        return value / torch.where(value == 0, torch.ones_like(value), value).detach()

    return scaled


def shared_unit(objective: Objective) -> Objective:
    """Returns the start whose relevance is 1 per image and nowhere negative. The outputs that `objective` sees have
    equal parts of it; in one of them, element y_i has the share (g_i y_i)^2 / sum (g y)^2, g the gradient there.

    Of one class this is R = one-hot, as in `unit`. A projection on random signs is as often near zero as not: `unit`
    would divide by that, and a few images would be all that counts. And what z+ rules pass on, where a neuron is
    excited, is no relevance below zero (Montavon et al., Pattern Recognition 65, 2017). Squares do not depend on signs.
    """

    def started(outputs: Outputs) -> torch.Tensor:
        leaves = {name: value.detach().requires_grad_() for name, value in outputs.items() if value.is_floating_point()}
        value = objective({**outputs, **leaves}).sum()
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        seen = {name: g for name, g in zip(leaves, gradients, strict=True) if g is not None}
        return torch.stack([_shared(outputs[name].flatten(1), g.flatten(1)) for name, g in seen.items()]).mean(0)

    return started


def _shared(y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    squares = (y.detach() * g).square()
    shares = squares / squares.sum(1, keepdim=True).clamp_min(torch.finfo(squares.dtype).tiny)
    return (y * (shares / torch.where(shares > 0, y, 1).detach())).sum(1)


_RELP = (
    r.NORM_SIZE, r.LAYER_NORM, r.CHANNEL_NORM, r.LENGTH_NORM, r.ACTIVATION, r.SELF_GATE,
    r.HALF_GATE,
)  # fmt: skip
_DEEP_TAYLOR = (
    r.NORM_SIZE, r.NORM_PASS, r.LENGTH_NORM, r.ACTIVATION, r.SELF_GATE, r.SOFTMAX_PASS, r.Z_PLUS_CONV,
    r.Z_PLUS_CONV_TRANSPOSE,
    r.Z_PLUS_LINEAR, r.Z_PLUS_LINEAR_LEFT, r.HALF_MATMUL, r.HALF_GATE, r.RESIDUAL,
)  # fmt: skip


def _rule_set(
    name: str, rules: tuple[r.Rule, ...], expected: tuple[str, ...] = (), unit_start: bool = False
) -> RuleSet:
    quantizer = quantizer_rules.STRAIGHT_THROUGH
    return RuleSet(name, (quantizer, *rules), (quantizer.name, *expected), unit_start)


RULE_SETS: dict[str, RuleSet] = {
    rule_set.name: rule_set
    for rule_set in (
        _rule_set("gradient", ()),
        _rule_set("relp", _RELP, expected=("norm", "activation")),
        _rule_set("relp-ah", (r.SOFTMAX_STOP, *_RELP), expected=("softmax", "norm", "activation")),
        _rule_set("attnlrp", (*_RELP, r.HALF_MATMUL), expected=("norm", "activation", "matmul")),
        _rule_set(
            "deep-taylor", _DEEP_TAYLOR, expected=("norm", "activation", "softmax", "conv", "matmul"), unit_start=True
        ),
    )
}
"""Rule sets by name: what `relp --rules` and a recipe's scores choose from."""
