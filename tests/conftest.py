from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qvit_deploy.graph.graph import Graph
from tests.support.command_fixtures import inputs, qvit  # noqa: F401
from tests.support.lasting_objects import LastingObjects
from tests.support.shared_work import SharedWork

torch.set_num_threads(1)

LASTING = LastingObjects()


@pytest.hookimpl(optionalhook=True)  # pytest runs without xdist too
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> SharedWork:
    return SharedWork(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: what is short fills the processes evenly at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    LASTING.freeze()


def pytest_runtest_logfinish() -> None:
    """The first test that needs a large library imports it."""
    LASTING.freeze()


@pytest.fixture(scope="session")
def tiny_vit() -> Graph:
    """timm's own ViT on 3 x 16 x 16 images: 2 blocks, 32 wide, 5 classes."""
    from timm.models.vision_transformer import VisionTransformer

    return _exported(lambda: VisionTransformer(16, 4, embed_dim=32, depth=2, num_heads=2, num_classes=5), 16)


@pytest.fixture(scope="session")
def tiny_swin() -> Graph:
    """timm's own Swin on 3 x 32 x 32 images: 2 stages of 2 blocks, so windows roll and patches merge."""
    from timm.models.swin_transformer import SwinTransformer

    return _exported(
        lambda: SwinTransformer(32, 4, embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=4, num_classes=5),
        32,
    )


def _exported(build: Callable[[], nn.Module], size: int) -> Graph:
    """Weights are scaled up until the logits tell images apart."""
    from qvit_deploy.frontend.torch_module import from_torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build().eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3)
                elif name.endswith("bias"):
                    parameter.normal_(std=0.2)
    return from_torch(module, (3, size, size), type(module).__name__)
