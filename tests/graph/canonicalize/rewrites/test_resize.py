from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.graph.graph import constant
from tests.support.graphs.canonical_cases import canonical, ops, parse


def sizes_with_batch(*size: int) -> str:
    """Sizes as torch's exporter writes them: batch and channels of the tensor, then the wanted height and width."""
    return (
        "s = Shape(x) z = Constant <value = int64[1] {0}> () t = Constant <value = int64[1] {2}> () "
        f"front = Slice(s, z, t) hw = Constant <value = int64[2] {{{size[0]}, {size[1]}}}> () "
        "sizes = Concat <axis = 0> (front, hw) "
    )


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("size", [(16, 12), (3, 5), (8, 9), (1, 1)])
@pytest.mark.parametrize("where", ["half_pixel", "align_corners", "asymmetric"])
def test_sizes_that_hold_the_batch_become_scales(mode: str, size: tuple[int, int], where: str) -> None:
    attributes = f'<mode = "{mode}", coordinate_transformation_mode = "{where}">'
    graph = canonical(parse(sizes_with_batch(*size) + f"y = Resize {attributes} (x, , , sizes)"))
    (node,) = graph.nodes()
    assert [v is not None for v in node.inputs] == [True, False, True]
    np.testing.assert_array_equal(constant(node.inputs[2]), np.float32([1, 1, size[0] / 8, size[1] / 8]))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("where", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
def test_a_resize_to_the_same_size_is_dropped(mode: str, where: str) -> None:
    attributes = f'<mode = "{mode}", coordinate_transformation_mode = "{where}">'
    graph = canonical(parse(sizes_with_batch(8, 8) + f"r = Resize {attributes} (x, , , sizes) y = Relu(r)"))
    assert ops(graph) == ["Relu"]


def test_a_scale_that_changes_values_and_not_the_size_stays() -> None:
    scales = np.float32([1, 1, 1.1, 1])
    assert ops(canonical(parse('y = Resize <mode = "linear"> (x, , s)', s=scales))) == ["Resize"]


def test_sizes_of_a_fixed_batch_and_the_region_of_interest() -> None:
    sizes = np.array([2, 3, 16, 12])
    body = "y = Resize (x, r, , s)"
    (node,) = canonical(parse(body, shape="2,3,8,8", r=np.zeros(8, np.float32), s=sizes), batches=(2,)).nodes()
    assert [v is not None for v in node.inputs] == [True, False, False, True]
