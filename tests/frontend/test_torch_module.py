import pytest
import torch
from torch import nn

from qvit_deploy.errors import InputError
from qvit_deploy.frontend.torch_module import from_torch
from tests.support.models.torch_models import HuggingFaceStyleViT, assert_same


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 3 * 8 * 8).relu()


class Untraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_any_module_with_one_image_input() -> None:
    torch.manual_seed(0)
    module = HuggingFaceStyleViT().train()
    graph = from_torch(module, (3, 32, 32), "hf")
    assert module.training
    assert "vit.encoder.layer.1.attention.attention.key.weight" in graph.initializers
    assert_same(graph, module)


def test_an_example_of_one_image_still_gives_a_symbolic_batch() -> None:
    assert from_torch(HuggingFaceStyleViT(), torch.zeros(1, 3, 32, 32), "hf").static_batch is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_float_types(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = HuggingFaceStyleViT().to(dtype)
    graph = from_torch(module, (3, 32, 32), "hf")
    assert {str(v.dtype) for v in graph.initializers.values()} <= {"FLOAT", "INT64"}
    assert sum(node.op_type == "Gelu" for node in graph.nodes()) == 2
    assert_same(graph, module.float())


def test_a_module_with_a_fixed_batch_keeps_it() -> None:
    assert from_torch(FixedBatch(), torch.zeros(2, 3, 8, 8), "fixed").static_batch == 2


def test_a_module_torch_cannot_export() -> None:
    with pytest.raises(InputError, match="torch cannot export odd"):
        from_torch(Untraceable(), (3, 8, 8), "odd")
