"""Layers that a recipe names: those that stay in float, and those with a width of their own.

A pattern is a glob on the names of sites, which are module paths: `*` stands for any characters, dots among them. What
is named wins over `uniform`, `first_last_bits`, `bits` and budgets; float wins over a width, the last of several
matching widths over those before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from qvit_deploy.errors import InputError
from qvit_deploy.recipe import Recipe, parse_width


def kept_in_float(recipe: Recipe, names: Iterable[str]) -> frozenset[str]:
    """Returns those of the site `names` that stay in float."""
    return frozenset(name for name in names if any(fnmatchcase(name, p) for p in recipe.keep_float))


def fixed_width(recipe: Recipe, name: str) -> tuple[int, int] | None:
    """Returns the width (weights, activations) that the recipe gives the site of that name, if it gives one."""
    given = [width for pattern, width in map(parse_width, recipe.widths) if fnmatchcase(name, pattern)]
    return given[-1] if given else None


def require_matches(recipe: Recipe, names: Sequence[str], quantizable: Sequence[str]) -> None:
    """Raises InputError for a pattern that matches nothing; names what there is of a similar name.

    Args:
        names: all sites, which may stay in float.
        quantizable: those of them that the recipe quantizes, which may have a width.
    """
    for flag, pattern, there in [
        *(("--keep-float", p, names) for p in recipe.keep_float),
        *(("--width", parse_width(w)[0], quantizable) for w in recipe.widths),
    ]:
        if any(fnmatchcase(name, pattern) for name in there):
            continue
        near = get_close_matches(pattern.strip("*."), there, 3, 0.4) or there[:3]
        off = any(fnmatchcase(name, pattern) for name in names)
        why = " but attention products, which stay in float (attention in a recipe)" if off else ""
        raise InputError(f"{flag} {pattern!r} matches no layer{why}; of {len(there)} these are near: {', '.join(near)}")
