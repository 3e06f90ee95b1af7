"""Prints the digest of every file that a fixed set of compiles writes, to prove that a change of code changes no file.

    python tools/measure/golden.py WORK > before.txt
    python tools/measure/golden.py WORK --against before.txt

Three demo models and one small ONNX file, each at w8a8, at a mean of 5 bits and at w4a4 with integer attention, for all
targets and in one thread. The digests depend on the processor and on the versions of the libraries: compare two runs of
one machine. The bundles stay in WORK, so that differences can be examined; a bundle that exists is replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track

TARGETS = ("onnxruntime-fused", "openvino", "tensorrt", "tensorrt-rtx", "tensorrt-plugin")
RECIPES = {
    "w8a8": 'uniform = "w8a8"\n',
    "mean5": "mean_bits = 5\n",
    "w4a4-attention": 'uniform = "w4a4"\nattention = "integer"\n',
}
MODELS = ("demo:vit", "demo:deit", "demo:swin", "small.onnx")
SIZE, PATCH, WIDTH, HEADS, CLASSES = 16, 4, 32, 2, 5
TOKENS = (SIZE // PATCH) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--against", type=Path, help="digests of an earlier run; exit code 1 where one differs")
    parser.add_argument("--model", action="append", choices=MODELS, help="only these, for a quick look")
    arguments = parser.parse_args()
    work: Path = arguments.work
    write_small_model(work)
    jobs = [(model, name) for model in arguments.model or MODELS for name in RECIPES]
    lines = [line for job in track(jobs, "compile", console=Console(stderr=True)) for line in compiled(work, *job)]
    print("\n".join(lines))
    if arguments.against is not None:
        before = digests(arguments.against.read_text(encoding="utf-8").splitlines())
        after = digests(lines)
        bundles = {bundle_name(*job) for job in jobs}
        names = {name for name in before.keys() | after.keys() if name.partition("/")[0] in bundles}
        changed = sorted(name for name in names if before.get(name) != after.get(name))
        print(f"{len(changed)} of {len(names)} files differ", *changed, sep="\n  ", file=sys.stderr)
        sys.exit(bool(changed))


def digests(lines: Iterable[str]) -> dict[str, str]:
    """Parses the lines that a run printed into SHA-256 by file."""
    pairs = (line.split("  ", 1) for line in lines)
    return {name: digest for digest, name in pairs}


def bundle_name(model: str, recipe: str) -> str:
    """Returns the folder of a bundle, below WORK."""
    return f"{Path(model).stem.replace(':', '-')}-{recipe}"


def compiled(work: Path, model: str, recipe: str) -> Iterator[str]:
    """Compiles `model` by the recipe of that name and yields a line `sha256  bundle/file` for each file."""
    name = bundle_name(model, recipe)
    text = RECIPES[recipe] + f"targets = {json.dumps(TARGETS)}\n"
    (work / f"{name}.toml").write_text(text, encoding="utf-8")
    arguments = [model, "-o", name, "--recipe", f"{name}.toml", "--force"]
    if model.endswith(".onnx"):
        arguments += ["--calib", "small.npz", "--preprocess", "small.json"]
    done = subprocess.run(
        [sys.executable, "-m", "qvit_deploy", "compile", *arguments], cwd=work, check=False, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.splitlines()[-1]}")
    for path in sorted(p for p in (work / name).rglob("*") if p.is_file()):
        yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(work).as_posix()}"


def write_small_model(work: Path) -> None:
    """Writes small.onnx, a transformer of one block on 3 x 16 x 16 images, with images and preprocessing for it."""
    work.mkdir(parents=True, exist_ok=True)
    onnx.save(small_model(), work / "small.onnx")
    preprocess = {"input_size": [3, SIZE, SIZE], "mean": [0.5], "std": [0.5], "interpolation": "bilinear"}
    (work / "small.json").write_text(json.dumps(preprocess), encoding="utf-8")
    images = np.random.default_rng(1).integers(0, 256, (96, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(work / "small.npz", images=images)


def small_model() -> onnx.ModelProto:
    """Makes a block with separate query, key and value and a decomposed GELU, as old exporters write it, and a head."""
    random = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def constant(value: np.ndarray, name: str = "") -> str:
        name = name or f"constant.{len(constants)}"
        constants[name] = value
        return name

    def op(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{kind}.{len(nodes)}"], f"{kind}.{len(nodes)}", **attributes))
        return str(nodes[-1].output[0])

    def weight(name: str, *shape: int) -> str:
        scale = 2 * np.prod(shape[:-1]) ** -0.5 if len(shape) == 2 else 2 * np.prod(shape[1:]) ** -0.5
        return constant((random.standard_normal(shape) * scale).astype(np.float32), name)

    def bias(name: str, size: int) -> str:
        return constant((random.standard_normal(size) * 0.2).astype(np.float32), name)

    def linear(x: str, name: str, rows: int, columns: int) -> str:
        return op("Add", op("MatMul", x, weight(f"{name}.weight", rows, columns)), bias(f"{name}.bias", columns))

    def norm(x: str, name: str) -> str:
        gamma = constant(random.uniform(0.5, 1.5, WIDTH).astype(np.float32), f"{name}.weight")
        return op("LayerNormalization", x, gamma, bias(f"{name}.bias", WIDTH), axis=-1, epsilon=1e-6)

    def heads(x: str, *permutation: int) -> str:
        shape = constant(np.array([0, TOKENS, HEADS, WIDTH // HEADS]))
        return op("Transpose", op("Reshape", x, shape), perm=permutation)

    def scalar(value: float) -> str:
        return constant(np.float32(value))

    kernel = weight("patch.weight", WIDTH, 3, PATCH, PATCH)
    x = op("Conv", "image", kernel, bias("patch.bias", WIDTH), kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH])
    x = op("Transpose", op("Reshape", x, constant(np.array([0, WIDTH, TOKENS]))), perm=(0, 2, 1))
    x = op("Add", x, weight("position", 1, TOKENS, WIDTH))
    normed = norm(x, "norm1")
    query, key, value = (linear(normed, name, WIDTH, WIDTH) for name in ("query", "key", "value"))
    scores = op("MatMul", heads(query, 0, 2, 1, 3), heads(key, 0, 2, 3, 1))
    scores = op("Softmax", op("Mul", scores, scalar((WIDTH // HEADS) ** -0.5)), axis=-1)
    mixed = op("Transpose", op("MatMul", scores, heads(value, 0, 2, 1, 3)), perm=(0, 2, 1, 3))
    mixed = op("Reshape", mixed, constant(np.array([0, TOKENS, WIDTH])))
    x = op("Add", x, linear(mixed, "proj", WIDTH, WIDTH))
    hidden = linear(norm(x, "norm2"), "fc1", WIDTH, 4 * WIDTH)
    erf = op("Add", op("Erf", op("Div", hidden, scalar(2**0.5))), scalar(1))
    hidden = op("Mul", op("Mul", hidden, erf), scalar(0.5))
    x = op("Add", x, linear(hidden, "fc2", 4 * WIDTH, WIDTH))
    x = op("ReduceMean", norm(x, "norm"), constant(np.array([1])), keepdims=0)
    logits = linear(x, "head", WIDTH, CLASSES)
    nodes[-1].output[0] = "logits"
    assert logits
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


if __name__ == "__main__":
    main()
