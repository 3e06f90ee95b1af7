"""Renders HTML pages from templates, in the colours of the plots."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from qvit_deploy.report.svg import COLOURS

if TYPE_CHECKING:
    import jinja2


def render(template: str, **values: Any) -> bytes:
    """Renders the template of that name as one UTF-8 page; every value that is not Markup is escaped."""
    return _environment().get_template(template).render(colours=COLOURS, **values).encode()


@cache
def _environment() -> jinja2.Environment:
    """Returns the one environment, which caches compiled templates."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("qvit_deploy", "report"),
        autoescape=True,  # names of models, sites and pictures come from files of strangers
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
