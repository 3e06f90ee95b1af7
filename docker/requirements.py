"""Prints what pyproject.toml requires to build and to run, with the extras that are named: one requirement a line.

The images install this before the sources are copied, so that a change of the sources does not install torch again.
"""

import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, which JetPack 6 has
    from pip._vendor import tomli as tomllib


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Raises KeyError for an extra that is not there."""
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = declared["project"]
    chosen = [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [*declared["build-system"]["requires"], *project["dependencies"], *chosen]


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml"), sys.argv[1:])))
