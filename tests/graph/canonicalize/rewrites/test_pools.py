from __future__ import annotations

import pytest

from tests.support.graphs.canonical_cases import canonical, ops, parse

MORE = "kernel_shape = [9, 20], strides = [9, 20], ceil_mode = 1"


@pytest.mark.parametrize("pool", ["Average", "Max"])
@pytest.mark.parametrize(
    "window", [MORE, "kernel_shape = [8, 9], strides = [8, 9], ceil_mode = 1", f"{MORE}, pads = [1, 2, 0, 0]"]
)
def test_a_window_that_holds_more_than_the_map_is_the_global_pool(pool: str, window: str) -> None:
    assert ops(canonical(parse(f"y = {pool}Pool <{window}> (x)"))) == [f"Global{pool}Pool"]


@pytest.mark.parametrize(
    "window",
    [
        "kernel_shape = [8, 8]",
        "kernel_shape = [3, 20], strides = [3, 20], ceil_mode = 1",
        "kernel_shape = [9, 9], strides = [9, 9], pads = [1, 1, 0, 0], count_include_pad = 1",
        "kernel_shape = [9, 9], strides = [9, 9], pads = [4, 4, 4, 4]",
    ],
)
def test_other_windows_stay(window: str) -> None:
    assert ops(canonical(parse(f"y = AveragePool <{window}> (x)"))) == ["AveragePool"]
