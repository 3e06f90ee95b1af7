"""The lint of what this compiler emitted: an error there is a defect of ours and stops the compile."""

from __future__ import annotations

from collections import Counter

from qvit_deploy.emit.local_functions import inline
from qvit_deploy.errors import CheckError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.recipe import Profile
from qvit_deploy.targets.lint import OLDEST_TENSORRT, lint
from qvit_deploy.targets.tensorrt_library import PLUGIN_WINS


def lint_emitted(graph: Graph, profile: Profile) -> dict[str, int]:
    """Rule -> how often `graph` breaks it, warnings and notes.

    A packed graph is linted as each runtime gets it: for TensorRT with plugins in place of the bodies (`build` takes
    them out before 10.7), for TensorRT-RTX inlined.

    Raises:
        CheckError: it breaks a rule that the target does not forgive.
    """
    if profile == "tensorrt-plugin":
        found = lint(graph.model, "tensorrt", version=PLUGIN_WINS) + lint(inline(graph.clone().model), "tensorrt-rtx")
    else:
        found = lint(graph.model, profile, version=OLDEST_TENSORRT)
    errors = [f for f in found if f.severity == "error"]
    if errors:
        first = errors[0]
        raise CheckError(
            f"lint: the {profile} model breaks {first.rule} at {first.node!r}: {first.message}"
            + (f", and {len(errors) - 1} more errors" if len(errors) > 1 else "")
        )
    return dict(Counter(f.rule for f in found))
