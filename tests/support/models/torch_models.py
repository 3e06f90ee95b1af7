"""A small ViT with Hugging Face's module names, and how to compare a graph with the module it came from."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import nn

from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime.runtime import session

torch.set_num_threads(1)

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
TINY_QUERY = "timm:vit_tiny_patch16_224?" + "&".join(f"{key}={value}" for key, value in TINY.items())
SMALL_SWIN_QUERY = (
    "timm:swin_tiny_patch4_window7_224?img_size=64&window_size=4&embed_dim=16&num_classes=5&depths=2,2&num_heads=1,2"
)


def assert_same(graph: Graph, module: nn.Module, batches: tuple[int, ...] = (1, 3)) -> None:
    """ONNX Runtime on `graph` computes what torch computes with `module`, to 1e-4 of the largest output."""
    runtime = session(graph.serialize(), threads=1)
    for batch in batches:
        images = torch.randn(batch, *graph.interface.image_size, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = module.eval()(images).float().numpy()
        got = runtime.run(None, {"image": images.numpy()})[0]
        assert np.abs(expected - got).max() <= 1e-4 * np.abs(expected).max()


def torchscript_onnx(module: nn.Module, shape: tuple[int, int, int], opset: int, *, dynamic: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.onnx.export(
        module.eval(),
        (torch.randn(2, *shape),),
        buffer,
        dynamo=False,
        opset_version=opset,
        input_names=["pixel_values"],
        output_names=["output"],
        dynamic_axes={"pixel_values": {0: "batch"}} if dynamic else None,
    )
    return buffer.getvalue()


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, dim // heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / self.size**0.5
        context = torch.matmul(scores.softmax(-1), v).permute(0, 2, 1, 3).contiguous()
        return context.view(context.shape[0], context.shape[1], self.heads * self.size)


class Layer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads)
        self.intermediate = nn.Sequential()
        self.intermediate.add_module("dense", nn.Linear(dim, 4 * dim))
        self.intermediate.add_module("act", nn.GELU())
        self.output = nn.Linear(4 * dim, dim)
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output(self.intermediate(self.layernorm_after(x)))


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.attention(x))


class Encoder(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(dim, heads) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class ViTModel(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.position_embeddings = nn.Parameter(torch.randn(1, 17, dim))
        self.projection = nn.Conv2d(3, dim, 8, 8)
        self.encoder = Encoder(dim, depth, heads)
        self.layernorm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.projection(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.position_embeddings
        return self.layernorm(self.encoder(x))


class HuggingFaceStyleViT(nn.Module):
    """The module tree, and so the node names, of transformers' ViTForImageClassification on 32 x 32 images."""

    def __init__(self, dim: int = 32, depth: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.vit = ViTModel(dim, depth, heads)
        self.classifier = nn.Linear(dim, 5)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.vit(pixel_values)[:, 0, :])
