"""The kernels' C interface as Python sees it; what needs the kernels themselves is in tests/kernels."""

from __future__ import annotations

import ctypes
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest

from qvit_deploy.errors import InputError
from tests.support.devices.libqvit import Grid, KernelError, Library, Linear, Tactic, Type
from tests.support.places import KERNELS

INCLUDE = KERNELS / "include"


def test_structures_lie_as_in_the_header(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: the structures are not compared with qvit.h")
    fields = [
        (c, t, name)
        for c, t in (("QvitLinear", Linear), ("QvitTactic", Tactic), ("QvitGrid", Grid))
        for name, _ in t._fields_
    ]
    lines = [f'printf("%zu\\n", offsetof({c}, {name}));' for c, _, name in fields]
    lines += [f'printf("%zu\\n", sizeof({c}));' for c in ("QvitLinear", "QvitTactic", "QvitGrid")]
    lines += [f'printf("%d\\n", QVIT_{kind.name});' for kind in Type]
    source = tmp_path / "offsets.cpp"
    source.write_text('#include <cstdio>\n#include "qvit/qvit.h"\nint main() {' + "\n".join(lines) + "}\n")
    subprocess.run([compiler, f"-I{INCLUDE}", str(source), "-o", str(tmp_path / "offsets")], check=True)
    printed = subprocess.run([str(tmp_path / "offsets")], check=True, capture_output=True, text=True).stdout
    ours = [getattr(t, name).offset for _, t, name in fields]
    ours += [ctypes.sizeof(t) for t in (Linear, Tactic, Grid)] + [int(kind) for kind in Type]
    assert [int(line) for line in printed.split()] == ours


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_text("no")
    with pytest.raises(InputError, match="not a library of qvit kernels"):
        Library(tmp_path / "x.so")
    with pytest.raises(InputError, match="not a library"):
        Library(tmp_path / "missing.so")


def test_errors_survive_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(KernelError(5, "no tactic of this id")))
    assert error.status == 5 and str(error) == "qvit kernels: no tactic of this id (status 5)"
