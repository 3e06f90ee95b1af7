"""One run of `qvit-deploy compile`; imports torch only when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress
from qvit_deploy.recipe import Recipe

if TYPE_CHECKING:
    from qvit_deploy.pipeline.compile import Compiled


def compile_model(
    model: str,
    out: Path,
    choices: Mapping[str, Any],
    *,
    recipe: Path | None = None,
    effort: str | None = None,
    calib: str | None = None,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    preprocess: Path | None = None,
    force: bool = False,
    skip_bad_images: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles MODEL into the bundle `out`.

    Args:
        choices: fields of the recipe, which override the TOML file `recipe`, which overrides those of `effort`.
        preprocess: JSON that says how images are prepared.

    The others are those of `pipeline.compile`.

    Raises:
        InputError: an argument cannot be used, or the compile half is not installed.
        BudgetError: no allocation fits the budget.
        CheckError: the verification failed; nothing is written.
    """
    chosen = Recipe.load(recipe, effort=effort, **choices)
    try:
        from qvit_deploy.pipeline.compile import compile
    except ImportError as error:
        raise InputError(
            f'compiling needs {error.name}, which is not installed: pip install "qvit-deploy[compile]"'
        ) from error
    return compile(
        model,
        out,
        calib=calib,
        recipe=chosen,
        checkpoint=checkpoint,
        pretrained=pretrained,
        preprocess=None if preprocess is None else Preprocess.from_file(preprocess),
        force=force,
        skip_bad_images=skip_bad_images,
        cache=cache,
        progress=progress,
    )
