from __future__ import annotations

import os

import pytest

from tests.support.models.reference_model import FOLDER, Reference


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    if not FOLDER.is_dir():
        pytest.skip("the reference model is not beside this repository")
    folder = tmp_path_factory.getbasetemp()  # pytest-xdist gives each process one inside of that of the run
    return Reference.load((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "reference")
