"""Layer information in the formats of 10.x and 11, written here after NVIDIA's documentation: no engine was run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.run.layer_info import engine_layers, read_layers

PRODUCTS = {"qkv": "attn.qkv/MatMul", "qk": "attn/MatMul", "fc1": "mlp.fc1/MatMul", "fc2": "mlp.fc2/MatMul"}


def tensor(kind: str, eleven: bool) -> dict[str, Any]:
    if eleven:
        return {"Name": "t", "Dimensions": [1, 50, 96], "Format": "Row major linear", "Datatype": kind}
    return {"Name": "t", "Dimensions": [1, 50, 96], "Format/Datatype": kind}


def layer(name: str, kind: str, tactic: str, types: list[str], nodes: list[str], eleven: bool) -> dict[str, Any]:
    return {
        "Name": name, "LayerType": kind, "TacticName": tactic, "StreamId": 0,
        "Inputs": [tensor(t, eleven) for t in types], "Outputs": [tensor("Half", eleven)],
        "Metadata": "\x1e".join(f"[ONNX Layer: {n}]" for n in nodes),
    }  # fmt: skip


def information(eleven: bool) -> str:
    layers = [
        layer("attn.qkv_myl0_3", "gemm", "sm80_xmma_gemm_i8f16_i8i32_f16_tn_n", ["Int8", "Int8", "Half"],
              ["attn.qkv/MatMul", "attn.qkv/Add"], eleven),
        layer("_gemm_mha_v2_myl0_7", "kgen", "_gemm_mha_v2_0x8a", ["Half", "Half", "Half"],
              ["attn/MatMul", "attn.softmax/Softmax", "attn/MatMul_1"], eleven),
        layer("Reformatting CopyNode for Input", "Reformat", "0x0", ["Half"], ["mlp.fc1/MatMul"], eleven),
        layer("mlp.fc1_myl0_9", "gemm", "sm80_xmma_gemm_f16f16_f16f32", ["Half", "Half"], ["mlp.fc1/MatMul"], eleven),
        layer("mlp.fc2/MatMul", "PluginV3", "qvit_w4a4", ["Int8", "Int8"], [], eleven),
    ]  # fmt: skip
    return json.dumps({"Layers": layers, "I/O Tensors" if eleven else "Bindings": ["image", "logits"]})


@pytest.mark.parametrize("eleven", [False, True], ids=["10", "11"])
def test_every_site_is_told_what_runs_it(eleven: bool) -> None:
    layers = engine_layers(read_layers(information(eleven)), {**PRODUCTS, "head": "head/MatMul"})
    kernels = {s.site: (s.kernel, s.attention) for s in layers.sites}
    assert kernels == {
        "qkv": ("int8", False), "qk": ("float", True), "fc1": ("float", False), "fc2": ("plugin", False),
        "head": ("missing", False),
    }  # fmt: skip
    assert (layers.layers, layers.reformats) == (5, 1)
    assert layers.sites[2].tactic == "sm80_xmma_gemm_f16f16_f16f32"
    failures = layers.failures(attention=["qk"], plugins=["fc2"])
    assert len(failures) == 2
    assert failures[0].startswith("fc1: mlp.fc1_myl0_9 runs it in floating point")
    assert failures[1] == "head: no layer of the engine names its product"


@pytest.mark.parametrize("eleven", [False, True], ids=["10", "11"])
def test_what_was_expected_and_is_not_there_is_said(eleven: bool) -> None:
    layers = engine_layers(read_layers(information(eleven)), {"fc1": "mlp.fc1/MatMul", "qkv": "attn.qkv/MatMul"})
    (fused, plugin) = layers.failures(attention=["fc1"], plugins=["qkv"])
    assert "its attention is not fused" in fused and "no plugin runs it" in plugin


def test_a_classical_layer_tells_int8_by_its_operands() -> None:
    text = json.dumps({"Layers": [layer("fc1", "CaskGemm", "0x1f", ["Row major linear INT8"] * 2, ["n"], False)]})
    (site,) = engine_layers(read_layers(text), {"fc1": "n"}).sites
    assert site.kernel == "int8"


@pytest.mark.parametrize(
    "tactic", ["sm80_xmma_gemm_f16f16_f16f32", "sm86_cutlass_s16816gemm_f16", "gemm_k128s8x2_f16", ""]
)
def test_names_of_float_kernels_are_not_taken_for_int8(tactic: str) -> None:
    text = json.dumps({"Layers": [layer("fc1", "gemm", tactic, ["Half", "Int8"], ["n"], True)]})
    assert engine_layers(read_layers(text), {"fc1": "n"}).sites[0].kernel == "float"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "not JSON"), ("[]", "no list of Layers"), ('{"Layers": 3}', "no list of Layers"),
     ('{"Layers": ["fc1", "fc2"]}', "detailed profiling verbosity")],
)  # fmt: skip
def test_other_texts_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_layers(text)
