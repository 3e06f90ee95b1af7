"""The exceptions a user can meet. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations


class QvitError(Exception):
    """Base of every error the command line turns into one line on standard error and an exit code."""

    exit_code = 2


class InputError(QvitError):
    """Something handed in cannot be used: a model, an image folder, a recipe, a flag."""


class UnsupportedOpError(InputError):
    """The model uses an operator this compiler has no implementation for."""

    def __init__(self, op: str, node: str, hint: str) -> None:
        super().__init__(f"operator {op} (node {node!r}) is not supported: {hint}")
        self.op = op
        self.node = node
        self.hint = hint

    def __reduce__(self) -> tuple[type[UnsupportedOpError], tuple[str, str, str]]:
        # The default hands the message to __init__, which takes three arguments: a worker's error would be lost.
        return type(self), (self.op, self.node, self.hint)


class NonFiniteError(InputError):
    """A weight or an activation is NaN or infinite."""


class BudgetError(InputError):
    """No assignment of bits fits the budget; the message names the smallest that does."""


class BundleError(InputError):
    """A bundle on disk is missing files, was modified, or was written by an unknown schema."""


class CheckError(QvitError):
    """A verification or a threshold failed: the input was usable, the result is not acceptable."""

    exit_code = 1
