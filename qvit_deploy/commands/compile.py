"""One run of `qvit-deploy compile`; imports torch only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qvit_deploy.commands.request import CompileRequest
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress

if TYPE_CHECKING:
    from qvit_deploy.pipeline.compile import Compiled


def compile_model(model: str, out: Path, request: CompileRequest, *, force: bool, progress: Progress) -> Compiled:
    """Compiles MODEL into the bundle `out`.

    Args:
        force: replace a bundle that is there.

    Raises:
        InputError: an argument cannot be used, or the compile half is not installed.
        BudgetError: no allocation fits the budget.
        CheckError: the verification of the reference failed; nothing is written.
    """
    recipe = request.load_recipe()
    try:
        from qvit_deploy.pipeline.compile import compile_bundle
    except ImportError as error:
        raise InputError(
            f'compiling needs {error.name}, which is not installed: pip install "qvit-deploy[compile]"'
        ) from error
    return compile_bundle(model, out, request.options, recipe, force=force, cache=request.cache, progress=progress)
