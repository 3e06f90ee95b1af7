"""The exceptions a user can meet. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class QvitError(Exception):
    """Base of every error the command line turns into one line on standard error and an exit code."""

    exit_code = 2


class InputError(QvitError):
    """Something handed in cannot be used: a model, an image folder, a recipe, a flag."""


class UnsupportedOpError(InputError):
    """The model uses an operator this compiler has no implementation for, at `count` nodes; `node` is the first."""

    def __init__(self, op: str, node: str, hint: str, count: int = 1) -> None:
        where = f"node {node!r}" if count == 1 else f"{count} nodes, the first {node!r}"
        super().__init__(f"operator {op} ({where}) is not supported: {hint}")
        self.op = op
        self.node = node
        self.hint = hint
        self.count = count

    def __reduce__(self) -> tuple[type[UnsupportedOpError], tuple[str, str, str, int]]:
        # The default hands the message to __init__, which takes its parts: a worker's error would be lost.
        return type(self), (self.op, self.node, self.hint, self.count)


def all_unsupported(errors: Sequence[UnsupportedOpError]) -> InputError:
    """Returns one error for all of `errors`, one or more: each operator with its nodes counted, in one line."""
    groups: dict[tuple[str, str], list[UnsupportedOpError]] = {}
    for error in errors:
        groups.setdefault((error.op, error.hint), []).append(error)
    merged = [
        UnsupportedOpError(op, found[0].node, hint, sum(e.count for e in found)) for (op, hint), found in groups.items()
    ]
    if len(merged) == 1:
        return merged[0]
    return InputError(f"{len(merged)} kinds of operators are not supported: " + "; ".join(map(str, merged)))


class NonFiniteError(InputError):
    """A weight or an activation is NaN or infinite."""


class BudgetError(InputError):
    """No assignment of bits fits the budget; the message names the smallest that does."""


class BundleError(InputError):
    """A bundle on disk is missing files, was modified, or was written by an unknown schema."""


class CheckError(QvitError):
    """A verification or a threshold failed: the input was usable, the result is not acceptable."""

    exit_code = 1
