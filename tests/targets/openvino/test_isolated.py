from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.openvino import isolated
from qvit_deploy.targets.openvino.isolated import Probe, Request, ask, loads
from qvit_deploy.targets.openvino.runtime import OpenVinoModel
from tests.support.graphs.quantizable_graphs import mixed_vit


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a library of the name openvino in front of the real one, for processes that are started."""

    def put(code: str) -> None:
        (tmp_path / "openvino.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    return put


def test_the_answer_is_what_openvino_computes_here() -> None:
    graph = mixed_vit()
    images = Examples.images(np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32))
    fetch = tuple(value.name for value in graph.outputs)
    answer = ask(Request(graph.serialize(), images, Probe(graph.serialize(), images[:2], 2, fetch)))
    here = OpenVinoModel(graph.serialize())
    for name, output in here.outputs(images).items():
        np.testing.assert_array_equal(answer.outputs[name], output)
        np.testing.assert_allclose(answer.tensors[name], output[:2], rtol=1e-5, atol=1e-6)
    assert [layer.kind for layer in answer.layers] == [layer.kind for layer in here.layers()]


def test_a_library_that_crashes_is_one_line(stand_in: Callable[[str], None]) -> None:
    stand_in("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(CheckError) as caught:
        ask(Request(mixed_vit().serialize()))
    assert str(caught.value) == (
        "verification of openvino: OpenVINO crashes on the file: its process was ended by SIGSEGV; "
        "it last said: nothing"
    )
    assert not loads(mixed_vit().serialize())


def test_a_library_that_hangs_is_ended(stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("import time\ntime.sleep(600)")
    monkeypatch.setattr(isolated, "TIME_LIMIT", 3.0)
    with pytest.raises(CheckError, match="OpenVINO took more than 3 s for the file"):
        ask(Request(mixed_vit().serialize()))


def test_what_it_does_not_take_has_its_reason() -> None:
    with pytest.raises(CheckError, match=r"verification of openvino: model: OpenVINO cannot load it: .+") as caught:
        ask(Request(b"not a model"))
    assert "\n" not in str(caught.value)
    assert loads(mixed_vit().serialize()) and not loads(b"not a model")


def test_without_openvino_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="pip install openvino"):
        ask(Request(b""))
