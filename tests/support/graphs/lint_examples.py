"""For every rule a small file that breaks it and one, as alike as possible, that does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx

from qvit_deploy.lint import OLDEST_TENSORRT, LintTarget
from tests.support.graphs.small_files import LINEAR, PAIR, QDQ, W8A8, f16, f32, i8, model, u8

HALF = {"inputs": "float16[1,8,32] x", "outputs": "float16[1,8,32] y"}
FREE = {"inputs": "float[N,8,32] x", "outputs": "float[N,8,32] y"}
ROWS = {"inputs": "float[N,32] x", "outputs": "float[N,32] y"}
HALF_PAIR = {"s": f16(0.1), "z": i8(0)}
BIAS = np.ones(32, f32)
BIASED = LINEAR.replace("y = MatMul", "m = MatMul") + " y = Add(m, b)"
PER_CHANNEL_PAIR = {"s": np.full(32, 0.1, f32), "z": np.zeros(32, i8)}
PER_CHANNEL_QDQ = QDQ.replace("Linear(", "Linear<axis=2>(")
PER_CHANNEL_LINEAR = LINEAR.replace("ntizeLinear(", "ntizeLinear<axis=2>(")
WEIGHT_ONLY = "wd = DequantizeLinear<axis=1>(w, ws, wz) y = MatMul(x, wd)"
HALF_SCALES = {"s": f16(0.1), "ws": np.full(32, 0.1, f16)}
GATHERED = LINEAR.replace("MatMul(d", "MatMul(t").replace("wd =", "t = Gather<axis=1>(d, i) wd =")
TWO_READERS = (
    "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) {} wd = DequantizeLinear<axis=1>(w, ws, wz) "
    "a = MatMul(d, wd) wd2 = DequantizeLinear<axis=1>(w2, ws, wz) c = MatMul({}, wd2) y = Add(a, c)"
)
ONE_PAIR = TWO_READERS.format("", "d")
TWO_PAIRS = TWO_READERS.format("q2 = QuantizeLinear(x, s2, z2) d2 = DequantizeLinear(q2, s2, z2)", "d2")
TWO_WEIGHTS = {**W8A8, "w2": 2 * np.ones((32, 32), i8)}
SECOND_PAIR = {"s2": f32(0.1), "z2": i8(0)}


def pair(x: str, name: str) -> str:
    return f" {name}_q = QuantizeLinear({x}, s, z) {name} = DequantizeLinear({name}_q, s, z)"


def attention(
    tokens: int = 8,
    width: int = 32,
    quantized: str = "",
    scale: str = "q",
    scores: bool = False,
    codes: object = i8(0),
) -> onnx.ModelProto:
    """softmax(q k^T) v of inputs q, k and v.

    Args:
        quantized: the operands with a pair, of the letters q, k, p and v.
        scale: what the scale multiplies, `q` or the scores `s`.
    """
    nodes, now = ["kt = Transpose<perm=[0,2,1]>(k)"], {"q": "q", "k": "kt", "p": "p", "v": "v"}
    if scale == "q":
        nodes.append("scaled = Mul(q, factor)")
        now["q"] = "scaled"
    for operand in "qkv":
        if operand in quantized:
            nodes.append(pair(now[operand], f"{operand}d"))
            now[operand] = f"{operand}d"
    nodes.append(f"a = MatMul({now['q']}, {now['k']})")
    last = "a"
    if scale == "s":
        nodes.append("b = Mul(a, factor)")
        last = "b"
    if scores:
        nodes.append(pair(last, "c"))
        last = "c"
    nodes.append(f"p = Softmax<axis=-1>({last})")
    if "p" in quantized:
        nodes.append(pair("p", "pd"))
        now["p"] = "pd"
    nodes.append(f"y = MatMul({now['p']}, {now['v']})")
    shape = f"float[1,{tokens},{width}]"
    constants = {"factor": f32(0.2), "s": f32(0.1), "z": codes}
    return model(" ".join(nodes), constants, f"{shape} q, {shape} k, {shape} v", f"{shape} y")


def layer_norm(kind: str) -> onnx.ModelProto:
    number = f16 if kind == "float16" else f32
    body = (
        "mean = ReduceMean(x, last) c = Sub(x, mean) square = Pow(c, two) variance = ReduceMean(square, last) "
        "shifted = Add(variance, eps) root = Sqrt(shifted) y = Div(c, root)"
    )
    constants = {"last": np.array([-1]), "two": number(2), "eps": number(1e-5)}
    return model(body, constants, **(HALF if kind == "float16" else {}))


def external(location: str) -> onnx.ModelProto:
    """A model whose weight lies in the file `location`, which is not there."""
    proto = model("y = Add(x, a)", {"a": np.ones(32, f32)})
    (tensor,) = proto.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return proto


def nameless() -> onnx.ModelProto:
    proto = model("y = Relu(x)")
    proto.graph.node[0].name = ""
    return proto


PLUGIN = 'y = viq.Foo<plugin_namespace = "viq", plugin_version = "1">(x)'
FUNCTION = '<domain: "viq", opset_import: ["": 21]> Foo <plugin_namespace, plugin_version> (x) => (y) {y = Relu(x)}'
PLAIN_FUNCTION = '<domain: "viq", opset_import: ["": 21]> Foo (x) => (y) {y = Relu(x)}'


def plugin(body: str = PLUGIN, functions: str = "") -> onnx.ModelProto:
    return model(body, domains='"viq": 1', functions=functions)


@dataclass(frozen=True, eq=False)
class Example:
    """A file that breaks a rule, and one that does not."""

    breaks: onnx.ModelProto
    clean: onnx.ModelProto
    target: LintTarget = "tensorrt"
    version: tuple[int, int] = OLDEST_TENSORRT


def linear(constants: Mapping[str, object] = {}, body: str = LINEAR, **shape: object) -> onnx.ModelProto:
    return model(body, {**W8A8, **constants}, **shape)


def runtime(breaks: onnx.ModelProto, clean: onnx.ModelProto) -> Example:
    return Example(breaks, clean, "onnxruntime")


good, good_pair = linear(), model(QDQ, PAIR)
CONV = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) wd = DequantizeLinear<axis=0>(w, ws, wz) "
CONV_CONSTANTS = {**PAIR, "w": np.ones((4, 3, 2, 2), i8), "ws": np.full(4, 0.1, f32), "wz": np.zeros(4, i8)}
CONV_SHAPES = {"inputs": "float[N,3,8,8] x", "outputs": "float[N,4,7,7] y"}
INT4 = {"w": np.ones((32, 32), ml_dtypes.int4), "wz": np.zeros(32, ml_dtypes.int4)}
GELU = "a = Mul(x, root) e = Erf(a) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)"
GEMM = LINEAR.replace("MatMul(d, wd)", "Gemm(d, wd, b)")
TRANSPOSED = LINEAR.replace("MatMul(d", "MatMul(t").replace("wd =", "t = Transpose<perm=[0,1,2]>(d) wd =")
CLIPPED = LINEAR.replace("z) d = DequantizeLinear(q", "z) c = Clip(q, lo, hi) d = DequantizeLinear(c")
NARROW = {"w": np.ones((32, 8), i8), "ws": np.full(8, 0.1, f32), "wz": np.zeros(8, i8)}

EXAMPLES: dict[str, Example] = {
    "ONNX101": Example(model(QDQ, {**PAIR, "s": f32(0)}), good_pair),
    "ONNX102": runtime(model(QDQ, {**PAIR, "s": f32(np.inf)}), good_pair),
    "ONNX103": Example(model(QDQ, {**PAIR, "s": f32(1e-40)}), good_pair),
    "ONNX104": Example(model(QDQ.replace("(q, s", "(q, t"), {**PAIR, "t": f32(0.2)}), good_pair),
    "TRT101": Example(linear({"z": i8(3)}), good),
    "TRT102": Example(linear({"w": np.ones((32, 32), u8), "wz": np.zeros(32, u8)}), good),
    "TRT103": Example(model("q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", {"s": f32(0.1)}), good_pair),
    "TRT104": Example(model(QDQ, {**PAIR, "z": np.int16(0)}), good_pair),
    "TRT105": Example(
        linear(
            {"b": np.ones(32, np.int32), "bs": f32(0.01), "bz": np.int32(0)},
            BIASED.replace("y = Add(m, b)", "bd = DequantizeLinear(b, bs, bz) y = Add(m, bd)"),
        ),
        linear({"b": BIAS}, BIASED),
    ),
    "TRT106": Example(model(QDQ, {**PAIR, "z": np.asarray(0, ml_dtypes.int4)}), good_pair),
    "TRT107": Example(model(PER_CHANNEL_QDQ, PER_CHANNEL_PAIR), good_pair),
    "TRT108": Example(
        model(
            QDQ.replace("Linear(", "Linear<axis=2, block_size=16>("),
            {"s": np.full((1, 8, 2), 0.1, f32), "z": np.zeros((1, 8, 2), i8)},
        ),
        good_pair,
    ),
    "TRT109": Example(model(QDQ, PAIR, "float16[1,8,32] x"), model(QDQ, HALF_PAIR, **HALF)),
    "TRT110": Example(model(QDQ, {"s": f32(0.1)}, "float[1,8,32] x, int8 z"), good_pair),
    "TRT111": Example(model(QDQ, {"z": i8(0)}, "float[1,8,32] x, float s"), good_pair),
    "TRT112": Example(linear(body=LINEAR.replace("axis=1", "axis=0")), good),
    "TRT201": Example(
        model(f"{pair('x', 'd')} r = Relu(x) y = Add(d, r)", PAIR),
        model(f"{pair('x', 'd')} r = Relu(x) y = Add(d, one)", {**PAIR, "one": f32(1)}),
    ),
    "TRT202": Example(
        linear(body=LINEAR.replace("y = MatMul", "m = MatMul") + pair("m", "o") + " y = Relu(o)"),
        linear(body=LINEAR.replace("y = MatMul", "m = MatMul") + pair("m", "o") + " y = MatMul(o, wd)"),
    ),
    "TRT203": Example(model("q = QuantizeLinear(x, s, z) y = Cast<to=1>(q)", PAIR), good_pair),
    "TRT204": Example(model("y = DequantizeLinear(x, s, z)", PAIR, "int8[1,8,32] x"), good_pair),
    "TRT205": Example(model(f"{pair('x', 'd')} y = Softmax(d)", PAIR), good),
    "TRT206": Example(model(TWO_PAIRS, {**TWO_WEIGHTS, **SECOND_PAIR}), model(ONE_PAIR, TWO_WEIGHTS)),
    "TRT207": Example(linear(NARROW, outputs="float[1,8,8] y"), good),
    "TRT208": Example(linear(body=WEIGHT_ONLY), good),
    "ONNX301": runtime(model(QDQ, HALF_PAIR, opset=17, **HALF), model(QDQ, HALF_PAIR, opset=19, **HALF)),
    "ONNX302": runtime(model("y = Gelu(x)", opset=19), model("y = Gelu(x)", opset=20)),
    "ONNX303": Example(model("y = Add(x, a)", {"a": f16(1)}), model("y = Add(x, a)", {"a": f32(1)})),
    "ONNX304": Example(model("y = Add(x, a)", {"a": f32(np.inf)}), model("y = Add(x, a)", {"a": f32(-np.inf)})),
    "TRT301": Example(model("y = Relu(x)", opset=6), model("y = Relu(x)", opset=7)),
    "TRT302": Example(
        model("h = Cast<to=10>(a) y = Add(x, h)", {"a": f32(-1e9)}, **HALF),
        model("h = Cast<to=10>(a) y = Add(x, h)", {"a": f32(-6e4)}, **HALF),
    ),
    "TRT303": Example(model("y = Cast<to=1>(x)", {}, "double[1,8,32] x"), model("y = Relu(x)")),
    "TRT304": Example(model("y = Relu(x)", {}, "float[1,8,32] x, string[1] t"), model("y = Relu(x)")),
    "TRT305": Example(good, linear(HALF_SCALES, **HALF)),
    "TRT306": Example(
        model("t = Transpose<perm=[0,2,1]>(x) y = Cast<to=1>(t)", {}, "uint8[1,8,32] x"),
        model("t = Cast<to=1>(x) y = Transpose<perm=[0,2,1]>(t)", {}, "uint8[1,8,32] x"),
    ),
    "TRT401": Example(attention(quantized="qk"), attention(quantized="qkpv")),
    "TRT402": Example(attention(513, quantized="qkpv"), attention(512, quantized="qkpv")),
    "TRT403": Example(attention(scale="s"), attention(scale="q")),
    "TRT404": Example(attention(scores=True), attention()),
    "TRT405": Example(
        attention(width=8, quantized="qkpv", codes=np.asarray(0, ml_dtypes.float8_e4m3fn)),
        attention(width=16, quantized="qkpv", codes=np.asarray(0, ml_dtypes.float8_e4m3fn)),
    ),
    "TRT501": Example(layer_norm("float"), layer_norm("float16")),
    "TRT502": Example(layer_norm("float16"), layer_norm("float")),
    "TRT503": Example(
        model(GELU, {"root": f32(0.70710678), "one": f32(1), "half": f32(0.5)}),
        model(GELU, {"root": f32(0.9), "one": f32(1), "half": f32(0.5)}),
    ),
    "TRT601": Example(
        model("y = com.microsoft.QuickGelu(x)", domains='"com.microsoft": 1'), model("y = Gelu(x)")
    ),
    "TRT602": Example(model("y = com.microsoft.Gelu(x)", domains='"com.microsoft": 1'), model("y = Gelu(x)")),
    "TRT603": Example(
        model(
            'y = "qonnx.custom_op.general".Quant(x, s, n, b)'.replace('"', ""),
            {"s": f32(0.1), "n": f32(0), "b": f32(6)},
            domains='"qonnx.custom_op.general": 1',
        ),
        good_pair,
    ),
    "TRT604": Example(model("q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z)"), good_pair),
    "TRT605": Example(plugin("y = viq.Foo(x)"), plugin("y = viq.Foo(x)", PLAIN_FUNCTION)),
    "TRT606": Example(plugin(functions=FUNCTION), plugin()),
    "TRT607": Example(plugin(PLUGIN.replace('"viq"', '"other"')), plugin()),
    "TRT608": Example(
        plugin(PLUGIN.replace("<", "<tensorrt_plugin_shape_input_indices = [1], ")),
        plugin(PLUGIN.replace("<", "<tensorrt_plugin_shape_input_indices = [0], ")),
    ),
    "TRT609": Example(plugin('y = viq.Foo<plugin_namespace = "viq">(x)'), plugin()),
    "TRT610": Example(plugin(), plugin("y = viq.Foo(x)", PLAIN_FUNCTION)),
    "RTX601": Example(plugin(), plugin(functions=FUNCTION), "tensorrt-rtx"),
    "ORT601": runtime(plugin("y = viq.Foo(x)"), plugin("y = viq.Foo(x)", PLAIN_FUNCTION)),
    "ONNX701": Example(external("weights.bin"), model("y = Add(x, a)", {"a": BIAS})),
    "TRT701": Example(
        model("y = Relu(x)", {}, "float[N,8,W] x", "float[N,8,W] y"),
        model("y = Relu(x)", {}, "float[N,8,32] x", "float[N,8,32] y"),
    ),
    "TRT702": Example(model("y = Det(x)", {}, "float[1,4,4] x", "float[1] y"), model("y = Relu(x)")),
    "TRT703": Example(nameless(), model("y = Relu(x)")),
    "ORT201": runtime(linear(body=TRANSPOSED, **FREE), linear({"z": u8(128)}, TRANSPOSED, **FREE)),
    "ORT202": runtime(linear({"b": BIAS}, BIASED), linear({"b": BIAS.reshape(1, 1, 32)}, BIASED)),
    "ORT203": runtime(linear({"b": BIAS}, GEMM, **ROWS), linear(body=LINEAR, **ROWS)),
    "ORT204": runtime(model(ONE_PAIR, TWO_WEIGHTS, **FREE), model(TWO_PAIRS, {**TWO_WEIGHTS, **SECOND_PAIR}, **FREE)),
    "ORT205": runtime(linear(PER_CHANNEL_PAIR, PER_CHANNEL_LINEAR, **FREE), linear(**FREE)),
    "ORT206": runtime(linear(body=WEIGHT_ONLY, **FREE), linear(**FREE)),
    "ORT207": runtime(linear(INT4, **FREE), linear(**FREE)),
    "ORT208": runtime(linear(HALF_SCALES, **HALF), linear(**FREE)),
    "ORT209": runtime(linear({"lo": i8(-32), "hi": i8(31)}, CLIPPED, **FREE), linear(**FREE)),
    "ORT210": runtime(
        model(CONV + "y = Conv(d, wd)", CONV_CONSTANTS, **CONV_SHAPES),
        model(CONV + "m = Conv(d, wd) " + pair("m", "y"), CONV_CONSTANTS, **CONV_SHAPES),
    ),
    "ORT211": runtime(
        linear({"i": np.arange(8)}, GATHERED, **FREE),
        linear(**FREE),
    ),
    "ORT212": runtime(linear(body=LINEAR.replace("Linear(x", "Linear<output_dtype=3>(x"), **FREE), linear(**FREE)),
    "ORT213": runtime(
        linear(
            body=LINEAR.replace("Linear(x, s, z)", "Linear<output_dtype=3>(x, s)").replace("(q, s, z)", "(q, s)"),
            **FREE,
        ),
        linear(**FREE),
    ),
}  # fmt: skip
