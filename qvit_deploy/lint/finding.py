"""Defines a rule of the lint, and the finding that it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from qvit_deploy.lint.view import View

LintTarget = Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]
Severity = Literal["error", "warning", "note"]
Source = Literal["parser", "measured", "documentation"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
EVERYWHERE: tuple[LintTarget, ...] = ("tensorrt", "tensorrt-rtx", "onnxruntime")
TENSORRT: tuple[LintTarget, ...] = ("tensorrt", "tensorrt-rtx")
ONNXRUNTIME: tuple[LintTarget, ...] = ("onnxruntime",)
STRICTEST: LintTarget = "tensorrt"
"""Whose rules a quantized file is held to most."""


@dataclass(frozen=True)
class Finding:
    """One place where a graph breaks a rule.

    Attributes:
        rule: id of the rule.
        node: name of the node, or of its first output when it has none; name of a value where no node is the cause;
            "" for the whole model.
        message: what is there.
        hint: what to do about it.
    """

    rule: str
    severity: Severity
    node: str
    message: str
    hint: str


Hit = tuple[ir.Node | str, str]
"""The place that breaks a rule (a node, or a name), and what is there."""


@dataclass(frozen=True)
class Rule:
    """A rule: for which targets it holds, why, and the function that finds what breaks it.

    Attributes:
        severity: `error` when the target refuses the file or computes other numbers than it says, `warning` when it
            costs speed or accuracy, `note` for what is worth knowing.
        source: the evidence for the rule. `parser`: TensorRT-RTX's own parser or builder says so and a test runs it.
            `measured`: seen in another program that a test runs. `documentation`: manuals, headers, issue threads.
        check: yields the places that break the rule.
    """

    id: str
    severity: Severity
    targets: tuple[LintTarget, ...]
    what: str
    why: str
    hint: str
    source: Source
    check: Callable[[View], Iterator[Hit]]
