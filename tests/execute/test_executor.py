"""Running a graph: taps, fetching, overrides, errors."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from qvit_deploy.errors import InputError, UnsupportedOpError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.examples import Examples
from tests.support.graphs.single_node import as_graph, onnxruntime_outputs, single_node

Tensor = torch.Tensor
torch.set_num_threads(1)


def _model() -> onnx.ModelProto:
    """image [batch, 4] -> linear `product`, `hidden` -> Gelu `act` -> Split `left`, `right` -> `sum`, `logits`."""
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((4, 6)), "b": random.standard_normal(6), "v": random.standard_normal((3, 2)),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["image", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["hidden"]),
        helper.make_node("Gelu", ["hidden"], ["act"]),
        helper.make_node("Split", ["act"], ["left", "right"], axis=1, num_outputs=2),
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("MatMul", ["sum", "v"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", 3]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model


NAMES = ["image", "product", "hidden", "act", "left", "right", "sum", "logits"]


@pytest.fixture
def executor() -> Executor:
    return Executor(as_graph(_model()))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def test_outputs_are_those_of_onnx_runtime(executor: Executor, images: Tensor) -> None:
    computed = executor.run(Examples.images(images))
    assert list(computed) == ["logits", "sum"]
    for ours, theirs in zip(computed.values(), onnxruntime_outputs(_model(), images.numpy()), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)
    assert torch.equal(executor.run(Examples.images(images))["logits"], computed["logits"])


def test_a_tap_reads_every_tensor_without_changing_the_result(executor: Executor, images: Tensor) -> None:
    seen: dict[str, Tensor] = {}
    taps = {name: (lambda tensor, name=name: seen.update({name: tensor})) for name in NAMES}
    logits = executor.run(Examples.images(images), taps)["logits"]
    assert list(seen) == NAMES
    torch.testing.assert_close(logits, executor.run(Examples.images(images))["logits"])
    torch.testing.assert_close(torch.cat([seen["left"], seen["right"]], 1), seen["act"])


@pytest.mark.parametrize("name", NAMES)
def test_a_tap_replaces_a_tensor_downstream(name: str, executor: Executor, images: Tensor) -> None:
    """Running with a tensor taken from another image is running that image from there on."""
    other = images.flip(0)
    value = executor.run(Examples.images(other), fetch=[name])[name]
    patched = executor.run(Examples.images(images), {name: lambda _: value}, fetch=[name, "logits"])
    assert patched[name] is value
    if name not in ("left", "right"):  # each of these carries only half of what follows
        torch.testing.assert_close(patched["logits"], executor.run(Examples.images(other))["logits"])
    else:
        both = executor.run(Examples.images(other), fetch=["left", "right"])
        logits = executor.run(Examples.images(images), {n: (lambda _, n=n: both[n]) for n in both})["logits"]
        torch.testing.assert_close(logits, executor.run(Examples.images(other))["logits"])


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_fork_is_a_run_with_the_tensor_replaced(name: str, executor: Executor, images: Tensor) -> None:
    others = [lambda x: 2 * x, lambda x: x.flip(0)]
    outputs, branched = executor.run_branches(
        Examples.images(images), {}, {name: lambda x: (other(x) for other in others)}
    )
    torch.testing.assert_close(outputs, executor.run(Examples.images(images)))
    assert list(branched) == [name] and len(branched[name]) == len(others)
    for changed, other in zip(branched[name], others, strict=True):
        torch.testing.assert_close(changed, executor.run(Examples.images(images), {name: other}))
        assert not torch.allclose(changed["logits"], outputs["logits"])


def test_forks_do_not_see_each_other_and_taps_see_the_run_once(executor: Executor, images: Tensor) -> None:
    calls: list[str] = []
    branches = {name: (lambda x: [torch.zeros_like(x), x]) for name in ("hidden", "left", "right")}
    taps = {name: (lambda _, name=name: calls.append(name)) for name in ("act", "sum")}
    outputs, branched = executor.run_branches(Examples.images(images), taps, branches)
    assert calls == ["act", "sum"]
    for name, (zeroed, same) in branched.items():
        torch.testing.assert_close(same, outputs)
        torch.testing.assert_close(zeroed, executor.run(Examples.images(images), {name: torch.zeros_like}))


@pytest.mark.parametrize("name", ["image", "nowhere"])
def test_what_the_graph_does_not_compute_cannot_be_forked(name: str, executor: Executor, images: Tensor) -> None:
    with pytest.raises(KeyError, match=name):
        executor.run_branches(Examples.images(images), {}, {name: lambda x: [x]})


def test_taps_apply_once_and_calls_do_not_remember_them(executor: Executor, images: Tensor) -> None:
    before = executor.run(Examples.images(images))["logits"]
    executor.run(Examples.images(images), {"product": torch.zeros_like, "act": torch.zeros_like})
    assert torch.equal(executor.run(Examples.images(images))["logits"], before)


def test_observing_a_product_splits_the_linear_kernel_only_in_rounding(executor: Executor, images: Tensor) -> None:
    torch.testing.assert_close(
        executor.run(Examples.images(images), fetch=["product", "logits"])["logits"],
        executor.run(Examples.images(images))["logits"],
    )


def test_fetch_keeps_its_order_and_stops_early(executor: Executor, images: Tensor) -> None:
    reached: list[str] = []
    taps = {"logits": lambda _: reached.append("logits"), "act": lambda _: reached.append("act")}
    assert list(executor.run(Examples.images(images), taps, fetch=["act", "image"])) == ["act", "image"]
    assert reached == ["act"]
    assert torch.equal(executor.run(Examples.images(images), fetch=["image"])["image"], images)


def test_an_unknown_tensor_is_named(executor: Executor, images: Tensor) -> None:
    with pytest.raises(KeyError, match="nowhere"):
        executor.run(Examples.images(images), fetch=["nowhere"])


def test_any_batch_runs(executor: Executor, images: Tensor) -> None:
    together = executor.run(Examples.images(images))["logits"]
    torch.testing.assert_close(
        torch.cat([executor.run(Examples.images(one))["logits"] for one in images.split(1)]), together
    )


def test_gradients_reach_the_image_and_a_replaced_tensor(executor: Executor, images: Tensor) -> None:
    leaf = images.clone().requires_grad_()
    inner = executor.run(Examples.images(images), fetch=["act"])["act"].requires_grad_()
    logits = executor.run(Examples.images(leaf), {"act": lambda _: inner})["logits"]
    logits.sum().backward()
    assert leaf.grad is None and inner.grad is not None and inner.grad.abs().min() > 0
    executor.run(Examples.images(leaf))["logits"].sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().min() > 0


def test_an_override_replaces_one_node(images: Tensor) -> None:
    graph = as_graph(_model())
    gelu = next(node for node in graph.nodes() if node.op_type == "Gelu")
    overridden = Executor(graph, overrides={gelu: torch.relu})
    hidden = overridden.run(Examples.images(images), fetch=["hidden", "act"])
    assert torch.equal(hidden["act"], hidden["hidden"].relu())


@pytest.mark.parametrize("op_type", ["MatMul", "Add"])
def test_an_override_keeps_a_linear_layer_apart(op_type: str, images: Tensor) -> None:
    """A replaced product or bias is called itself, not folded into the executor's own kernel."""
    graph = as_graph(_model())
    node = next(node for node in graph.nodes() if node.op_type == op_type)
    calls: list[tuple[int, ...]] = []

    def spy(a: Tensor, b: Tensor) -> Tensor:
        calls.append(tuple(b.shape))
        return a @ b if op_type == "MatMul" else a + b

    logits = Executor(graph, overrides={node: spy}).run(Examples.images(images))["logits"]
    assert len(calls) == 1
    torch.testing.assert_close(logits, Executor(graph).run(Examples.images(images))["logits"])


