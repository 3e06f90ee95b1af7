from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qvit_deploy.errors import InputError
from qvit_deploy.frontend.budget import MAX_NODES, READ_BYTES, bounded_memory, require_few_nodes
from qvit_deploy.frontend.onnx_file import from_onnx

DOMAIN = "pkg"


def nested(levels: int) -> onnx.ModelProto:
    """Function F_n calls F_(n-1) twice, and F_0 is one node: 2^n nodes in a file of n."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    bodies = [[helper.make_node("Identity", ["a"], ["b"])]]
    for i in range(1, levels):
        names = (["a"], ["t"], ["b"])
        bodies.append([helper.make_node(f"F{i - 1}", *names[j : j + 2], domain=DOMAIN) for j in range(2)])
    functions = [helper.make_function(DOMAIN, f"F{i}", ["a"], ["b"], body, opsets) for i, body in enumerate(bodies)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy")
    call = helper.make_node(f"F{levels - 1}", ["x"], ["y"], domain=DOMAIN)
    graph = helper.make_graph([call], "g", [x], [y])
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


def test_nodes_are_counted_before_functions_are_inlined() -> None:
    require_few_nodes(nested(10), "m.onnx")
    with pytest.raises(InputError, match=rf"m\.onnx has 1,099,511,627,776 nodes once .* more than {MAX_NODES:,}"):
        require_few_nodes(nested(41), "m.onnx")


def test_a_function_that_calls_itself_through_another() -> None:
    model = nested(3)
    model.functions[0].node[0].domain, model.functions[0].node[0].op_type = DOMAIN, "F2"
    with pytest.raises(InputError, match=r"function .F[02]. calls itself"):
        require_few_nodes(model, "m.onnx")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds what a process may take")
def test_a_constant_larger_than_memory_is_refused(tmp_path: Path) -> None:
    """300 bytes that ask for 64 GB."""
    import resource

    size = numpy_helper.from_array(np.array([2**34]), "size")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(InputError, match=r"m\.onnx asks for more than 2\.1 GB while its graph is read"):
        from_onnx(tmp_path / "m.onnx")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds what a process may take")
def test_the_bound_can_be_raised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="qvit-deploy --read-memory 8"), bounded_memory(tmp_path / "m.onnx"):
        np.ones(2**29)
    token = READ_BYTES.set(2**33)
    try:
        with bounded_memory(tmp_path / "m.onnx"):
            assert np.empty(2**29).nbytes == 2**32
    finally:
        READ_BYTES.reset(token)
