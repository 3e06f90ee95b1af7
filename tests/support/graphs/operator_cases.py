"""Inputs and attributes for every operator that the executor runs."""

from __future__ import annotations

import numpy as np
import onnx

random = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return (random.random(shape) + 0.1).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def flags(*shape: int) -> np.ndarray:
    return random.random(shape) > 0.5


X = normal(2, 3, 4)
MAPS = normal(2, 4, 7, 6)
HALVES = np.float32([-2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 3.49])
F = onnx.TensorProto

Case = tuple[str, list[np.ndarray | None], dict[str, object]]
"""Operator, inputs (the first is fed, the others are constants), attributes."""

RESIZE_CASES: list[Case] = [
    *(("Resize", [MAPS, None, np.float32([1, 1, *by])], {"mode": mode, "coordinate_transformation_mode": where, **more})
      for by in ((2, 1.5), (0.6, 0.5), (1.3, 3))
      for where in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
      for mode, more in (("linear", {}), ("cubic", {}), ("cubic", {"cubic_coeff_a": -0.5}), ("cubic", {
          "exclude_outside": 1,
      }))),
    *(("Resize", [MAPS, None, None, ints(2, 4, *size)], {"mode": mode, "coordinate_transformation_mode": where})
      for size in ((14, 11), (4, 3), (1, 1))
      for where in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
      for mode in ("nearest", "linear", "cubic")),
    *(("Resize", [MAPS, None, np.float32([1, 1, *by])], {"nearest_mode": mode, "coordinate_transformation_mode": where})
      for by in ((2, 1.5), (0.6, 0.5), (3, 2))
      for where in ("half_pixel", "asymmetric", "align_corners")
      for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    *(("Resize", [MAPS, None, None, ints(*size)], {"mode": mode, "antialias": 1, "axes": [2, 3]})
      for size in ((3, 2), (14, 3)) for mode in ("linear", "cubic")),
    ("Resize", [MAPS, None, None, ints(10, 9)], {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}),
    ("Resize", [MAPS, None, None, ints(10, 9)], {"axes": [2, 3], "mode": "linear",
        "keep_aspect_ratio_policy": "not_smaller"}),
    ("Resize", [X, None, np.float32([1, 1, 2])], {"mode": "linear"}),
    ("Resize", [normal(1, 2, 3, 4, 5), None, np.float32([1, 1, 2, 2, 2])], {"mode": "linear"}),
    ("Resize", [normal(1, 2, 3, 4, 5), None, np.float32([1, 1, 2, 2, 2])], {}),
]  # fmt: skip
GRID = np.float32(1.3 * np.tanh(normal(2, 5, 3, 2)))
GRID_CASES: list[Case] = [
    *(("GridSample", [MAPS, GRID], {"mode": mode, "padding_mode": pad, "align_corners": corners})
      for mode in ("linear", "nearest", "cubic") for pad in ("zeros", "border", "reflection") for corners in (0, 1)),
    *(("GridSample", [normal(1, 2, 3, 4, 5), np.tanh(normal(1, 2, 3, 4, 3))], {"mode": mode})
      for mode in ("linear", "nearest")),
]  # fmt: skip

CASES: list[Case] = [
    *((op, [X], {}) for op in (
        "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "IsInf", "IsNaN", "Neg", "Reciprocal",
        "Relu", "Sigmoid", "Sign", "Sin", "Softplus", "Tanh", "Mish", "Gelu", "HardSigmoid", "LeakyRelu", "Shape",
        "Size",
    )),
    *((op, [X / 4], {}) for op in ("Acos", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan")),
    ("Acosh", [1 + positive(3, 4)], {}),
    *((op, [X], {}) for op in ("Celu", "Elu", "Selu", "Shrink", "Softsign", "ThresholdedRelu")),
    *((op, [X], {"alpha": 0.3}) for op in ("Celu", "Elu", "Selu", "ThresholdedRelu")),
    ("Selu", [X], {"alpha": 1.5, "gamma": 0.7}),
    ("Shrink", [X], {"lambd": 0.3, "bias": 0.2}),
    ("PRelu", [X, normal(3, 1)], {}),
    ("PRelu", [MAPS, normal(4, 1, 1)], {}),
    ("BitwiseNot", [ints(-7, 0, 9)], {}),
    ("Round", [HALVES], {}),
    ("Softplus", [np.float32([-90, -30, 0, 30, 90])], {}),
    ("Sigmoid", [np.float32([-90, -30, 0, 30, 90])], {}),
    ("IsNaN", [np.float32([np.nan, 1, np.inf])], {}),
    ("IsInf", [np.float32([np.nan, -np.inf, np.inf])], {}),
    *((op, [positive(3, 4)], {}) for op in ("Log", "Sqrt")),
    ("IsInf", [np.float32([np.nan, -np.inf, np.inf])], {"detect_negative": 0}),
    ("IsInf", [np.float32([np.nan, -np.inf, np.inf])], {"detect_positive": 0}),
    ("Not", [flags(5)], {}),
    ("Gelu", [3 * X], {"approximate": "tanh"}),
    ("HardSigmoid", [X], {"alpha": 0.3, "beta": 0.4}),
    ("LeakyRelu", [X], {"alpha": 0.2}),
    ("Shape", [X], {"start": 1}),
    ("Shape", [X], {"start": -2, "end": -1}),
    *((op, [X, normal(3, 1)], {}) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, [ints(-7, 7, 9), ints(2, -2, 4)], {}) for op in ("Add", "Div", "Mod", "Mul", "Sub")),
    ("Mod", [np.float32([-7.5, 7.5, 5]), np.float32([2, -2, 3])], {"fmod": 1}),
    ("Mod", [ints(-7, 7, 9), ints(2, -2, 4)], {"fmod": 1}),
    ("Pow", [positive(2, 3), np.float32([0.5])], {}),
    ("Pow", [normal(2, 3), np.float32([3.0])], {}),
    ("Pow", [normal(2, 3), ints(2)], {}),
    ("Pow", [ints(3, -4, 5), np.float32([2.0])], {}),
    *((op, [X, X.round()], {}) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *((op, [ints(1, 2, 3), ints(2, 2, 2)], {}) for op in ("Equal", "Greater", "Less")),
    *((op, [flags(6), flags(6)], {}) for op in ("And", "Or", "Xor")),
    *((op, [ints(-7, 12, 9), ints(3, 10, 4)], {}) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    *(("BitShift", [np.uint8([7, 12, 200]), np.uint8([1, 2, 3])], {"direction": d}) for d in ("LEFT", "RIGHT")),
    *((op, [X, normal(3, 4), normal(4)], {}) for op in ("Max", "Mean", "Min", "Sum")),
    ("Clip", [X, np.float32(-0.5), np.float32(0.25)], {}),
    ("Clip", [X, None, np.float32(0.25)], {}),
    ("Clip", [X, np.float32(-0.5)], {}),
    ("Clip", [X], {}),
    ("Where", [flags(2, 3, 1), X, normal(4)], {}),
    # reductions
    *((op, [X, ints(-1)], {}) for op in (
        "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "ReduceSumSquare",
    )),
    *((op, [X, ints(0, 2)], {"keepdims": 0}) for op in (
        "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "ReduceSumSquare",
    )),
    ("ReduceLogSum", [positive(2, 3, 4), ints(1)], {}),
    *((op, [X], {"axis": 1}) for op in ("ArgMax", "ArgMin")),
    *((op, [X.round()], {"axis": -1, "keepdims": 0, "select_last_index": last}) for op in ("ArgMax", "ArgMin")
      for last in (0, 1)),
    *(("CumSum", [X, np.int64(axis)], {"exclusive": e, "reverse": r}) for axis, e, r in (
        (1, 0, 0), (-1, 1, 0), (0, 0, 1), (2, 1, 1),
    )),
    ("CumSum", [ints(3, 4, 5), np.int64(0)], {"exclusive": 1}),
    ("ReduceSum", [X], {}),
    ("ReduceProd", [X], {"keepdims": 0}),
    *((op, [X, *axes], {"noop_with_empty_axes": 1}) for op in ("ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare")
      for axes in ([], [ints()])),
    ("ReduceSum", [X, ints()], {}),
    *((op, [ints(3, -4, 6), ints(0)], {}) for op in ("ReduceL2", "ReduceMean")),
    ("ReduceSum", [ints(3, 4, 5), ints(0)], {}),
    # products and norms
    ("MatMul", [X, normal(4, 5)], {}),
    ("MatMul", [normal(2, 5, 3, 4), normal(5, 4, 2)], {}),
    ("MatMul", [normal(2, 4), normal(4)], {}),
    ("Gemm", [normal(3, 4), normal(5, 4), normal(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [normal(4, 3), normal(4, 5)], {"transA": 1}),
    ("Einsum", [X, normal(2, 5, 4)], {"equation": "bnd,bmd->bnm"}),
    ("Softmax", [X], {"axis": 1}),
    ("Softmax", [X], {}),
    ("LogSoftmax", [X], {"axis": -2}),
    ("LayerNormalization", [X, normal(4), normal(4)], {"axis": -1, "epsilon": 1e-3}),
    ("LayerNormalization", [X, normal(3, 4)], {"axis": 1}),
    ("LayerNormalization", [X, normal(1), normal(4)], {}),
    ("BatchNormalization", [MAPS, normal(4), normal(4), normal(4), positive(4)], {"epsilon": 1e-3}),
    ("InstanceNormalization", [MAPS, normal(4), normal(4)], {"epsilon": 1e-3}),
    ("InstanceNormalization", [normal(2, 4, 1, 1), normal(4), normal(4)], {"epsilon": 1.0}),
    ("GroupNormalization", [normal(1, 4, 1, 1), normal(4), normal(4)], {"num_groups": 4}),
    ("GroupNormalization", [MAPS, normal(4), normal(4)], {"num_groups": 2, "epsilon": 1e-3}),
    ("GroupNormalization", [normal(2, 6, 5), normal(6), normal(6)], {"num_groups": 1}),
    ("LRN", [MAPS], {"size": 3}),
    ("LRN", [MAPS], {"size": 5, "alpha": 0.5, "beta": 0.6, "bias": 2.0}),
    ("Hardmax", [X.round()], {"axis": 1}),
    ("Hardmax", [X], {}),
    ("LpNormalization", [X], {"axis": 1, "p": 2}),
    ("LpNormalization", [X], {"axis": -1, "p": 1}),
    ("Conv", [MAPS, normal(6, 4, 3, 2), normal(6)], {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("Conv", [MAPS, normal(4, 1, 3, 3)], {"group": 4, "dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    ("Conv", [normal(2, 3, 9), normal(5, 3, 4), normal(5)], {"strides": [3], "pads": [2, 1]}),
    ("Conv", [normal(1, 2, 4, 5, 6), normal(3, 2, 2, 2, 2)], {"auto_pad": "VALID"}),
    *(("Conv", [MAPS, normal(4, 2, 3, 2)], {"group": 2, "strides": [2, 2], "auto_pad": pad}) for pad in (
        "SAME_UPPER", "SAME_LOWER", "VALID",
    )),
    ("ConvTranspose", [MAPS, normal(4, 3, 3, 2), normal(3)], {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    ("ConvTranspose", [MAPS, normal(4, 3, 2, 2)], {"strides": [2, 2], "group": 2, "output_padding": [1, 1]}),
    ("ConvTranspose", [MAPS, normal(4, 2, 3, 3), normal(2)], {"dilations": [2, 1], "strides": [1, 2]}),
    ("ConvTranspose", [MAPS, normal(4, 2, 3, 3), normal(2)], {"strides": [2, 3], "output_shape": [14, 19]}),
    ("ConvTranspose", [MAPS, normal(4, 2, 3, 3), normal(2)], {"strides": [2, 2], "output_shape": [15, 12],
        "auto_pad": "SAME_LOWER"}),
    *(("ConvTranspose", [MAPS, normal(4, 2, 3, 4), normal(2)], {"strides": [2, 3], "auto_pad": pad}) for pad in (
        "SAME_UPPER", "SAME_LOWER", "VALID",
    )),
    ("ConvTranspose", [normal(2, 4, 6), normal(4, 3, 4), normal(3)], {"strides": [2], "pads": [1, 1]}),
    ("ConvTranspose", [normal(1, 2, 3, 4, 3), normal(2, 2, 2, 2, 2)], {"strides": [2, 2, 2]}),
    ("DeformConv", [MAPS, normal(6, 4, 3, 2), normal(2, 12, 5, 5), normal(6), positive(2, 6, 5, 5)], {}),
    ("DeformConv", [MAPS, normal(6, 2, 3, 3), normal(2, 36, 4, 3)], {"group": 2, "offset_group": 2,
        "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("LSTM", [normal(5, 2, 1), normal(1, 16, 1), normal(1, 16, 4)], {"hidden_size": 4}),
    *(("LSTM", [normal(5, 2, 3), normal(n, 16, 3), normal(n, 16, 4), *more], {"hidden_size": 4, "direction": d,
        "outputs": 3}) for n, d in ((1, "forward"), (1, "reverse"), (2, "bidirectional"))
      for more in ([], [normal(n, 32)], [normal(n, 32), None, normal(n, 2, 4), normal(n, 2, 4)])),
    *(("GRU", [normal(5, 2, 3), normal(n, 12, 3), normal(n, 12, 4), *more], {"hidden_size": 4, "direction": d,
        "outputs": 2, "linear_before_reset": 1}) for n, d in ((1, "forward"), (1, "reverse"), (2, "bidirectional"))
      for more in ([], [normal(n, 24)], [normal(n, 24), None, normal(n, 2, 4)])),
    # pools
    *((op, [MAPS], {}) for op in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")),
    ("GlobalLpPool", [MAPS], {"p": 3}),
    *((op, [MAPS], {"kernel_shape": [3, 2], "strides": [2, 2], **more}) for op in ("AveragePool", "LpPool", "MaxPool")
      for more in ({}, {"ceil_mode": 1}, {"pads": [1, 0, 1, 1]}, {"pads": [1, 1, 0, 1], "ceil_mode": 1},
                   {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"},
                   {"dilations": [2, 1]}, {"dilations": [2, 2], "pads": [1, 0, 2, 1]})),
    *(("AveragePool", [MAPS], {"kernel_shape": [3, 3], "count_include_pad": 1, **more}) for more in (
        {"pads": [1, 0, 1, 1]}, {"pads": [1, 1, 1, 1], "strides": [3, 2], "ceil_mode": 1},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"pads": [2, 1, 1, 2], "dilations": [2, 1]},
    )),
    ("AveragePool", [normal(1, 3, 8)], {"kernel_shape": [4], "strides": [4], "pads": [1, 1], "ceil_mode": 1}),
    ("LpPool", [MAPS], {"kernel_shape": [2, 2], "p": 3}),
    ("MaxPool", [MAPS], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [MAPS], {"kernel_shape": [2, 3]}),
    ("MaxPool", [normal(1, 2, 5, 4, 6)], {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2], "ceil_mode": 1}),
    ("MaxPool", [normal(1, 3, 8)], {"kernel_shape": [3], "strides": [3], "ceil_mode": 1}),
    # between pixels
    *RESIZE_CASES,
    *GRID_CASES,
    ("AffineGrid", [normal(2, 2, 3), ints(2, 3, 4, 5)], {}),
    ("AffineGrid", [normal(2, 2, 3), ints(2, 3, 4, 5)], {"align_corners": 1}),
    *(("RoiAlign", [MAPS, np.float32([[0.5, 1, 5, 6], [-3, 0, 4, 8], [2, 2, 2.5, 2.5]]), ints(0, 1, 1)], {
        "output_height": 3, "output_width": 2, **more,
    }) for more in ({"sampling_ratio": 2}, {"spatial_scale": 0.5}, {"coordinate_transformation_mode":
        "output_half_pixel", "sampling_ratio": 1})),
    # shapes
    ("Reshape", [X, ints(0, -1, 2)], {}),
    ("Reshape", [X, ints(24)], {}),
    ("Reshape", [X, ints(-1, 4)], {}),
    ("Flatten", [X], {}),
    ("Flatten", [X], {"axis": 0}),
    ("Flatten", [X], {"axis": -1}),
    ("Transpose", [X], {}),
    ("Transpose", [X], {"perm": [1, 0, 2]}),
    ("Transpose", [X], {"perm": [1, 2, 0]}),
    ("Squeeze", [normal(1, 3, 1, 2)], {}),
    ("Squeeze", [normal(1, 3, 1, 2), ints(-2)], {}),
    ("Unsqueeze", [X, ints(0, -1)], {}),
    ("Unsqueeze", [X, ints(0, 2)], {}),
    ("Concat", [X, normal(2, 1, 4), normal(2, 2, 4)], {"axis": 1}),
    ("Split", [X, ints(1, 3)], {"axis": 2, "outputs": 2}),
    ("Split", [X], {"axis": 1, "num_outputs": 2, "outputs": 2}),
    ("Slice", [X, ints(1, -3), ints(2, np.iinfo(np.int64).max), ints(0, 2)], {}),
    ("Slice", [X, ints(0, 0), ints(2, 3), ints(1, 2), ints(1, 2)], {}),
    ("Slice", [X, ints(-1, 3), ints(np.iinfo(np.int64).min, 0), ints(1, 2), ints(-1, -2)], {}),
    ("Slice", [X, ints(0), ints(1)], {}),
    ("Slice", [X, ints(2), ints(-5), ints(1), ints(-1)], {}),
    ("Slice", [X, ints(9), ints(10), ints(-1)], {}),
    ("Gather", [X, ints(2, 0, -1)], {"axis": 1}),
    ("Gather", [X, np.int64(-1)], {"axis": -1}),
    ("Gather", [X, np.array([[0, 1], [1, 0]])], {}),
    ("GatherElements", [X, np.array([[[0, -1, 2, 1]]] * 2)], {"axis": 1}),
    ("ScatterND", [X, np.array([[0, 1], [1, -1]]), normal(2, 4)], {}),
    ("ScatterND", [X, np.array([[0, 1], [0, 1]]), normal(2, 4)], {"reduction": "add"}),
    *(("ScatterElements", [X, np.array([[[0, -1, 2, 1]]] * 2), normal(2, 1, 4)], {"axis": 1, "reduction": how})
      for how in ("none", "add", "mul", "max", "min")),
    ("GatherND", [X, np.array([[0, 1], [1, -1]])], {}),
    ("GatherND", [X, np.array([[[2], [0]], [[-1], [1]]])], {"batch_dims": 1}),
    ("GatherND", [MAPS, np.array([[[[1, 0]] * 3] * 4] * 2)], {"batch_dims": 2}),
    ("OneHot", [ints(1, -1, 5, 0), np.int64(3), np.float32([-0.5, 2])], {}),
    ("OneHot", [np.array([[0, 2], [1, 1]]), ints(3), ints(0, 1)], {"axis": 1}),
    *(("Trilu", [X, *k], {"upper": upper}) for upper in (0, 1) for k in ([], [np.int64(1)], [np.int64(-1)])),
    *(("TopK", [X, ints(2)], {"outputs": 2, **more}) for more in ({}, {"axis": 1}, {"largest": 0}, {"axis": -2})),
    ("TopK", [X.round(), ints(4)], {"outputs": 2}),
    ("TopK", [X.round(), ints(3)], {"outputs": 2, "largest": 0}),
    ("ReverseSequence", [X, ints(2, 3)], {"batch_axis": 0, "time_axis": 1}),
    ("ReverseSequence", [X, ints(2, 1, 2)], {}),
    ("Expand", [normal(3, 1), ints(2, 1, 4)], {}),
    ("Expand", [normal(3, 4), ints(1)], {}),
    ("Tile", [normal(2, 3), ints(2, 3)], {}),
    ("Pad", [MAPS, ints(0, 0, 1, 2, 0, 0, 3, 0)], {}),
    ("Pad", [MAPS, ints(0, 0, 1, 2, 0, 0, 3, 0), np.float32(-2.5)], {}),
    ("Pad", [MAPS, ints(1, 2, 3, 0), None, ints(-1, 2)], {}),
    ("Pad", [MAPS, ints(0, 0, -1, 0, 0, 0, 2, -2)], {}),
    ("Pad", [MAPS, ints(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "reflect"}),
    ("Pad", [MAPS, ints(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "edge"}),
    ("Pad", [normal(2, 5), ints(0, 2, 0, 1)], {"mode": "reflect"}),
    ("Pad", [normal(2, 3, 5), ints(0, 0, 2, 0, 0, 1)], {"mode": "wrap"}),
    ("Cast", [np.float32([-1.7, 0.0, 2.9])], {"to": F.INT64}),
    ("Cast", [ints(0, 3)], {"to": F.FLOAT}),
    ("Cast", [X], {"to": F.BOOL}),
    ("Cast", [X], {"to": F.FLOAT16}),
    ("ConstantOfShape", [ints(2, 3)], {}),
    ("ConstantOfShape", [ints(2)], {"value": ints(7)}),
    ("Range", [np.int64(2), np.int64(9), np.int64(3)], {}),
    ("Range", [np.float32(1), np.float32(0), np.float32(-0.25)], {}),
    ("DepthToSpace", [MAPS], {"blocksize": 2}),
    ("DepthToSpace", [MAPS], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [normal(2, 3, 4, 6)], {"blocksize": 2}),
    ("Col2Im", [normal(2, 12, 12), ints(4, 5), ints(2, 2)], {}),
    ("Col2Im", [normal(2, 12, 12), ints(5, 7), ints(2, 2)], {"strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("EyeLike", [normal(3, 4)], {"k": 1}),
    ("EyeLike", [normal(3, 4)], {"dtype": F.INT64}),
    # quantization
    ("QuantizeLinear", [HALVES, np.float32(1.0), np.int8(0)], {}),
    ("QuantizeLinear", [100 * X, np.float32(0.7), np.uint8(128)], {}),
    ("QuantizeLinear", [100 * X, np.float32(0.7)], {}),
    ("QuantizeLinear", [100 * X, np.float32(0.7)], {"output_dtype": F.INT8}),
    ("QuantizeLinear", [1e5 * X, np.float32(0.7), np.int16(5)], {}),
    ("QuantizeLinear", [100 * X, positive(3), np.int8([1, -2, 3])], {"axis": 1}),
    *(("QuantizeLinear", [100 * MAPS, positive(n), np.zeros(n, np.int8)], {"axis": axis}) for axis, n in (
        (0, 2), (1, 4), (2, 7), (3, 6), (-1, 6), (-3, 4),
    )),
    *(("DequantizeLinear", [MAPS.round().astype(np.int8), positive(n), np.zeros(n, np.int8)], {"axis": axis})
      for axis, n in ((0, 2), (1, 4), (2, 7), (3, 6), (-1, 6), (-3, 4))),
    ("QuantizeLinear", [1e4 * positive(5), np.float32(0.2), np.uint16(0)], {}),
    ("DequantizeLinear", [np.uint16([0, 1, 65535]), np.float32(0.25), np.uint16(0)], {}),
    ("DequantizeLinear", [np.int8([[-128, 5], [7, 127]]), np.float32([0.5, 2.0]), np.int8([0, 0])], {"axis": 1}),
    ("DequantizeLinear", [np.uint8([0, 128, 255]), np.float32(0.25), np.uint8(128)], {}),
    ("DequantizeLinear", [np.int32([-70000, 5]), np.float32(0.25)], {}),
]  # fmt: skip