def test_constants_are_copies(images: Tensor) -> None:
    graph = as_graph(_model())
    before = Executor(graph).run(Examples.images(images))["logits"]
    with torch.no_grad():
        for constant in Executor(graph)._constants.values():
            constant.zero_()
    assert torch.equal(Executor(graph).run(Examples.images(images))["logits"], before)


def test_an_unsupported_operator_names_itself_and_its_node() -> None:
    model = single_node("NonZero", [np.float32([1.0])])
    with pytest.raises(UnsupportedOpError, match=r"operator NonZero .* is not supported: how many") as error:
        Executor(as_graph(model))
    assert error.value.op == "NonZero" and error.value.node == "node"


def test_a_foreign_domain_is_unsupported_even_with_a_known_name() -> None:
    graph = as_graph(single_node("Relu", [np.float32([1.0])]))
    next(graph.nodes()).domain = "com.example"
    with pytest.raises(UnsupportedOpError, match=r"com\.example\.Relu"):
        Executor(graph)


def test_all_unsupported_operators_are_named_with_their_number_and_first_node() -> None:
    model = single_node("Unique", [np.float32([1.0])])
    for i, op in enumerate(("NonZero", "NonZero", "MaxRoiPool", "Relu")):
        model.graph.node.append(onnx.helper.make_node(op, ["image"], [f"z{i}"], name=f"n{i}"))
    with pytest.raises(InputError) as error:
        Executor(as_graph(model))
    message = str(error.value)
    assert message.startswith("3 kinds of operators are not supported: operator Unique (node 'node')")
    assert "operator NonZero (2 nodes, the first 'n0')" in message and "MaxRoiPool (node 'n2')" in message
    assert "\n" not in message and "Relu" not in message


