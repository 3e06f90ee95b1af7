from __future__ import annotations

import pytest

from tests.support.picture_folders import put


@pytest.fixture
def flat(tmp_path):
    for i in (10, 2, 1):
        put(tmp_path / f"img{i}.png", i)
    return tmp_path


@pytest.fixture
def classes(tmp_path):
    for label, name in enumerate(("cat", "dog", "eel")):
        for i in range(4 + 3 * label):
            put(tmp_path / name / f"{i}.png", 50 * label + i)
    return tmp_path
