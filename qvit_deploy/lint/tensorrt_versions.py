"""Versions of TensorRT that make a difference to files."""

from __future__ import annotations

OLDEST_TENSORRT = (10, 3)
"""What JetPack 6 has; what is clean for it is clean for later ones."""

NEWEST_TENSORRT = (11, 4)

PLUGIN_WINS = (10, 7)
"""From this TensorRT on a plugin goes before a function body of the same name."""
