"""The exceptions a user can meet. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what moves the cursor, turns the direction of text, ends a line or cannot be encoded."""


def visible(text: str) -> str:
    """Returns `text` in one line in which nothing is hidden: control characters, line ends, marks of direction and
    halves of surrogate pairs are written as Python escapes. Names come from files that nobody vouches for."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in _INVISIBLE else c for c in text)


class QvitError(Exception):
    """Base of every error the command line turns into one line on standard error and an exit code."""

    exit_code = 2

    def __str__(self) -> str:
        return visible(super().__str__())


class InputError(QvitError):
    """Something handed in cannot be used: a model, an image folder, a recipe, a flag."""


@contextmanager
def reading(called: str) -> Iterator[None]:
    """Is the boundary around whatever reads or rewrites a file that nobody vouches for.

    Libraries meet damaged and hostile files with exceptions of any type, recursion and assertions included; inside this
    context all become one InputError, `called: Type: first line`. Errors that know what to say pass, as do those of
    the system (`OSError` names the file itself) and of memory.

    Args:
        called: what is read, and what is wrong as far as one knows, e.g. "m.onnx cannot be parsed as ONNX".
    """
    try:
        yield
    except (QvitError, OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{called} ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """Returns the first line of a library's error, with its type where the text alone would not say what happened."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text if len(text.split()) > 3 else f"{type(error).__name__}: {text}".removesuffix(": ")


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
        UnsupportedOpError(op, same[0].node, hint, sum(e.count for e in same)) for (op, hint), same in groups.items()
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
