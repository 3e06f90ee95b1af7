"""The lint of what this compiler emitted: an error there is a defect of ours and stops the compile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qvit_deploy.errors import CheckError
from qvit_deploy.lint.finding import Finding


def require_no_errors(findings: Sequence[Finding], target: str) -> dict[str, int]:
    """Rule -> how often the file of `target` breaks it, warnings and notes.

    Args:
        findings: what the lint says of the file, errors first.

    Raises:
        CheckError: it breaks a rule that the target does not forgive.
    """
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        first = errors[0]
        raise CheckError(
            f"lint: the {target} model breaks {first.rule} at {first.node!r}: {first.message}"
            + (f", and {len(errors) - 1} more errors" if len(errors) > 1 else "")
        )
    return dict(Counter(f.rule for f in findings))
