import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend import load_model
from qvit_deploy.frontend.onnx_file import from_onnx
from qvit_deploy.frontend.timm_model import create
from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.onnxruntime.runtime import session
from tests.support.models.torch_models import TINY, HuggingFaceStyleViT, assert_same, torchscript_onnx


@pytest.fixture(scope="module")
def hugging_face() -> tuple[HuggingFaceStyleViT, bytes]:
    torch.manual_seed(0)
    module = HuggingFaceStyleViT()
    return module, torchscript_onnx(module, (3, 32, 32), 14)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [13, 14, 17])
def test_torchscript_exports(tmp_path: Path, opset: int) -> None:
    module, _ = create("vit_tiny_patch16_224", dict(TINY))
    for block in module.blocks:
        block.attn.fused_attn = opset > 13  # opset 13 has no symbolic for fused attention
    (tmp_path / "m.onnx").write_bytes(torchscript_onnx(module, (3, 32, 32), opset))
    graph = from_onnx(tmp_path / "m.onnx")
    assert graph.static_batch is None
    names = set(graph.initializers)
    assert {"patch_embed.proj.weight", "blocks.1.attn.qkv.weight", "blocks.0.mlp.fc1.bias", "head.weight"} <= names
    ops = [node.op_type for node in graph.nodes()]
    assert ops.count("LayerNormalization") == 5
    assert ops.count("Gelu") == 2
    assert_same(graph, module)


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_names(tmp_path: Path, hugging_face: tuple[HuggingFaceStyleViT, bytes]) -> None:
    module, data = hugging_face
    (tmp_path / "m.onnx").write_bytes(data)
    graph = from_onnx(tmp_path / "m.onnx")
    prefix = "vit.encoder.layer.0.attention.attention"
    assert {f"{prefix}.query.weight", f"{prefix}.query.bias", "classifier.weight"} <= set(graph.initializers)
    assert_same(graph, module)


@pytest.mark.filterwarnings("ignore")
def test_a_fixed_batch_file(tmp_path: Path) -> None:
    module = HuggingFaceStyleViT()
    (tmp_path / "m.onnx").write_bytes(torchscript_onnx(module, (3, 32, 32), 14, dynamic=False))
    graph = from_onnx(tmp_path / "m.onnx")
    assert graph.static_batch == 2
    assert_same(graph, module, batches=(2,))


def test_opset_23_with_attention_operators(tmp_path: Path) -> None:
    module, _ = create("vit_tiny_patch16_224", dict(TINY))
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 3, 32, 32),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=23,
        verbose=False,
    )
    program.save(tmp_path / "m.onnx")
    assert "Attention" in {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    graph = load_model(str(tmp_path / "m.onnx")).graph
    assert_same(graph, module)
    qk = next(node for node in graph.nodes() if node.name == "blocks.0.attn/MatMul")
    assert qk.inputs[0].producer().op_type == "Mul"
    assert qk.outputs[0].uses()[0].node.op_type == "Softmax"


def save_external(data: bytes, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(onnx.load_from_string(data), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    return path


def test_external_data(tmp_path: Path, hugging_face: tuple[HuggingFaceStyleViT, bytes]) -> None:
    module, data = hugging_face
    assert_same(from_onnx(save_external(data, tmp_path)), module)


def test_external_data_that_is_missing_or_short(
    tmp_path: Path, hugging_face: tuple[HuggingFaceStyleViT, bytes]
) -> None:
    path = save_external(hugging_face[1], tmp_path)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        from_onnx(path)
    weights.unlink()
    with pytest.raises(InputError, match="missing"):
        from_onnx(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin"])
def test_external_data_outside_the_folder(
    tmp_path: Path, hugging_face: tuple[HuggingFaceStyleViT, bytes], location: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_external(hugging_face[1], folder)
    (tmp_path / "secret.bin").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="outside"):
        from_onnx(path)


def test_unusable_files(tmp_path: Path, hugging_face: tuple[HuggingFaceStyleViT, bytes]) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_model(str(tmp_path / "none.onnx"))
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match="not a file"):
        load_model(str(tmp_path / "folder.onnx"))
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"hello", hugging_face[1][: len(hugging_face[1]) // 2]):
        broken.write_bytes(content)
        with pytest.raises(InputError):
            load_model(str(broken))
    with pytest.raises(InputError, match=r"\.onnx"):
        from_onnx(tmp_path / "model.pt")


def test_a_quantized_file_is_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 21]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) '
        "<float s = {0.1}, int8 z = {0}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    onnx.save(model, tmp_path / "q.onnx")
    with pytest.raises(InputError, match="already quantized"):
        from_onnx(tmp_path / "q.onnx")


def test_reading_onnx_needs_no_torch(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 21]> g (float[N,3,8,8] x) => (float[N,3,8,5] y) { y = MatMul(x, w) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 5), np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = sys.modules['onnxscript'] = None;"
        "from pathlib import Path; from qvit_deploy.frontend.onnx_file import from_onnx;"
        f"print(from_onnx(Path({str(tmp_path / 'm.onnx')!r})).interface.image_size)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(3, 8, 8)"


def small(body: str, functions: str = "", domains: str = "", **constants: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 21{domains}]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) '
        f"{{ {body} }} {functions}"
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return model


PAIR = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
FUNCTION = '<domain: "my", opset_import: ["" : 21]> F (a, s, z) => (b) ' + (
    "{ q = QuantizeLinear(a, s, z) b = DequantizeLinear(q, s, z) }"
)
BRANCH = (
    "t = Cast<to=9>(s) y = If(t) <then_branch = a () => (float[N,3,8,8] u) { q = QuantizeLinear(x, s, z) "
    "u = DequantizeLinear(q, s, z) }, else_branch = b () => (float[N,3,8,8] w) { w = Relu(x) }>"
)


@pytest.mark.parametrize(
    "model",
    [small("y = my.F(x, s, z)", FUNCTION, ', "my" : 1', **PAIR), small(BRANCH, **PAIR)],
    ids=["in a local function", "in a branch"],
)
def test_quantizers_are_found_wherever_they_are(tmp_path: Path, model: onnx.ModelProto) -> None:
    onnx.save(model, tmp_path / "q.onnx")
    with pytest.raises(InputError, match=r"already quantized \(QuantizeLinear"):
        from_onnx(tmp_path / "q.onnx")


def test_nan_that_nothing_reads_is_dropped(tmp_path: Path) -> None:
    onnx.save(small("d = Add(x, dead) y = Relu(x)", dead=np.full(8, np.nan, np.float32)), tmp_path / "m.onnx")
    assert not from_onnx(tmp_path / "m.onnx").initializers


def test_stale_shapes_are_of_no_account(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = small("a = Relu(x) y = MatMul(a, w)", w=np.eye(8, dtype=np.float32))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [7, 7, 7]))
    model.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 5
    onnx.save(model, tmp_path / "m.onnx")
    graph = from_onnx(tmp_path / "m.onnx")
    assert [str(d) for d in graph.outputs[0].shape or ()] == ["batch", "3", "8", "8"]
    assert not "".join(capfd.readouterr()) and not caplog.records


