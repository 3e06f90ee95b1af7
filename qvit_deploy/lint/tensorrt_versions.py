"""The versions of TensorRT that differ in what they make of a file, as (major, minor)."""

from __future__ import annotations

OLDEST_TENSORRT = (10, 3)
"""The version of JetPack 6; a file that is clean for it is clean for later ones."""

NEWEST_TENSORRT = (11, 4)
"""The version whose parser TensorRT-RTX has."""

PLUGIN_WINS = (10, 7)
"""From this version on a plugin is preferred to a function body of the same name."""