MAPS = np.zeros((1, 2, 4, 4), np.float32)
KERNEL = np.zeros((2, 2, 2, 2), np.float32)


@pytest.mark.parametrize(
    "op,inputs,attributes,why",
    [
        ("Conv", [MAPS, KERNEL], {"auto_pad": "SAME"}, "auto_pad"),
        ("MaxPool", [MAPS], {"kernel_shape": [2, 2], "outputs": 2}, "indices"),
        ("AveragePool", [MAPS[..., None, None]], {"kernel_shape": [2, 2, 1, 1]}, "4 axes"),
        (
            "Resize",
            [MAPS, np.zeros(8, np.float32), np.ones(4, np.float32)],
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            "tf_crop_and_resize",
        ),
        ("Cast", [MAPS], {"to": TensorProto.FLOAT8E4M3FN}, "FLOAT8E4M3FN"),
        (
            "ScatterND",
            [MAPS, np.zeros((1, 4), np.int64), np.zeros(1, np.float32)],
            {"reduction": "mul"},
            "reduction",
        ),
        (
            "QuantizeLinear",
            [MAPS, np.ones((1, 2, 2, 4), np.float32), np.zeros((1, 2, 2, 4), np.int8)],
            {"axis": 2, "block_size": 2},
            "block",
        ),
        ("QuantizeLinear", [MAPS, np.float32(1)], {"output_dtype": TensorProto.FLOAT8E4M3FN}, "FLOAT8E4M3FN"),
    ],
)
def test_unsupported_attributes_are_refused_when_the_executor_is_made(
    op: str, inputs: list[np.ndarray], attributes: dict[str, object], why: str
) -> None:
    model = single_node(op, [np.asarray(a) for a in inputs], **attributes)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOpError, match=why):
        Executor(as_graph(model))


def test_half_precision_initializers_run_as_float32() -> None:
    model = single_node("Mul", [np.float32([1.0, 2.0]), np.float32([0.5])])
    graph = as_graph(model)
    value = graph.initializers["c1"]
    value.const_value = ir.tensor(np.float16([0.5]), name="c1")
    (result,) = Executor(graph).run(Examples.images(torch.tensor([1.0, 2.0]))).values()
    assert result.dtype == torch.float32


def test_outputs_that_are_one_for_all_examples_are_repeated() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 21]> g (float[N,3,8,8] x) => (float[2] c, float[N,3,8,8] y) '
        "<float[2] k = {1.0, 2.0}> { c = Add(k, k) y = Relu(x) }"
    )
    executor = Executor(canonicalize(ir.from_proto(model), "m"))
    batch = Examples.images(torch.randn(5, 3, 8, 8))
    assert executor.run(batch)["c"].tolist() == [[2.0, 4.0]] * 5
    assert executor.run(batch, fetch=["y", "c"])["c"].shape == (5, 2)
    outputs, branched = executor.run_branches(batch, {}, {"y": lambda y: [y]})
    assert outputs["c"].shape == branched["y"][0]["c"].shape == (5, 2)
