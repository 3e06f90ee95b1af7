"""Verification: the emitted file, run by the target's runtime, against the executor and against the float model.

Three questions, each answered with numbers:

1. Does the runtime compute the codes we planned? The executor is run on the emitted graph with every quantizer's
   input *forced* to the runtime's own tensor; then codes must be equal, integer for integer, and every site's output
   must agree to float tolerance. (Free-running graphs cannot be compared code by code: a difference of one float
   ulp upstream moves a value across a rounding boundary.)
2. Is it free-running close? Logits of the two, same images, nothing forced.
3. What did quantization cost? Logits against the float model: SQNR and top-1 agreement.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.grid import Grid
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.quantize.ranges.attention import inner_grid
from qvit_deploy.quantize.ranges.softmax import LogGrid
from qvit_deploy.targets.batches import in_batches
from qvit_deploy.targets.forced_comparison import Comparison, compare_forced, compared, require_close
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.metrics import relative_error
from qvit_deploy.tasks.task import Task, arrays

FOLD_TOLERANCE = 1e-3
"""Largest allowed difference of the folded float model's logits from the source's, relative to the largest logit."""

PROBE_IMAGES = 4
"""Images of the code check: every quantizer's float input is held at once, and thousands of codes per image are
plenty to find a wrong scale."""


@dataclass(frozen=True)
class CodesCompared:
    """What the verification of every file begins with; written into the manifest.

    Attributes:
        images: images of the comparison of logits; codes are compared on the first `probe_images`.
        codes, code_mismatches: activation codes compared with both sides fed alike, and how many differed (must be 0).
        worst_site, worst_site_error: the site whose output differs most then.
    """

    images: int
    probe_images: int
    codes: int
    code_mismatches: int
    worst_site: str
    worst_site_error: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Verification(CodesCompared):
    """How the `onnxruntime` file compared with the executor.

    Attributes:
        logits_error: runtime against executor, free running, relative to the largest logit.
        logits_agreement: share of images with equal top-1, runtime against executor.
        float_sqnr_db: 10 log10(sum y^2 / sum (y - y')^2) against the float model.
        float_agreement: share of images whose top-1 is the float model's.
        integer_products, expected_integer_products: fused in the runtime's own optimized graph.
        float_products: sites that are quantized but, with logarithmic codes, planned to multiply in floating point;
            not among the expected ones.
        optimized_ops: operator counts of that graph.
    """

    profile: str
    logits_error: float
    logits_agreement: float
    float_sqnr_db: float
    float_agreement: float
    integer_products: int
    expected_integer_products: int
    float_products: list[str]
    optimized_ops: dict[str, int]


def verify(float_graph: Graph, emitted: Graph, plan: Plan, images: np.ndarray, task: Task = CLASSIFY) -> Verification:
    """Verifies the `onnxruntime` profile of a plan on `images` float32 [n, C, H, W].

    Raises:
        CheckError: the graph is not what was planned, codes differ, a site's output is off, or a quantized linear was
            not fused; names the site.
    """
    _as_planned(emitted, plan)
    model = emitted.to_proto().SerializeToString()
    runtime = target.session(model)
    batch = emitted.static_batch
    outputs = target.outputs(runtime, images, batch)
    exact = executor_outputs(Executor(float_graph), images, batch)
    executor = Executor(emitted)
    simulated = executor_outputs(executor, images, batch)

    probed = probe_images(images, batch)
    forced = _forced(executor, emitted, plan, probed)
    fused = target.fusion(model)
    linears = sum(p.site.kind == "linear" for p in plan.sites.values())
    in_float = [name for name, p in plan.sites.items() if isinstance(inner_grid(p.grid), LogGrid)]
    expected = sum(p.site.kind != "conv" for p in plan.sites.values()) - len(in_float)
    result = Verification(
        profile="onnxruntime",
        **comparison_fields(images, probed, forced),
        logits_error=relative_error(task.signal(simulated), task.signal(outputs)),
        logits_agreement=task.agreement(simulated, outputs),
        float_sqnr_db=task.sqnr_db(exact, outputs),
        float_agreement=task.agreement(exact, outputs),
        integer_products=fused.integer_products,
        expected_integer_products=expected,
        float_products=in_float,
        optimized_ops=fused.ops,
    )
    require_close(forced, "onnxruntime")
    if fused.float_linears or fused.integer_products < linears:
        left = ", ".join(fused.float_linears[:3])
        raise CheckError(
            f"verification: ONNX Runtime fused {fused.integer_products} of {linears} quantized linears"
            + (f"; still in float: {left}" if left else "")
        )
    if fused.integer_products < expected:
        logging.getLogger(__name__).warning(
            "ONNX Runtime runs %d quantized attention products in float", expected - fused.integer_products
        )
    if fused.float_convolutions:
        logging.getLogger(__name__).warning(
            "ONNX Runtime runs %d quantized convolutions in float", len(fused.float_convolutions)
        )
    return result


def comparison_fields(images: np.ndarray, probed: np.ndarray, forced: Comparison) -> dict[str, Any]:
    """The fields of `CodesCompared`: logits were compared on `images`, codes on `probed`."""
    return {
        "images": len(images),
        "probe_images": len(probed),
        "codes": forced.codes,
        "code_mismatches": 0,  # `compare_forced` lets none pass
        "worst_site": forced.worst_site,
        "worst_site_error": forced.worst_error,
    }


def probe_images(images: np.ndarray, static_batch: int | None) -> np.ndarray:
    """The images that codes are compared on: the first few, or as many as a fixed batch takes, some repeated if need
    be."""
    if static_batch is None:
        return images[:PROBE_IMAGES]
    return np.resize(images, (static_batch, *images.shape[1:]))


def fold_error(source: Graph, folded: Graph, images: np.ndarray, task: Task = CLASSIFY) -> float:
    """Largest difference of the two float models' signals (logits) on `images`, relative to the largest value.

    Raises:
        CheckError: it passes `FOLD_TOLERANCE`, so a fold is not the identity it is meant to be.
    """
    outputs = (executor_outputs(Executor(g), images, g.static_batch) for g in (source, folded))
    error = relative_error(*(task.signal(o) for o in outputs))
    if error > FOLD_TOLERANCE:
        raise CheckError(
            f"verification: folding scales into the float model moved its {task.words.signal} by {error:.1e} of the "
            "largest; turn the folds off one by one in a recipe (fold, fold_heads) and report the model"
        )
    return error


def _as_planned(emitted: Graph, plan: Plan) -> None:
    """The graph holds the plan's weight codes and every scale of it. Raises CheckError naming the site."""
    readers = {v.name: n for n in emitted.nodes() if n.op_type in ("MatMul", "Conv") for v in n.outputs}
    for site in plan.sites.values():
        # Emitting may put a bias or a Squeeze behind the product, so that it goes by another name.
        output = site.site.output
        names = [site.site.product, f"{output}.raw", f"{output}.row"]
        product = next((readers[n] for n in names if n in readers), None)
        planned = [_grid_of(product, 0, site.grid)]
        if site.second_grid is not None:
            planned.append(_grid_of(product, 1, site.second_grid))
        elif site.codes is not None and site.weight_scale is not None:
            planned += [(site.codes, _read(product, 1, 0)), (site.weight_scale, _read(product, 1, 1))]
        if any(found is None or not np.array_equal(wanted, found) for wanted, found in planned):
            raise CheckError(f"verification: site {site.site.name!r} was not emitted as planned")


def _grid_of(product: ir.Node | None, operand: int, grid: Grid) -> tuple[np.ndarray, np.ndarray | None]:
    """(the number that scales the operand's codes, the one found in the graph)."""
    inner = inner_grid(grid)
    if not isinstance(inner, LogGrid):
        return np.asarray(inner.scale, np.float32), _read(product, operand, 1)
    value = product.inputs[operand] if product is not None else None
    scaled = value.producer() if value is not None else None
    found = constant(scaled.inputs[1]) if scaled is not None and scaled.op_type == "Mul" else None
    return np.asarray(inner.largest, np.float32), found


def _read(product: ir.Node | None, operand: int, parameter: int) -> np.ndarray | None:
    """Input `parameter` (0 codes, 1 scale) of the DequantizeLinear behind an operand, when it is constant."""
    value = product.inputs[operand] if product is not None else None
    dequantize = value.producer() if value is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    return constant(dequantize.inputs[parameter])


def executor_outputs(executor: Executor, images: np.ndarray, static_batch: int | None) -> dict[str, np.ndarray]:
    """The outputs of the executor's graph for `images` float32 [n, C, H, W] by name, each [n, ...]."""

    def run(chunk: np.ndarray) -> list[np.ndarray]:
        return list(arrays(executor.run(torch.from_numpy(chunk))).values())

    with torch.no_grad():
        return dict(zip(executor.outputs, in_batches(images, static_batch, run), strict=True))


def _forced(executor: Executor, emitted: Graph, plan: Plan, images: np.ndarray) -> Comparison:
    fetch = compared(emitted, plan)
    return compare_forced(executor, emitted, plan, images, dict(zip(fetch, probe(emitted, images, fetch), strict=True)))


def probe(emitted: Graph, images: np.ndarray, fetch: list[str]) -> list[np.ndarray]:
    """Intermediate tensors of the emitted graph as ONNX Runtime computes them: each made a graph output."""
    return fetched(emitted.to_proto(), images, emitted.static_batch, fetch)


def fetched(proto: onnx.ModelProto, images: np.ndarray, static_batch: int | None, fetch: list[str]) -> list[np.ndarray]:
    """The tensors `fetch` of `proto` (which gets them as outputs), as ONNX Runtime computes them."""
    known = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fetch if name not in known)
    return target.run(target.session(proto.SerializeToString()), images, static_batch, fetch)
