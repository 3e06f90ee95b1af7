"""Token layouts."""

from __future__ import annotations

import pytest

from qvit_deploy.patching.cells import token_grid


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        (65, (112, 112), (1, 8, 8)),  # DINOv2 with patches of 14: 8 x 8 and a class token
        (69, (112, 112), (5, 8, 8)),  # and four registers
        (197, (224, 224), (1, 14, 14)),
        (198, (224, 224), (2, 14, 14)),  # DeiT: class and distillation token
        (3136, (224, 224), (0, 56, 56)),  # Swin's first stage, and its last
        (49, (224, 224), (0, 7, 7)),
        (50, (28, 28), (1, 7, 7)),
        (33, (32, 64), (1, 4, 8)),
        (1, (112, 112), (0, 1, 1)),  # one pooled token sees it all
        (40, (37, 41), None),  # no square patches
    ],
)
def test_token_grids(tokens: int, size: tuple[int, int], expected: tuple[int, int, int] | None) -> None:
    assert token_grid(tokens, *size) == expected
