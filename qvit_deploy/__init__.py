"""qvit-deploy: a deployment compiler for quantized vision transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvit_deploy.pipeline.compile import compile

__version__ = "0.1.0"
__all__ = ["__version__", "compile"]


def __getattr__(name: str) -> Any:
    # The compiler needs torch; a device that only runs bundles has none, so it is imported when it is asked for.
    if name == "compile":
        from qvit_deploy.pipeline.compile import compile

        return compile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
