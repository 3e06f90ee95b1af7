"""The backward of the operators, in float64 against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.execute.ops import build
from qvit_deploy.frontend.torch_module import from_torch
from qvit_deploy.graph.examples import Examples
from tests.support.graphs.single_node import as_graph, single_node

Tensor = torch.Tensor
torch.set_num_threads(1)
random = np.random.default_rng(1)


def normal(*shape: int) -> np.ndarray:
    return random.standard_normal(shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


X = normal(2, 3, 4)
MAPS = normal(2, 2, 5, 4)
AWAY = np.sign(X) * (np.abs(X) + 0.3)  # far enough from a kink at zero
SIZE = np.abs(X) + 0.5

CASES: list[tuple[str, list[np.ndarray | None], dict[str, object]]] = [
    *((op, [X], {}) for op in ("Cos", "Erf", "Exp", "Gelu", "Neg", "Sigmoid", "Sin", "Softplus", "Tanh", "Softmax",
        "Celu", "Cosh", "Mish", "Selu", "Sinh", "Softsign")),
    *((op, [X / 4], {}) for op in ("Acos", "Asin", "Asinh", "Atan", "Atanh", "Tan")),
    *((op, [AWAY], {}) for op in ("Abs", "LeakyRelu", "Reciprocal", "Relu")),
    ("Acosh", [1 + SIZE], {}),
    *((op, [2 * AWAY], {"alpha": 0.3}) for op in ("Elu", "ThresholdedRelu")),
    ("Shrink", [AWAY], {"lambd": 0.2, "bias": 0.1}),
    ("PRelu", [AWAY, normal(3, 1)], {}),
    *((op, [SIZE], {}) for op in ("Log", "Sqrt")),
    ("HardSwish", [X / 4], {}),
    ("HardSigmoid", [X / 4], {}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("Softmax", [X], {"axis": 1}),
    ("LogSoftmax", [X], {"axis": 1}),
    *((op, [X, SIZE[:, :1]], {}) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, [X, normal(3, 4)], {}) for op in ("Max", "Mean", "Min", "Sum")),
    ("Pow", [SIZE, np.float64(1.7)], {}),
    ("Clip", [X, np.float64(-0.51), np.float64(0.52)], {}),
    *((op, [AWAY, ints(-1)], {}) for op in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin")),
    *((op, [AWAY, ints(0, 2)], {"keepdims": 0}) for op in ("ReduceProd", "ReduceSum", "ReduceSumSquare")),
    *((op, [SIZE, ints(1)], {}) for op in ("ReduceLogSum", "ReduceLogSumExp")),
    *((op, [AWAY, ints()], {"noop_with_empty_axes": 1}) for op in ("ReduceL1", "ReduceSumSquare")),
    ("CumSum", [X, np.int64(1)], {"exclusive": 1, "reverse": 1}),
    ("MatMul", [X, normal(4, 5)], {}),
    ("MatMul", [normal(2, 2, 3, 4), normal(2, 2, 4, 3)], {}),
    ("Gemm", [normal(3, 4), normal(5, 4), normal(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Einsum", [X, normal(2, 5, 4)], {"equation": "bnd,bmd->bnm"}),
    ("LayerNormalization", [X, normal(4), normal(4)], {}),
    ("LayerNormalization", [X, normal(3, 4), normal(3, 4)], {"axis": 1}),
    ("InstanceNormalization", [MAPS, normal(2), normal(2)], {}),
    ("BatchNormalization", [MAPS, normal(2), normal(2), normal(2), np.abs(normal(2)) + 0.5], {}),
    ("LpNormalization", [X], {"axis": 1}),
    ("Conv", [MAPS, normal(4, 1, 3, 2), normal(4)], {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("ConvTranspose", [MAPS, normal(2, 2, 3, 2), normal(4)], {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("DeformConv", [MAPS, normal(3, 2, 2, 2), 0.3 * normal(2, 8, 4, 3), normal(3)], {}),
    ("GroupNormalization", [normal(2, 4, 3, 2), normal(4), normal(4)], {"num_groups": 2}),
    ("LRN", [normal(2, 4, 2, 2)], {"size": 3, "alpha": 0.5}),
    *((op, [MAPS], {}) for op in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")),
    ("AveragePool", [MAPS], {"kernel_shape": [2, 2], "pads": [1, 0, 1, 0], "count_include_pad": 1}),
    ("AveragePool", [MAPS], {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("AveragePool", [MAPS], {"kernel_shape": [2, 2], "strides": [2, 3], "dilations": [2, 1], "ceil_mode": 1}),
    ("LpPool", [MAPS], {"kernel_shape": [2, 2]}),
    ("MaxPool", [MAPS], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}),
    ("MaxPool", [MAPS], {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1}),
    *(("Resize", [MAPS, None, np.float32([1, 1, *by])], {"mode": mode}) for mode in ("nearest", "linear", "cubic")
      for by in ((2, 1.5), (0.5, 0.7))),
    ("Resize", [MAPS, None, None, ints(3, 2)], {"mode": "linear", "antialias": 1, "axes": [2, 3]}),
    *(("GridSample", [MAPS, np.tanh(normal(2, 3, 2, 2))], {"mode": mode}) for mode in ("linear", "cubic")),
    ("GridSample", [MAPS, np.tanh(normal(2, 3, 2, 2))], {"padding_mode": "border", "align_corners": 1}),
    ("RoiAlign", [MAPS, np.array([[0.5, 1, 4, 3], [0, 0, 2.2, 3.1]]), ints(0, 1)], {"output_height": 2,
        "sampling_ratio": 2}),
    ("Reshape", [X, ints(0, -1, 2)], {}),
    ("Transpose", [X], {"perm": [2, 0, 1]}),
    ("Slice", [X, ints(-1, 0), ints(-9, 3), ints(1, 2), ints(-1, 2)], {}),
    ("Gather", [X, ints(2, 0, 2)], {"axis": 1}),
    ("GatherElements", [X, np.array([[[0, -1, 2, 1]]] * 2)], {"axis": 1}),
    ("ScatterND", [X, np.array([[0, 1], [1, -1]]), normal(2, 4)], {}),
    ("ScatterElements", [X, np.array([[[0, -1, 2, 1]]] * 2), normal(2, 1, 4)], {"axis": 1}),
    ("GatherND", [X, np.array([[[2], [0]], [[-1], [2]]])], {"batch_dims": 1}),
    ("Trilu", [X], {"upper": 0}),
    ("ReverseSequence", [X, ints(2, 3)], {"batch_axis": 0, "time_axis": 1}),
    ("SpaceToDepth", [normal(1, 2, 4, 2)], {"blocksize": 2}),
    ("Col2Im", [normal(1, 4, 12), ints(4, 5), ints(2, 2)], {}),
    ("Concat", [X, normal(2, 1, 4)], {"axis": 1}),
    ("Expand", [normal(3, 1), ints(2, 3, 4)], {}),
    ("Tile", [X, ints(1, 2, 1)], {}),
    ("Pad", [MAPS, ints(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "reflect"}),
    ("Where", [random.random((2, 3, 4)) > 0.5, X, normal(4)], {}),
    ("DepthToSpace", [normal(1, 4, 2, 3)], {"blocksize": 2}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{len(c[1])}" + "".join(f"-{k}" for k in c[2]))
def test_backward_matches_finite_differences(case: tuple[str, list[np.ndarray | None], dict[str, object]]) -> None:
    op, arrays, attributes = case
    node = next(as_graph(single_node(op, [a if a is None else np.asarray(a) for a in arrays], **attributes)).nodes())  # type: ignore[arg-type]
    tensors = [
        None if a is None else torch.from_numpy(np.array(a)).requires_grad_(np.asarray(a).dtype == np.float64)
        for a in arrays
    ]
    if op == "RoiAlign":  # boxes are data, not differentiated
        tensors[1] = tensors[1].detach()
    if op == "Clip":
        tensors = [tensors[0], *(t.detach() for t in tensors[1:])]
    if op == "BatchNormalization":  # running statistics are constants of the model
        tensors = [*tensors[:3], *(t.detach() for t in tensors[3:])]
    assert torch.autograd.gradcheck(build(node), tensors)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_the_backward_of_recurrent_layers(op: str, gates: int) -> None:
    arrays = [normal(4, 1, 3), normal(2, gates * 2, 3), normal(2, gates * 2, 2), normal(2, gates * 4)]
    more = {"linear_before_reset": 1} if op == "GRU" else {}
    model = single_node(op, arrays, outputs=2, hidden_size=2, direction="bidirectional", **more)
    run = build(next(as_graph(model).nodes()))
    assert torch.autograd.gradcheck(lambda *t: run(*t)[0], [torch.from_numpy(a).requires_grad_() for a in arrays])


def test_the_length_of_zeros_has_no_slope() -> None:
    model = single_node("ReduceL2", [np.zeros((2, 3), np.float32), ints(1)])
    x = torch.zeros(2, 3, requires_grad=True)
    (length,) = Executor(as_graph(model)).run(Examples.images(x)).values()
    length.sum().backward()
    assert x.grad is not None and not x.grad.any()


def test_the_largest_values_get_the_gradient_and_their_places_none() -> None:
    node = next(as_graph(single_node("TopK", [X, ints(2)], outputs=2)).nodes())
    top = build(node)
    assert torch.autograd.gradcheck(lambda x: top(x, torch.tensor([2]))[0], torch.from_numpy(X.copy()).requires_grad_())


@pytest.mark.parametrize("zero", [np.int8(0), np.uint8(100)])
def test_quantization_passes_the_gradient_straight_through_inside_the_range(zero: np.generic) -> None:
    x, scale = np.float32([-900, -128.6, -40, 0, 33.3, 127.4, 200]), np.float32(0.5)
    quantize = build(next(as_graph(single_node("QuantizeLinear", [x, scale, np.asarray(zero)])).nodes()))
    codes = np.zeros(7, zero.dtype)
    dequantize = build(next(as_graph(single_node("DequantizeLinear", [codes, scale, np.asarray(zero)])).nodes()))
    parameters = torch.tensor(scale), torch.tensor(zero.item(), dtype=getattr(torch, str(zero.dtype)))
    leaf = torch.from_numpy(x).requires_grad_()
    dequantize(quantize(leaf, *parameters), *parameters).backward(torch.full((7,), 3.0))
    limits = np.iinfo(zero.dtype)
    rounded = np.round(x / scale) + zero.item()
    assert leaf.grad is not None
    np.testing.assert_array_equal(leaf.grad, np.where((rounded >= limits.min) & (rounded <= limits.max), 3.0, 0.0))


def test_per_channel_quantization_has_a_per_channel_backward() -> None:
    scales, zeros = np.float32([0.5, 2.0]), np.int8([0, 0])
    x = np.float32([[70.0, 70.0], [-3.0, -3.0]])
    quantize = build(next(as_graph(single_node("QuantizeLinear", [x, scales, zeros], axis=1)).nodes()))
    leaf = torch.from_numpy(x).requires_grad_()
    quantize(leaf, torch.from_numpy(scales), torch.from_numpy(zeros)).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_array_equal(leaf.grad, [[0.0, 0.5], [2.0, 0.5]])  # 70 / 0.5 is outside int8


def test_the_gradient_of_a_vit_is_that_of_the_torch_module() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5).eval()
    images = torch.randn(3, 3, 32, 32)
    gradients = []
    executor = Executor(from_torch(model, (3, 32, 32), "vit"))
    for run in (model, lambda x: executor.run(Examples.images(x))["logits"]):
        leaf = images.clone().requires_grad_()
        run(leaf)[:, 1].sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
