"""Finds what a target will refuse, misread or run slowly in an ONNX graph, wherever the graph comes from."""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.lint import (
    attention,
    fusion,
    norms,
    placement,
    plugins,
    quantization,
    structure,
    types_and_opset,
)
from qvit_deploy.lint.finding import SEVERITIES, STRICTEST, Finding, LintTarget, Rule
from qvit_deploy.lint.tensorrt_versions import NEWEST_TENSORRT, OLDEST_TENSORRT
from qvit_deploy.lint.view import VERSIONED, View

RULES: tuple[Rule, ...] = (
    *quantization.RULES,
    *placement.RULES,
    *types_and_opset.RULES,
    *attention.RULES,
    *norms.RULES,
    *plugins.RULES,
    *structure.RULES,
    *fusion.RULES,
)


def lint(model: ir.Model, target: LintTarget, *, version: tuple[int, int] = OLDEST_TENSORRT) -> list[Finding]:
    """Returns everything in `model` that breaks a rule of `target`, errors first; equal models give equal lists.

    Args:
        version: (major, minor) of TensorRT, for the target `tensorrt`.
    """
    return findings(view_of(model, target, version))


def view_of(model: ir.Model, target: LintTarget, version: tuple[int, int]) -> View:
    """Returns the model as rules see it; arguments as for `lint`."""
    # TensorRT-RTX has versions of its own; its parser is that of the newest TensorRT.
    return View(model, target, version if target in VERSIONED else NEWEST_TENSORRT)


def findings(view: View) -> list[Finding]:
    """Does the same as `lint` for a view that exists already."""
    broken = [
        Finding(rule.id, rule.severity, where if isinstance(where, str) else _name(where), message, rule.hint)
        for rule in RULES
        if view.target in rule.targets
        for where, message in rule.check(view)
    ]
    return sorted(broken, key=lambda finding: (SEVERITIES.index(finding.severity), finding.rule))


def _name(node: ir.Node) -> str:
    return node.name or next((v.name for v in node.outputs if v.name), "") or node.op_type


__all__ = [
    "OLDEST_TENSORRT",
    "RULES",
    "SEVERITIES",
    "STRICTEST",
    "Finding",
    "LintTarget",
    "Rule",
    "findings",
    "lint",
    "view_of",
]
