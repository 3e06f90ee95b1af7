"""Fixtures of the tests that explain small models: attribution and patching."""

from __future__ import annotations

import pytest
import torch

from qvit_deploy.graph.graph import Graph
from tests.support.graphs.relevance_graphs import Builder, vit

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def builder() -> Builder:
    return Builder()


@pytest.fixture(scope="session")
def small_vit() -> Graph:
    return vit()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(7))
