"""Rules on the file as a whole: weights beside it, inputs, names, operators that TensorRT has no importer for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from qvit_deploy.graph import external_data
from qvit_deploy.graph.op_traits import INTEGER_OPERATORS
from qvit_deploy.lint.finding import EVERYWHERE, TENSORRT, Hit, Rule
from qvit_deploy.lint.view import View

NOT_PARSED = INTEGER_OPERATORS | {
    "AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "CumProd", "DFT", "DeformConv", "Det",
    "ImageDecoder", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss",
    "Optional", "OptionalGetElement", "OptionalHasElement", "RegexFullMatch", "SequenceAt", "SequenceConstruct",
    "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss",
    "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique",
}  # fmt: skip
"""Standard operators of opset 26 and before that the parser of TensorRT-RTX 1.7.1 has no importer for."""


def _external(view: View) -> Iterator[Hit]:
    for tensor in external_data.tensors(view.model):
        problem = external_data.problem(tensor)
        if problem is not None:
            yield tensor.name or "", problem


def _dynamic(view: View) -> Iterator[Hit]:
    for value in view.model.graph.inputs:
        if value.const_value is not None:
            continue
        if value.shape is None:
            yield value.name or "", "an input of unknown rank"
            continue
        free = [f"axis {i} ({d.value or '?'})" for i, d in enumerate(value.shape) if not isinstance(d, int) and i > 0]
        if free:
            yield value.name or "", f"free sizes: {', '.join(free)}"


def _not_parsed(view: View) -> Iterator[Hit]:
    for node in view.named(*(NOT_PARSED - INTEGER_OPERATORS)):
        yield node, node.op_type


def _names(view: View) -> Iterator[Hit]:
    names = Counter(node.name or "" for node in view.nodes)
    nameless = names.pop("", 0)
    repeated = sum(count for count in names.values() if count > 1)
    if nameless or repeated:
        yield "", f"{nameless} nodes without a name, {repeated} that share one"


RULES = (
    Rule("ONNX701", "error", EVERYWHERE, "Weights in another file cannot be read",
         "The file is missing, too short, or outside the model's folder.",
         "Keep the data file beside the .onnx file, under the name it was exported with.",
         "parser", _external),
    Rule("TRT701", "warning", TENSORRT, "An input has free sizes beside the batch",
         "Each needs a range in the optimization profile, and shapes that kernels cannot be tuned for.",
         "Export with fixed channels, height and width.",
         "documentation", _dynamic),
    Rule("TRT702", "error", TENSORRT, "A standard operator that TensorRT's parser does not have",
         "The file is refused unless a plugin of that name is loaded.",
         "Leave it out of the exported model, or write it with other operators.",
         "parser", _not_parsed),
    Rule("TRT703", "note", TENSORRT, "Nodes without a name of their own",
         "Layer information of the engine names nodes: a kernel cannot be traced back to such a one.",
         "Name nodes when exporting.",
         "documentation", _names),
)  # fmt: skip
