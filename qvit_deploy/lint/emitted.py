"""The lint of what this compiler emitted: an error there is a defect of ours and stops the compile."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from qvit_deploy import recipe
from qvit_deploy.emit.local_functions import inline
from qvit_deploy.errors import CheckError
from qvit_deploy.lint import OLDEST_TENSORRT, Profile, lint
from qvit_deploy.lint.tensorrt_versions import PLUGIN_WINS

LINTED_FOR: dict[recipe.Profile, Profile] = {
    "onnxruntime": "onnxruntime",
    "onnxruntime-fused": "onnxruntime",
    "openvino": "onnxruntime",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
    "tensorrt-plugin": "tensorrt",
}
"""The rules that a file of each profile is held to."""


def lint_emitted(model: ir.Model, profile: recipe.Profile) -> dict[str, int]:
    """Rule -> how often `model` breaks it, warnings and notes.

    A packed one is linted as each runtime gets it: for TensorRT with plugins in place of the bodies (`build` takes
    them out before 10.7), for TensorRT-RTX inlined.

    Raises:
        CheckError: it breaks a rule that the target does not forgive.
    """
    if profile == recipe.PACKED_PROFILE:
        found = lint(model, "tensorrt", version=PLUGIN_WINS) + lint(inline(model.clone()), "tensorrt-rtx")
    else:
        found = lint(model, LINTED_FOR[profile], version=OLDEST_TENSORRT)
    errors = [f for f in found if f.severity == "error"]
    if errors:
        first = errors[0]
        raise CheckError(
            f"lint: the {profile} model breaks {first.rule} at {first.node!r}: {first.message}"
            + (f", and {len(errors) - 1} more errors" if len(errors) > 1 else "")
        )
    return dict(Counter(f.rule for f in found))
