"""What the compiler knows of each ONNX operator: one row per operator, and every set of operators made from the rows.

An operator is added by two things: a builder in `execute/ops` that computes it, and its row in `TRAITS`. Everything
else (sites, folds, relevance rules, canonicalization, emission, half precision, lint) asks the sets below, which read
the table at every question. `tests/graph/test_op_traits.py` holds each row against the builder: what `moves` values
copies them, what is `elementwise` computes each element from its own place, and so on.

Two kinds of tuples of operator names are not here. A pattern that takes a formula apart (a GELU, a LayerNorm or an
attention written out) names the operators it takes apart, and a new operator does not belong to it. What one runtime
can do (operators of ONNX Runtime's own, those that TensorRT's parser lacks) stands with that runtime or its lint rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Literal, TypeVar

import onnx_ir as ir

from qvit_deploy.graph import last_axis

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Traits:
    """One operator. `x` is its first input, `y` its first output.

    Attributes:
        moves: y holds values of the data operands (the first; every one of Concat) and no others. It `copies` x,
            `reshapes` it (all values in their order), `permutes` them, `repeats` them (same shape: same tensor),
            `picks` some of them, or `joins` several tensors.
        keeps_last_axis: for what moves values: whether a node leaves the last axis of x as it is. Called with nodes
            whose x and y have shapes. None: it never does, or that was not examined.
        elementwise: each element of y depends only on the elements of the operands at its place.
        broadcasts: an elementwise operator whose y has the shape that its operands broadcast to.
        scales: for a constant second operand c, y is x times a constant: f(a x, c) = a f(x, c).
        neutral: the second operand that changes nothing: f(x, neutral) = x.
        commutes: f(a, b) = f(b, a).
        slope_at_zero: for an activation f with f(0) = 0: the limit of f(x) / x at 0 (where there is none, as for Relu:
            the derivative that torch takes), or a function that reads it from a node's attributes.
        steps: its derivative is zero everywhere, so no backward pass goes through it.
        describes: y depends on the shape of x only, not on what x holds.
        random: y is drawn anew at every run.
        sums: y adds up whole axes of x: its `values`, `magnitudes` or `squares` (a mean and a root count too).
        product: a `matrix` product or a `convolution`: what integer kernels exist for.
        weighted: a layer whose constant operands of two and more dimensions are its weights.
        normalizes: y is x with its `moments` (mean and variance) or its `length` taken out, both measured on x, or with
            `constants` (moments of the training).
        quantizer: QuantizeLinear and DequantizeLinear: between numbers and codes, by scales in the file.
        integer: computes on integer codes, as models that are quantized already do.
        keeps_rows: row i of y, along axis 1 of [batch, tokens, channels], is made of row i of the `first` operand, or
            of the rows i of `both`; emission leaves out rows that nothing reads. Further conditions: `emit.rows`.
        on_scores: attention puts it between its first product and the softmax: scaling, bias, mask.
        on_probabilities: attention puts it between the softmax and its second product.
        float_only: no runtime computes it on integer codes.
        redefined: one name has meant different things in different opsets.
        refused: for what no model with images may compute on them: why, and what to do about it.
    """

    moves: Literal["copies", "reshapes", "permutes", "repeats", "picks", "joins"] | None = None
    keeps_last_axis: Callable[[ir.Node], bool] | None = None
    elementwise: bool = False
    broadcasts: bool = False
    scales: bool = False
    neutral: float | None = None
    commutes: bool = False
    slope_at_zero: float | Callable[[ir.Node], float] | None = None
    steps: bool = False
    describes: bool = False
    random: bool = False
    sums: Literal["values", "magnitudes", "squares"] | None = None
    product: Literal["matrix", "convolution"] | None = None
    weighted: bool = False
    normalizes: Literal["moments", "length", "constants"] | None = None
    quantizer: bool = False
    integer: bool = False
    keeps_rows: Literal["first", "both"] | None = None
    on_scores: bool = False
    on_probabilities: bool = False
    float_only: bool = False
    redefined: bool = False
    refused: str | None = None


_COUNT_IS_DATA = (
    "how many results it has depends on the image; cut the model off in front of it and do what follows outside"
)
_NEEDS_FLOAT_MODEL = "the model is already quantized; compile takes the float model"
_DRAWS = "it draws new numbers at every run; export the model in evaluation mode"
_CONTROL_FLOW = "export the model without data-dependent control flow"
_FREQUENCIES = "frequencies are not computed; do it in front of the model, or keep it out of the exported part"


TRAITS: dict[str, Traits] = {
    # Moving values
    "Concat": Traits(moves="joins", keeps_last_axis=last_axis.kept_by_axis),
    "DepthToSpace": Traits(moves="permutes"),
    "Expand": Traits(moves="repeats"),
    "Flatten": Traits(moves="reshapes"),
    "Gather": Traits(moves="picks", keeps_last_axis=last_axis.kept_by_gather),
    "GatherElements": Traits(moves="picks"),
    "GatherND": Traits(moves="picks"),
    "Identity": Traits(moves="copies", elementwise=True),
    "Reshape": Traits(moves="reshapes", keeps_last_axis=last_axis.kept_by_reshape),
    "ReverseSequence": Traits(moves="permutes"),
    "Slice": Traits(moves="picks", keeps_last_axis=last_axis.kept_by_slice),
    "SpaceToDepth": Traits(moves="permutes"),
    "Split": Traits(moves="picks", keeps_last_axis=last_axis.kept_by_axis),
    "Squeeze": Traits(moves="reshapes", keeps_last_axis=last_axis.kept_by_squeeze),
    "Tile": Traits(moves="repeats"),
    "Transpose": Traits(moves="permutes", keeps_last_axis=last_axis.kept_by_transpose),
    "Unsqueeze": Traits(moves="reshapes", keeps_last_axis=last_axis.kept_by_unsqueeze),
    # Placing values among others
    "Col2Im": Traits(),
    "OneHot": Traits(),
    "Pad": Traits(),
    "ScatterElements": Traits(),
    "ScatterND": Traits(),
    "Trilu": Traits(),
    # Finding values
    "ArgMax": Traits(),
    "ArgMin": Traits(),
    "TopK": Traits(),
    # Arithmetic of two operands and more
    "Add": Traits(
        elementwise=True, broadcasts=True, neutral=0.0, commutes=True, keeps_rows="both", on_scores=True
    ),
    "And": Traits(elementwise=True, broadcasts=True, commutes=True),
    "BitShift": Traits(elementwise=True, broadcasts=True),
    "BitwiseAnd": Traits(elementwise=True, broadcasts=True, commutes=True),
    "BitwiseOr": Traits(elementwise=True, broadcasts=True, commutes=True),
    "BitwiseXor": Traits(elementwise=True, broadcasts=True, commutes=True),
    "Div": Traits(
        elementwise=True, broadcasts=True, scales=True, neutral=1.0, keeps_rows="both", on_scores=True,
        on_probabilities=True, float_only=True,
    ),
    "Equal": Traits(elementwise=True, broadcasts=True, commutes=True),
    "Greater": Traits(elementwise=True, broadcasts=True),
    "GreaterOrEqual": Traits(elementwise=True, broadcasts=True),
    "Less": Traits(elementwise=True, broadcasts=True),
    "LessOrEqual": Traits(elementwise=True, broadcasts=True),
    "Max": Traits(elementwise=True, broadcasts=True, commutes=True, on_scores=True),
    "Mean": Traits(elementwise=True, broadcasts=True, commutes=True),
    "Min": Traits(elementwise=True, broadcasts=True, commutes=True),
    "Mod": Traits(elementwise=True, broadcasts=True),
    "Mul": Traits(
        elementwise=True, broadcasts=True, scales=True, neutral=1.0, commutes=True, keeps_rows="both", on_scores=True,
        on_probabilities=True,
    ),
    "Or": Traits(elementwise=True, broadcasts=True, commutes=True),
    "Pow": Traits(elementwise=True, broadcasts=True, float_only=True),
    "Sub": Traits(elementwise=True, broadcasts=True, neutral=0.0, keeps_rows="both", on_scores=True),
    "Sum": Traits(elementwise=True, broadcasts=True, commutes=True),
    "Where": Traits(elementwise=True, broadcasts=True, on_scores=True),
    "Xor": Traits(elementwise=True, broadcasts=True, commutes=True),
    # Functions of one operand
    "Abs": Traits(elementwise=True),
    "Acos": Traits(elementwise=True, float_only=True),
    "Acosh": Traits(elementwise=True, float_only=True),
    "Asin": Traits(elementwise=True, float_only=True),
    "Asinh": Traits(elementwise=True, float_only=True),
    "Atan": Traits(elementwise=True, float_only=True),
    "Atanh": Traits(elementwise=True, float_only=True),
    "BitwiseNot": Traits(elementwise=True),
    "Cast": Traits(elementwise=True, on_scores=True, on_probabilities=True),
    "Ceil": Traits(elementwise=True, steps=True),
    "Celu": Traits(elementwise=True, slope_at_zero=1.0, float_only=True),
    "Clip": Traits(elementwise=True, keeps_rows="first", on_scores=True),
    "Cos": Traits(elementwise=True),
    "Cosh": Traits(elementwise=True, float_only=True),
    "Dropout": Traits(on_probabilities=True),
    "Elu": Traits(
        elementwise=True, slope_at_zero=lambda node: node.attributes.get_float("alpha", 1.0), float_only=True
    ),
    "Erf": Traits(elementwise=True, float_only=True),
    "Exp": Traits(elementwise=True, float_only=True),
    "Floor": Traits(elementwise=True, steps=True),
    "Gelu": Traits(elementwise=True, slope_at_zero=0.5, keeps_rows="first", float_only=True),
    "HardSigmoid": Traits(elementwise=True, float_only=True),
    "HardSwish": Traits(elementwise=True, slope_at_zero=0.5, float_only=True),
    "IsInf": Traits(elementwise=True),
    "IsNaN": Traits(elementwise=True),
    "LeakyRelu": Traits(elementwise=True, slope_at_zero=lambda node: node.attributes.get_float("alpha", 0.01)),
    "Log": Traits(elementwise=True, float_only=True),
    "Mish": Traits(elementwise=True, slope_at_zero=0.6, keeps_rows="first", float_only=True),  # tanh(log 2) = 3/5
    "Neg": Traits(elementwise=True),
    "Not": Traits(elementwise=True),
    "PRelu": Traits(elementwise=True, slope_at_zero=1.0),
    "Reciprocal": Traits(elementwise=True, float_only=True),
    "Relu": Traits(elementwise=True, slope_at_zero=0.0, keeps_rows="first"),
    "Round": Traits(elementwise=True, steps=True),
    "Selu": Traits(
        elementwise=True, float_only=True,
        slope_at_zero=lambda node: (
            node.attributes.get_float("alpha", 1.6732632) * node.attributes.get_float("gamma", 1.050701)
        ),
    ),
    "Shrink": Traits(elementwise=True, slope_at_zero=0.0),
    "Sigmoid": Traits(elementwise=True, float_only=True),
    "Sign": Traits(elementwise=True, steps=True),
    "Sin": Traits(elementwise=True),
    "Sinh": Traits(elementwise=True, float_only=True),
    "Softplus": Traits(elementwise=True, float_only=True),
    "Softsign": Traits(elementwise=True, slope_at_zero=1.0, float_only=True),
    "Sqrt": Traits(elementwise=True, float_only=True),
    "Tan": Traits(elementwise=True, float_only=True),
    "ThresholdedRelu": Traits(
        elementwise=True, slope_at_zero=lambda node: float(node.attributes.get_float("alpha", 1.0) < 0)
    ),
    "Tanh": Traits(elementwise=True, slope_at_zero=1.0, float_only=True),
    # Reductions
    "CumSum": Traits(),
    "GlobalAveragePool": Traits(sums="values"),
    "ReduceL1": Traits(sums="magnitudes"),
    "ReduceL2": Traits(sums="squares"),
    "ReduceLogSum": Traits(float_only=True),
    "ReduceLogSumExp": Traits(float_only=True),
    "ReduceMax": Traits(float_only=True),
    "ReduceMean": Traits(sums="values", float_only=True),
    "ReduceMin": Traits(),
    "ReduceProd": Traits(),
    "ReduceSum": Traits(sums="values", float_only=True),
    "ReduceSumSquare": Traits(sums="squares"),
    # Products and pooling
    "AveragePool": Traits(),
    "Conv": Traits(product="convolution", weighted=True),
    "ConvTranspose": Traits(product="convolution", weighted=True),
    "DeformConv": Traits(weighted=True, float_only=True),
    "Einsum": Traits(weighted=True),
    "Gemm": Traits(product="matrix", weighted=True),
    "GRU": Traits(weighted=True, float_only=True),
    "GlobalLpPool": Traits(),
    "GlobalMaxPool": Traits(),
    "LSTM": Traits(weighted=True, float_only=True),
    "LpPool": Traits(),
    "MatMul": Traits(product="matrix", weighted=True),
    "MaxPool": Traits(),
    # Reading maps between their pixels
    "AffineGrid": Traits(),
    "GridSample": Traits(redefined=True),
    "Resize": Traits(),
    "RoiAlign": Traits(),
    # Normalizations
    "BatchNormalization": Traits(normalizes="constants"),
    "GroupNormalization": Traits(normalizes="moments", float_only=True, redefined=True),
    "Hardmax": Traits(float_only=True),
    "InstanceNormalization": Traits(normalizes="moments", float_only=True),
    "LRN": Traits(float_only=True),
    "LayerNormalization": Traits(normalizes="moments", keeps_rows="first", float_only=True),
    "LogSoftmax": Traits(float_only=True),
    "LpNormalization": Traits(normalizes="length", float_only=True),
    "Softmax": Traits(float_only=True),
    # Codes
    "QuantizeLinear": Traits(quantizer=True, keeps_rows="first"),
    "DequantizeLinear": Traits(quantizer=True, keeps_rows="first"),
    "ConvInteger": Traits(integer=True, refused=_NEEDS_FLOAT_MODEL),
    "DynamicQuantizeLinear": Traits(integer=True, refused=_NEEDS_FLOAT_MODEL),
    "MatMulInteger": Traits(integer=True, refused=_NEEDS_FLOAT_MODEL),
    "QLinearConv": Traits(integer=True, refused=_NEEDS_FLOAT_MODEL),
    "QLinearMatMul": Traits(integer=True, refused=_NEEDS_FLOAT_MODEL),
    # Shapes and numbers from nowhere
    "Bernoulli": Traits(random=True, refused=_DRAWS),
    "ConstantOfShape": Traits(),
    "EyeLike": Traits(describes=True),
    "Multinomial": Traits(random=True, refused=_DRAWS),
    "RandomNormal": Traits(random=True, refused=_DRAWS),
    "RandomNormalLike": Traits(random=True, refused=_DRAWS),
    "RandomUniform": Traits(random=True, refused=_DRAWS),
    "RandomUniformLike": Traits(random=True, refused=_DRAWS),
    "Range": Traits(),
    "Shape": Traits(describes=True),
    "Size": Traits(describes=True),
    # Not run
    "Compress": Traits(refused=_COUNT_IS_DATA),
    "DFT": Traits(redefined=True, refused=_FREQUENCIES),
    "Loop": Traits(refused=_CONTROL_FLOW),
    "MaxRoiPool": Traits(refused="use RoiAlign, or cut the model off in front of it"),
    "MaxUnpool": Traits(refused="it needs the indices of a MaxPool; use Resize or ConvTranspose to enlarge maps"),
    "NonMaxSuppression": Traits(refused=_COUNT_IS_DATA),
    "NonZero": Traits(refused=_COUNT_IS_DATA),
    "STFT": Traits(refused=_FREQUENCIES),
    "Scan": Traits(refused=_CONTROL_FLOW),
    "Unique": Traits(refused=_COUNT_IS_DATA),
}  # fmt: skip
"""Operator of the standard domain -> its traits."""


class Operators(Set[str]):
    """The operators whose traits satisfy `holds`, read from `TRAITS` at every question.

    A union, intersection or difference with another set is a plain frozenset of what the table held at that time.
    """

    def __init__(self, holds: Callable[[Traits], object]) -> None:
        self._holds = holds

    def __contains__(self, op_type: object) -> bool:
        traits = TRAITS.get(op_type) if isinstance(op_type, str) else None
        return traits is not None and bool(self._holds(traits))

    def __iter__(self) -> Iterator[str]:
        return (op_type for op_type, traits in TRAITS.items() if self._holds(traits))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @classmethod
    def _from_iterable(cls, it: Iterable[Item]) -> frozenset[Item]:
        return frozenset(it)


MOVES = Operators(lambda t: t.moves)
RESHAPES = Operators(lambda t: t.moves == "reshapes")
PERMUTES = Operators(lambda t: t.moves == "permutes")
SAME_IF_SAME_SHAPE = Operators(lambda t: t.moves in ("reshapes", "repeats"))
ELEMENTWISE = Operators(lambda t: t.elementwise)
BROADCASTS = Operators(lambda t: t.broadcasts)
SCALES = Operators(lambda t: t.scales)
ACTIVATIONS = Operators(lambda t: t.slope_at_zero is not None)
STEPS = Operators(lambda t: t.steps)
DESCRIBES = Operators(lambda t: t.describes)
RANDOM = Operators(lambda t: t.random)
SUMS = Operators(lambda t: t.sums)
SUMS_OF_SQUARES = Operators(lambda t: t.sums == "squares")
PRODUCTS = Operators(lambda t: t.product)
WEIGHTED = Operators(lambda t: t.weighted)
MATRIX_PRODUCTS = Operators(lambda t: t.product == "matrix")
MOMENT_NORMS = Operators(lambda t: t.normalizes == "moments")
NORMS = Operators(lambda t: t.normalizes in ("moments", "length"))
QUANTIZERS = Operators(lambda t: t.quantizer)
INTEGER_OPERATORS = Operators(lambda t: t.integer)
KEEPS_ROWS = Operators(lambda t: t.keeps_rows == "first")
KEEPS_ROWS_OF_BOTH = Operators(lambda t: t.keeps_rows == "both")
ON_SCORES = Operators(lambda t: t.on_scores)
ON_PROBABILITIES = Operators(lambda t: t.on_probabilities)
FLOAT_ONLY = Operators(lambda t: t.float_only)
REDEFINED = Operators(lambda t: t.redefined)
REFUSED = Operators(lambda t: t.refused)


def slope_at_zero(node: ir.Node) -> float:
    """Returns the limit of f(x) / x at 0 for a node of `ACTIVATIONS`."""
    slope = TRAITS[node.op_type].slope_at_zero
    assert slope is not None, f"{node.op_type} is no activation"
    return slope(node) if callable(slope) else slope


def keeps_last_axis(node: ir.Node) -> bool:
    """Tells whether a node moves values and leaves the last axis of its first input as it is; False if shapes are
    unknown."""
    x, y, traits = node.inputs[0], node.outputs[0], TRAITS.get(node.op_type)
    if x is None or x.shape is None or y.shape is None or traits is None or traits.keeps_last_axis is None:
        return False
    return traits.keeps_last_axis(node)
