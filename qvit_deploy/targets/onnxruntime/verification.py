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

from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import Plan, SitePlan, WeightPlan
from qvit_deploy.targets.forced_comparison import Comparison, compare_forced, compared, require_close
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.tasks.metrics import agreement, sqnr_db

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


def verify(float_graph: Graph, emitted: EmittedGraph, plan: Plan, images: np.ndarray) -> Verification:
    """Verifies the `onnxruntime` profile of a plan on `images` float32 [n, C, H, W].

    Raises:
        CheckError: the graph is not what was planned, codes differ, a site's output is off, or a quantized linear was
            not fused; names the site.
    """
    _as_planned(emitted, plan)
    model = emitted.to_proto().SerializeToString()
    runtime = target.session(model)
    batch = emitted.static_batch
    logits = target.run(runtime, images, batch)[0]
    float_logits = _executor_logits(Executor(float_graph), images, batch)
    executor = Executor(emitted)
    simulated = _executor_logits(executor, images, batch)

    probed = probe_images(images, batch)
    forced = _forced(executor, emitted, plan, probed)
    fused = target.fusion(model)
    linears = sum(p.site.kind == "linear" for p in plan.sites.values())
    in_float = [name for name, p in plan.sites.items() if not p.grid.on_integers]
    expected = sum(p.site.kind != "conv" for p in plan.sites.values()) - len(in_float)
    result = Verification(
        profile="onnxruntime",
        **comparison_fields(images, probed, forced),
        logits_error=float(np.abs(logits - simulated).max() / max(np.abs(simulated).max(), 1e-12)),
        logits_agreement=agreement(simulated, logits),
        float_sqnr_db=sqnr_db(float_logits, logits),
        float_agreement=agreement(float_logits, logits),
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


def fold_error(source: Graph, folded: Graph, images: np.ndarray) -> float:
    """Largest difference of the two float models' logits on `images`, relative to the largest logit.

    Raises:
        CheckError: it passes `FOLD_TOLERANCE`, so a fold is not the identity it is meant to be.
    """
    logits, found = (_executor_logits(Executor(g), images, g.static_batch) for g in (source, folded))
    error = float(np.abs(found - logits).max() / max(np.abs(logits).max(), 1e-12))
    if error > FOLD_TOLERANCE:
        raise CheckError(
            f"verification: folding scales into the float model moved its logits by {error:.1e} of the largest; turn "
            "the folds off one by one in a recipe (fold, fold_heads) and report the model"
        )
    return error


def _as_planned(emitted: EmittedGraph, plan: Plan) -> None:
    """The graph holds the plan's weight codes and every scale of it. Raises CheckError naming the site."""
    for name, site in plan.sites.items():
        if not _is_planned(emitted, name, site):
            raise CheckError(f"verification: site {name!r} was not emitted as planned")


def _is_planned(emitted: EmittedGraph, name: str, site: SitePlan) -> bool:
    """Whether the product of `site` reads the values it was emitted with, made of the plan's numbers."""
    product = emitted.product(name)
    if product is None:
        return False
    made = [None if value is None else value.producer() for value in product.inputs[:2]]
    read = [None if node is None else node.outputs[0].name for node in made]
    good = read == [operand.value for operand in emitted.sites[name].operands]
    good = good and all(_is_scaled(node, grid) for node, (_, grid) in zip(made, site.operands, strict=False))
    if isinstance(site, WeightPlan):
        wanted = site.codes, site.weight_scale
        good = good and all(_is_equal(made[1], i, array) for i, array in enumerate(wanted))
    return good


def _is_scaled(made: ir.Node | None, grid: Grid) -> bool:
    """Whether the node that makes an operand multiplies by the number that the grid says."""
    op_type = "DequantizeLinear" if grid.on_integers else "Mul"
    right = made is not None and made.op_type == op_type
    return right and _is_equal(made, 1, np.asarray(grid.emitted_scale, np.float32))


def _is_equal(node: ir.Node | None, index: int, wanted: np.ndarray) -> bool:
    """Whether input `index` of the node is this constant."""
    found = None if node is None else constant(node.inputs[index])
    return found is not None and np.array_equal(wanted, found)


def _executor_logits(executor: Executor, images: np.ndarray, static_batch: int | None) -> np.ndarray:
    size = static_batch or 8
    chunks = []
    with torch.no_grad():
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            missing = (static_batch or len(chunk)) - len(chunk)
            padded = np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)]) if missing else chunk
            chunks.append(executor.logits(torch.from_numpy(padded)).cpu().numpy()[: len(chunk)])
    return np.concatenate(chunks)


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
