"""Which tests stay in one process of `pytest -n`: those of one file, which share what takes long to make.

The models of the coverage list are handed out one by one: a file of them would keep one process busy for minutes, at
the end alone. `--dist loadgroup` is meant for that, but pytest-xdist 3.8 hands out every test by itself under pytest
9.2 (its issue 1386). Processes report nothing but the names of tests, so what belongs together is told by them.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.models.coverage_models import MODELS


class SharedWork(LoadScopeScheduling):
    """Gives a process that has nothing to do the next file of tests, or all tests of the next coverage model."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        # It would begin with the files of the most tests, and end with the few that take minutes each.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        module, _, name = nodeid.partition("::")
        parameter = name.partition("[")[2].removesuffix("]")
        return parameter if parameter in MODELS else module  # of the parameter `model`
