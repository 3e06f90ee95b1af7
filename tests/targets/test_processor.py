from __future__ import annotations

import pytest

from qvit_deploy.targets.processor import thread_count


@pytest.mark.parametrize(
    ("said", "asked", "threads"), [("2", 0, 2), ("2,1", 0, 2), ("2", 3, 3), ("", 0, 0), ("x", 0, 0)]
)
def test_what_is_asked_for_else_the_environment_s(
    monkeypatch: pytest.MonkeyPatch, said: str, asked: int, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert thread_count(asked) == threads
