"""Verifies the files in half precision, each against the `onnxruntime` file of the same plan.

Both run in ONNX Runtime on the CPU. What is proved, and what is only measured:

1. **Proved**: for every quantized site, the `onnxruntime` file's quantizer and products are fed the half-precision
   file's own tensor (widened to float32, which changes no value); the integer codes must be equal, every one, and the
   site's output must agree to `OUTPUT_TOLERANCE` of its largest value.
2. **Measured**: the share of codes that are equal when both files run freely from the image on. Float16 between the
   quantizers moves values across rounding boundaries, so it is not 1.
3. **Checked**: logits are finite, and against the float model the file is at most `LOST_DB` worse than the
   `onnxruntime` file, or than `FLOAT16_DB` where that is better still.

Packed sites are verified inside too (`targets.tensorrt.packed.verification`): their codes must be those of the
`onnxruntime` file, and their constants the plan's.

What an engine built from the file computes is not covered here: that takes a device (`engine.run.check`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit import names
from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.local_functions import DOMAIN, writes_codes
from qvit_deploy.errors import CheckError
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.graph.edit import remove_unused
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import Plan, SitePlan, WeightPlan
from qvit_deploy.targets.forced_comparison import probe_images
from qvit_deploy.targets.onnxruntime import runtime as onnxruntime
from qvit_deploy.targets.onnxruntime.tensors import probe
from qvit_deploy.targets.tensorrt.half.casts import WIDE
from qvit_deploy.targets.tensorrt.half.keep_fp32 import SCALE_ERROR
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph
from qvit_deploy.targets.tensorrt.packed.verification import (
    ComparedCodes,
    inlined,
    is_in_body,
    is_planned,
    outputs,
)
from qvit_deploy.targets.tensorrt.verified import HalfVerification
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

OUTPUT_TOLERANCE = 1e-2
"""Largest allowed difference of a site's output, relative to the largest magnitude of the tensor or of its bias, which
the sum may cancel: weights, bias, scales and the sum itself are each rounded to float16 (2^-11 = 5e-4), and other terms
cancel too (CaiT's class token: 6e-3)."""
LOST_DB = 3.0
"""How much SQNR half precision may cost: 3 dB are noise as large as that of quantization itself."""
FLOAT16_DB = 50.0
"""No higher SQNR than this is required: hundreds of roundings to float16, each at about -70 dB, leave 55 to 70 dB."""


@dataclass(frozen=True)
class _Comparison:
    """How the half-precision graph compares with the `onnxruntime` graph.

    Attributes:
        codes: how many codes were compared.
        free_codes_equal: share of them that are equal when both graphs run freely.
        worst_site, worst_site_error: the site whose output differs most given equal inputs, and by how much relative
            to its largest value.
    """

    codes: int
    free_codes_equal: float
    worst_site: str
    worst_site_error: float


def verify_half(
    float_graph: Graph, reference: EmittedGraph, emitted: HalfGraph, images: Examples[np.ndarray], task: Task = CLASSIFY
) -> HalfVerification:
    """Verifies the graph of `emitted` on `images`.

    Args:
        float_graph: the model before quantization.
        reference: the `onnxruntime` graph of the same plan.

    Raises:
        CheckError: the graph is not what was planned, codes differ, a site's output is off, or the logits are not
            usable; names the site.
    """
    half, plan = emitted.graph, emitted.plan
    _require_plan(half, plan, emitted.packed)
    batch = half.static_batch
    outputs, expected, exact = (
        onnxruntime.outputs(onnxruntime.session(g.serialize()), images, batch) for g in (half, reference, float_graph)
    )
    task.require_finite(outputs, "verification: the half-precision file")
    probed = probe_images(images, batch)
    comparison = _compare(reference, emitted, probed)
    worst_site, error = comparison.worst_site, comparison.worst_site_error
    if error > OUTPUT_TOLERANCE:
        raise CheckError(
            f"verification: in half precision site {worst_site!r} gives an output off by {error:.1e} of its range"
        )
    sqnr, reference_sqnr = task.sqnr_db(exact, outputs), task.sqnr_db(exact, expected)
    if sqnr < min(reference_sqnr, FLOAT16_DB) - LOST_DB:
        raise CheckError(
            f"verification: half precision takes the SQNR against the float model from {reference_sqnr:.1f} to "
            f"{sqnr:.1f} dB on {len(images)} images; a plan fitted to few images loses that on any others "
            "too: use more"
        )
    return HalfVerification(
        images=len(images),
        probe_images=len(probed),
        codes=comparison.codes,
        code_mismatches=0,
        worst_site=worst_site,
        worst_site_error=error,
        free_codes_equal=comparison.free_codes_equal,
        reference_sqnr_db=task.sqnr_db(expected, outputs),
        reference_agreement=task.agreement(expected, outputs),
        float_sqnr_db=sqnr,
        float_agreement=task.agreement(exact, outputs),
        sites=len(plan.sites),
        packed=len(emitted.packed),
        norms=sum(writes_codes(node) for node in half.nodes()),
        in_float=emitted.in_float,
        float32=emitted.float32,
    )


def _compare(reference: EmittedGraph, emitted: HalfGraph, images: Examples[np.ndarray]) -> _Comparison:
    """Compares the codes and the sites' outputs of both graphs on `images`. Raises CheckError."""
    graph, packed = inlined(emitted, reference)
    plain = [
        ComparedCodes(name, source := _source(node), name, _unsuffixed(source))
        for node in graph.nodes()
        if node.op_type == "QuantizeLinear" and not is_in_body(node) and (name := node.outputs[0].name or "")
    ]
    site_of_output = outputs(emitted)
    # What a quantizer reads is fetched even where it is a mere Cast: ONNX Runtime would else merge it with the one
    # that narrows its producer's float32 result, and quantize that.
    codes = sorted([*plain, *packed], key=lambda c: c.name)
    fetch = list(dict.fromkeys([*(c.name for c in codes), *(c.source for c in codes), *site_of_output]))
    half = dict(zip(fetch, probe(graph, images, fetch), strict=True))
    forced: dict[str, np.ndarray] = {}
    # One after the other: a shift is added in front of what a plain quantizer reads, and inside of a packed operator.
    packed_sites = set(emitted.packed)
    for group, sites in ((plain, set(emitted.plan.sites) - packed_sites), (packed, packed_sites)):
        group_outputs = [name for name, site in site_of_output.items() if site in sites]
        forced |= _forced(reference, group, group_outputs, half)
    fetch = list(dict.fromkeys(c.reference for c in codes))
    free = dict(zip(fetch, probe(reference, images, fetch), strict=True))
    count, equal = _compare_codes(codes, half, forced, free)
    site, error = _worst_output(emitted.plan, site_of_output, half, forced)
    return _Comparison(count, equal / max(count, 1), site, error)


def _forced(
    reference: EmittedGraph, codes: list[ComparedCodes], outputs: list[str], half: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the codes and the sites' outputs that `reference` gives when its quantizers are fed those of `half`."""
    if not codes and not outputs:
        return {}
    feeds = {c.reference_source: half[c.source].astype(np.float32) for c in codes}
    values = _run_fed(reference, feeds, [*dict.fromkeys(c.reference for c in codes), *outputs])
    return {c.name: c.expected(values[c.reference]) for c in codes} | {name: values[name] for name in outputs}


def _compare_codes(
    codes: list[ComparedCodes],
    half: dict[str, np.ndarray],
    forced: dict[str, np.ndarray],
    free: dict[str, np.ndarray],
) -> tuple[int, int]:
    """Returns (codes compared, how many are equal when both graphs run freely).

    Raises:
        CheckError: given equal inputs a code differs.
    """
    count = equal = 0
    for code in codes:
        actual, expected, unforced = half[code.name], forced[code.name], code.expected(free[code.reference])
        # In the other file a row may have an axis more.
        different = int((actual.reshape(expected.shape) != expected).sum())
        if different:
            raise CheckError(
                f"verification: {different} of {actual.size} codes of {code.reference!r} differ between the "
                "half-precision and the onnxruntime file"
            )
        count += actual.size
        equal += int((actual.reshape(unforced.shape) == unforced).sum())
    return count, equal


def _worst_output(
    plan: Plan, site_of_output: dict[str, str], half: dict[str, np.ndarray], forced: dict[str, np.ndarray]
) -> tuple[str, float]:
    """Returns the site whose output differs most, given equal inputs, and by how much relative to its largest value."""
    worst_site, worst_error = "", 0.0
    for name, site_name in site_of_output.items():
        expected, site = forced[name], plan.sites[site_name]
        actual = half[name].astype(np.float32).reshape(expected.shape)
        bias = site.bias if isinstance(site, WeightPlan) else None
        largest = max(float(np.abs(v).max()) for v in (expected, *([] if bias is None else [bias])))
        error = float(np.abs(actual - expected).max()) / max(largest, 1e-12)
        if not error < worst_error:  # a NaN is the worst
            worst_site, worst_error = site_name, error if error == error else float("inf")
    return worst_site, worst_error


def _source(quantize: ir.Node) -> str:
    """Returns the tensor that a QuantizeLinear, with the Clip in front of it if there is one, reads."""
    value = quantize.inputs[0]
    clip = value.producer() if value is not None else None
    if clip is not None and clip.op_type == "Clip":
        value = clip.inputs[0]
    assert value is not None and value.name is not None
    return value.name


def _unsuffixed(name: str) -> str:
    """Returns the name that a tensor has in the file where it is not cast."""
    return name.removesuffix(f".{WIDE}")


def _run_fed(graph: Graph, feeds: dict[str, np.ndarray], fetch: list[str]) -> dict[str, np.ndarray]:
    """Returns the tensors `fetch` as ONNX Runtime computes them when the tensors in `feeds` are given."""
    cut = graph.clone()
    model = cut.model.graph
    values = {v.name: v for v in (*model.inputs, *(v for node in model for v in node.outputs))}
    fetched = [values[name] for name in fetch]
    entries = []
    for name in feeds:
        computed, entry = values[name], ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        if computed.producer() is None:
            continue  # the image itself
        ir.convenience.replace_all_uses_with(computed, entry, replace_graph_outputs=True)
        computed.name = f"{name}.computed"
        entries.append(entry)
    model.inputs.extend(entries)
    model.outputs.clear()
    model.outputs.extend(fetched)
    remove_unused(cut.model)
    for value in [v for v in model.inputs if not v.uses() and not v.is_graph_output()]:
        model.inputs.remove(value)
    session = onnxruntime.session(cut.serialize())
    names = {i.name for i in session.get_inputs()}
    arrays = session.run([v.name for v in fetched], {n: a for n, a in feeds.items() if n in names})
    return dict(zip(fetch, (np.asarray(a) for a in arrays), strict=True))


def _require_plan(half: EmittedGraph, plan: Plan, packed: Collection[str]) -> None:
    """Raises CheckError unless the graph holds the plan's weight codes and scales.

    Scales of activations, and of packed weights, must be exact; those of other weights may be rounded to float16.
    """
    calls = {n.name: n for n in half.nodes() if n.domain == DOMAIN}
    for name, site in plan.sites.items():
        if name in packed:
            call = calls.get(names.call(name))
            as_planned = call is not None and is_planned(call, site)
        else:
            product = half.product(name)
            as_planned = product is not None and _has_plan(product, site)
        if not as_planned:
            raise CheckError(f"verification: site {name!r} was not emitted as planned in half precision")


def _has_plan(product: ir.Node, site: SitePlan) -> bool:
    """Returns whether the product's operands have the scales, and its weight the codes, of the site's plan."""
    if not all(_has_grid(product, operand, grid) for operand, (_, grid) in enumerate(site.operands)):
        return False
    if not isinstance(site, WeightPlan):
        return True
    dequantize = _dequantize(product, 1)
    if dequantize is None:
        return False
    codes, scale = constant(dequantize.inputs[0]), constant(dequantize.inputs[1])
    if codes is None or scale is None or not np.array_equal(codes, site.codes):
        return False
    return _close(scale, site.weight_scale, site.codes)


def _has_grid(product: ir.Node, operand: int, grid: Grid) -> bool:
    dequantize = _dequantize(product, operand)
    codes = dequantize.inputs[0] if dequantize is not None else None
    quantize = codes.producer() if codes is not None else None
    if dequantize is None or quantize is None or quantize.op_type != "QuantizeLinear":
        return False
    planned = float(np.float32(grid.emitted_scale))
    scale, dequantize_scale = constant(quantize.inputs[1]), constant(dequantize.inputs[1])
    assert scale is not None and dequantize_scale is not None
    return float(scale) == planned and abs(float(dequantize_scale) - planned) <= SCALE_ERROR * planned


def _dequantize(product: ir.Node, operand: int) -> ir.Node | None:
    """Returns the DequantizeLinear that an operand of the product comes from, or None."""
    value = product.inputs[operand]
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _close(scale: np.ndarray, planned: np.ndarray, codes: np.ndarray) -> bool:
    """Returns whether every scale of a channel with any code but 0 is the planned one, up to rounding to float16."""
    by_channel = codes.any(axis=0) if codes.ndim == 2 else codes.any(axis=tuple(range(1, codes.ndim)))
    error = np.abs(scale.astype(np.float32) - planned)
    return bool((error <= SCALE_ERROR * planned)[by_channel].all())
