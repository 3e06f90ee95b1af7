"""Which tests stay in one process of `pytest -n`: those that share something that takes long to make.

`--dist loadgroup` is meant for this, but pytest-xdist 3.8 hands out every test by itself under pytest 9.2 (its issue
1386). Processes report nothing but the names of tests, so what belongs together is told by them.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

from tests.support.models.coverage_models import MODELS

MODULES = (
    "tests/kernels/test_cuda_kernels.py",  # compiles the kernels
    "tests/targets/tensorrt/engine/test_plugin_build.py",  # builds a wheel
)


class SharedWork(LoadScopeScheduling):
    """Gives a process that has nothing to do the next test and all that share work with it."""

    def _split_scope(self, nodeid: str) -> str:
        module, _, name = nodeid.partition("::")
        parameter = name.partition("[")[2].removesuffix("]")
        if parameter in MODELS:  # of the fixture `covered`
            return parameter
        return module if module in MODULES else nodeid