@pytest.mark.parametrize("width", [8, 64])
def test_a_constant_listed_twice_is_what_onnx_runtime_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, width: int
) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 21]> g (float[N,3,8,{width}] x) => (float[N,3,8,{width}] y) '
        "{ y = Add(x, w) }"
    )
    for value in (1.0, 2.0):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.full(width, value, np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    image = np.zeros((1, 3, 8, width), np.float32)
    expected, got = (
        session(m.SerializeToString()).run(None, {name: image})[0]
        for m, name in ((model, "x"), (from_onnx(tmp_path / "m.onnx").to_proto(), "image"))
    )
    np.testing.assert_array_equal(got, expected)
    assert "lists the constant 'w' 2 times" in caplog.text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("classes", [1, 5])
def test_of_initializers_of_one_name_that_counts_which_onnxruntime_reads(
    tmp_path: Path, copies: int, classes: int
) -> None:
    rng = np.random.default_rng(0)
    bias = [numpy_helper.from_array(rng.standard_normal((48, classes), np.float32), "b") for _ in range(copies)]
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["flat"]), helper.make_node("Add", ["flat", "b"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    shape = numpy_helper.from_array(np.array([2, 48, 1]), "shape")
    graph = helper.make_graph(nodes, "g", inputs, outputs, [*bias, shape])
    path = tmp_path / "twice.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    x = rng.standard_normal((2, 3, 4, 4), np.float32)
    (wanted,) = ort.InferenceSession(path).run(None, {"x": x})
    got = Executor(from_onnx(path)).run(Examples.images(torch.from_numpy(x)))["y"]
    np.testing.assert_array_equal(got.numpy(), wanted)


def _linear() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _short_data(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:7]


def _unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 405


def _undefined_input(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nobody"


def _recursive_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("F", ["x"], ["y"], domain="pkg")
    model.functions.append(helper.make_function("pkg", "F", ["x"], ["y"], [node], [helper.make_opsetid("pkg", 1)]))
    model.opset_import.append(helper.make_opsetid("pkg", 1))
    model.graph.node.append(helper.make_node("F", ["x"], ["z"], domain="pkg"))


def _wrong_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"]))
    model.graph.node[0].attribute.append(helper.make_attribute("value", [1, 2]))
    model.graph.node.append(helper.make_node("Add", ["y", "c"], ["z"]))
    model.graph.output[0].name = "z"


def _outside_name(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="\0")


@pytest.mark.parametrize(
    "damage", [_short_data, _unknown_type, _undefined_input, _recursive_function, _wrong_attribute, _outside_name]
)
def test_a_damaged_graph_is_one_error_of_the_file(tmp_path: Path, damage: Callable[[onnx.ModelProto], None]) -> None:
    model = _linear()
    damage(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError):
        from_onnx(tmp_path / "m.onnx")


def _relu(outputs: list[str], ir_version: int = 9) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    given = [x if name == "x" else onnx.ValueInfoProto(name=name) for name in outputs]
    w = numpy_helper.from_array(np.full((3, 1, 1), 2, np.float32), "w")
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], given, [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=ir_version)


def test_an_output_that_is_the_input_leaves_the_input_its_shape(tmp_path: Path) -> None:
    for outputs in (["y", "x"], ["x", "y"]):
        onnx.save(_relu(outputs), tmp_path / "m.onnx")
        graph = from_onnx(tmp_path / "m.onnx")
        assert graph.interface.image_size == (3, 8, 8)
        assert [output.name for output in graph.outputs] == outputs


def test_a_size_of_minus_one_is_open(tmp_path: Path) -> None:
    model = _relu(["y"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, tmp_path / "m.onnx")
    assert from_onnx(tmp_path / "m.onnx").static_batch is None


@pytest.mark.parametrize("first", [False, True])
def test_weights_that_are_listed_as_inputs(tmp_path: Path, first: bool) -> None:
    """As before version 4 of the file format they had to be."""
    model = _relu(["y"], ir_version=3)
    model.graph.input.insert(0 if first else 1, helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 1, 1]))
    onnx.save(model, tmp_path / "m.onnx")
    graph = from_onnx(tmp_path / "m.onnx")
    x = torch.tensor([-1.0, 3.0]).repeat(1, 3, 8, 4)
    assert torch.equal(Executor(graph).run(Examples.images(x))["y"], 2 * x.relu())
