"""Models that were never trained get weights with which their outputs tell images apart."""

from __future__ import annotations

import torch
from torch import nn

from tools.measure.architectures.weights import scale_to_data


class Blocks(nn.Module):
    """A convolution with a batch norm of gain zero, and a branch that a layer scale of 1e-6 switches off."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16)
        self.branch, self.layer_scale = nn.Linear(16, 16), nn.Parameter(torch.full((16,), 1e-6))
        self.head = nn.Linear(16, 5)
        nn.init.zeros_(self.norm.weight)
        for product in (self.stem, self.branch, self.head):
            nn.init.normal_(product.weight, std=1e-10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.stem(images)).flatten(2).mT
        return self.head((tokens + self.layer_scale * self.branch(tokens)).mean(1))


def test_products_have_unit_variance_and_batch_norms_the_statistics_of_what_they_get() -> None:
    torch.manual_seed(0)
    model, images = Blocks().eval(), torch.randn(32, 3, 16, 16) * 3 + 1
    scale_to_data(model, lambda: model(images))
    with torch.no_grad():
        stem = model.stem(images)
        assert abs(float((stem - model.stem.bias[:, None, None]).std()) - 1) < 1e-5
        torch.testing.assert_close(model.norm.running_mean, stem.mean((0, 2, 3)))
        torch.testing.assert_close(model.norm.running_var, stem.var((0, 2, 3)))
        assert abs(float((model(images) - model.head.bias).std()) - 1) < 1e-5


def test_no_block_stays_switched_off() -> None:
    torch.manual_seed(0)
    model, images = Blocks().eval(), torch.randn(8, 3, 16, 16)
    scale_to_data(model, lambda: model(images))
    assert bool(((model.layer_scale >= 0.25) & (model.layer_scale <= 0.75)).all())
    assert bool(((model.norm.weight >= 0.5) & (model.norm.weight <= 1.5)).all())
    with torch.no_grad():
        outputs = model(images)
    assert float((outputs - outputs.mean(0)).square().mean() / outputs.square().mean()) > 0.1


def test_hooks_do_not_stay() -> None:
    model, images = Blocks().eval(), torch.randn(8, 3, 16, 16)
    scale_to_data(model, lambda: model(images))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_dead_channel_does_not_amplify_noise() -> None:
    model, images = nn.BatchNorm2d(3).eval(), torch.randn(16, 3, 8, 8)
    images[:, 1] = 0
    scale_to_data(model, lambda: model(images))
    assert 0.005 < float(model.running_var[1]) < 0.01
