from __future__ import annotations

import pickle

import pytest

from qvit_deploy.errors import BudgetError, CheckError, InputError, QvitError, UnsupportedOpError


@pytest.mark.parametrize(
    "error",
    [
        InputError("no such file"),
        BudgetError("too small"),
        CheckError("differs"),
        UnsupportedOpError("Loop", "n0", "export it"),
    ],
)
def test_an_error_survives_the_way_from_a_worker(error: QvitError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)
    assert again.exit_code == error.exit_code
