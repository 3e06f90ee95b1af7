from __future__ import annotations

import pytest

from tests.support.models.reference_model import FOLDER, Reference


@pytest.fixture(scope="session")
def reference() -> Reference:
    if not FOLDER.is_dir():
        pytest.skip("the reference model is not beside this repository")
    return Reference.load()
