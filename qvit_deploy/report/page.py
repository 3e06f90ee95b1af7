"""HTML pages from templates, in the colours that the plots use."""

from __future__ import annotations

from typing import Any

from qvit_deploy.report.svg import COLOURS


def render(template: str, **values: Any) -> bytes:
    """The template of that name as one UTF-8 page; every value that is not Markup is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qvit_deploy", "report"),
        autoescape=True,  # names of models, sites and pictures come from files of strangers
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(colours=COLOURS, **values).encode()
