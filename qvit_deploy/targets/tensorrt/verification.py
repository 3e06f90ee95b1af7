"""Verification of the files in half precision: each against the `onnxruntime` file of the same plan.

Both run in ONNX Runtime on the CPU. What is proved, and what is only measured:

1. **Proved**: for every quantized site, the `onnxruntime` file's quantizer and products are fed the half-precision
   file's own tensor (widened to float32, which changes no value); the integer codes must be equal, every one, and the
   site's output must agree to `OUTPUT_TOLERANCE` of its largest value.
2. **Measured**: the share of codes that are equal when both files run freely from the image on. Float16 between the
   quantizers moves values across rounding boundaries, so it is not 1.
3. **Checked**: logits are finite, and against the float model the file is at most `LOST_DB` worse than the
   `onnxruntime` file, or than `FLOAT16_DB` where that is better still.

Packed sites are looked into (`packed_verification`): their codes must be those of the `onnxruntime` file too, and their
numbers the plan's.

What an engine built from the file computes is not covered here: that takes a device (`targets.tensorrt.engine.check`).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit import names
from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.local_functions import DOMAIN, writes_codes
from qvit_deploy.errors import CheckError
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.graph.edit import remove_unused
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import Plan, SitePlan, WeightPlan
from qvit_deploy.targets.forced_comparison import probe_images
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.targets.onnxruntime.tensors import probe
from qvit_deploy.targets.tensorrt.half.casts import WIDE
from qvit_deploy.targets.tensorrt.half.keep_fp32 import SCALE_ERROR
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph
from qvit_deploy.targets.tensorrt.packed.verification import Codes, is_inside, is_planned, opened, outputs
from qvit_deploy.targets.tensorrt.verified import HalfVerification
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

OUTPUT_TOLERANCE = 1e-2
"""Largest allowed difference of a site's output, relative to the largest magnitude of the tensor or of its bias, which
the sum may cancel: weights, bias, scales and the sum itself are each rounded to float16 (2^-11 = 5e-4), and other terms
cancel too (CaiT's class token: 6e-3)."""
LOST_DB = 3.0
"""What half precision may cost: noise as large as that of quantization itself."""
FLOAT16_DB = 50.0
"""Less noise than this is not asked for: hundreds of roundings to float16, each at about -70 dB, leave 55 to 70 dB."""


def verify_half(
    float_graph: Graph, reference: EmittedGraph, emitted: HalfGraph, images: np.ndarray, task: Task = CLASSIFY
) -> HalfVerification:
    """Verifies the graph of `emitted` on `images` float32 [n, C, H, W].

    Args:
        float_graph: the model before quantization.
        reference: the `onnxruntime` graph of the same plan.

    Raises:
        CheckError: the graph is not what was planned, codes differ, a site's output is off, or the logits are not
            usable; names the site.
    """
    half, plan = emitted.graph, emitted.plan
    _as_planned(half, plan, emitted.packed)
    batch = half.static_batch
    outputs, expected, exact = (
        target.outputs(target.session(g.serialize()), images, batch) for g in (half, reference, float_graph)
    )
    if not np.isfinite(task.signal(outputs)).all():
        raise CheckError("verification: the half-precision file gives NaN or infinity")
    probed = probe_images(images, batch)
    codes, equal, worst_site, worst_error = _compare(reference, emitted, probed)
    if worst_error > OUTPUT_TOLERANCE:
        raise CheckError(
            f"verification: in half precision site {worst_site!r} gives an output off by {worst_error:.1e} of its range"
        )
    found, wanted = task.sqnr_db(exact, outputs), task.sqnr_db(exact, expected)
    if found < min(wanted, FLOAT16_DB) - LOST_DB:
        raise CheckError(
            f"verification: half precision takes the SQNR against the float model from {wanted:.1f} to {found:.1f} dB "
            f"on {len(images)} calibration images; a plan fitted to few images loses that on any others too: use more"
        )
    return HalfVerification(
        images=len(images),
        probe_images=len(probed),
        codes=codes,
        code_mismatches=0,
        worst_site=worst_site,
        worst_site_error=worst_error,
        free_codes_equal=equal,
        reference_sqnr_db=task.sqnr_db(expected, outputs),
        reference_agreement=task.agreement(expected, outputs),
        float_sqnr_db=found,
        float_agreement=task.agreement(exact, outputs),
        sites=len(plan.sites),
        packed=len(emitted.packed),
        norms=sum(writes_codes(node) for node in half.nodes()),
        in_float=emitted.in_float,
        float32=emitted.float32,
    )


def _compare(reference: EmittedGraph, emitted: HalfGraph, images: np.ndarray) -> tuple[int, float, str, float]:
    """(codes compared, share equal when running freely, worst site, its output error). Raises CheckError."""
    graph, packed = opened(emitted, reference)
    plain = [
        Codes(name, source := _source(node), name, _unsuffixed(source))
        for node in graph.nodes()
        if node.op_type == "QuantizeLinear" and not is_inside(node) and (name := node.outputs[0].name or "")
    ]
    made = outputs(emitted)
    # What a quantizer reads is fetched even where it is a mere Cast: ONNX Runtime would else merge it with the one
    # that narrows its producer's float32 result, and quantize that.
    codes = sorted([*plain, *packed], key=lambda c: c.name)
    fetch = list(dict.fromkeys([*(c.name for c in codes), *(c.source for c in codes), *made]))
    got = dict(zip(fetch, probe(graph, images, fetch), strict=True))
    fed: dict[str, np.ndarray] = {}
    # One after the other: a shift is added in front of what a plain quantizer reads, and inside of a packed operator.
    own = set(emitted.packed)
    for group, sites in ((plain, set(emitted.plan.sites) - own), (packed, own)):
        feeds = {c.reference_source: got[c.source].astype(np.float32) for c in group}
        wanted = [
            *dict.fromkeys(c.reference for c in group),
            *(name for name, site in made.items() if site in sites),
        ]
        found = _fed(reference, feeds, wanted) if wanted else {}
        fed |= {c.name: c.of(found[c.reference]) for c in group} | {n: found[n] for n in wanted if n in made}
    wanted = list(dict.fromkeys(c.reference for c in codes))
    free = dict(zip(wanted, probe(reference, images, wanted), strict=True))
    equal = total = 0
    for code in codes:
        # In the other file a row may have an axis more.
        ours, theirs, alone = got[code.name], fed[code.name], code.of(free[code.reference])
        different = int((ours.reshape(theirs.shape) != theirs).sum())
        if different:
            raise CheckError(
                f"verification: {different} of {ours.size} codes of {code.reference!r} differ between the "
                "half-precision and the onnxruntime file"
            )
        total += ours.size
        equal += int((ours.reshape(alone.shape) == alone).sum())
    worst_site, worst_error = "", 0.0
    for name, site in made.items():
        wide = got[name].astype(np.float32).reshape(fed[name].shape)
        planned = emitted.plan.sites[site]
        bias = planned.bias if isinstance(planned, WeightPlan) else None
        largest = max(float(np.abs(v).max()) for v in (fed[name], *([] if bias is None else [bias])))
        error = float(np.abs(wide - fed[name]).max()) / max(largest, 1e-12)
        if not error < worst_error:  # a NaN is the worst
            worst_site, worst_error = site, error if error == error else float("inf")
    return total, equal / max(total, 1), worst_site, worst_error


def _source(quantize: ir.Node) -> str:
    """The tensor behind the Clip, if there is one, of a QuantizeLinear."""
    value = quantize.inputs[0]
    clip = value.producer() if value is not None else None
    if clip is not None and clip.op_type == "Clip":
        value = clip.inputs[0]
    assert value is not None and value.name is not None
    return value.name


def _unsuffixed(name: str) -> str:
    """The name a tensor has in the file that needs no Cast of it."""
    return name.removesuffix(f".{WIDE}")


def _fed(graph: Graph, feeds: dict[str, np.ndarray], fetch: list[str]) -> dict[str, np.ndarray]:
    """What ONNX Runtime makes of `fetch` when the tensors in `feeds` are given instead of computed."""
    cut = graph.clone()
    model = cut.model.graph
    values = {v.name: v for v in (*model.inputs, *(v for node in model for v in node.outputs))}
    wanted = [values[name] for name in fetch]
    entries = []
    for name in feeds:
        made, entry = values[name], ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        if made.producer() is None:
            continue  # the image itself
        ir.convenience.replace_all_uses_with(made, entry, replace_graph_outputs=True)
        made.name = f"{name}.computed"
        entries.append(entry)
    model.inputs.extend(entries)
    model.outputs.clear()
    model.outputs.extend(wanted)
    remove_unused(cut.model)
    for value in [v for v in model.inputs if not v.uses() and not v.is_graph_output()]:
        model.inputs.remove(value)
    runner = target.session(cut.serialize())
    names = {i.name for i in runner.get_inputs()}
    got = runner.run([v.name for v in wanted], {n: a for n, a in feeds.items() if n in names})
    return dict(zip(fetch, (np.asarray(a) for a in got), strict=True))


def _as_planned(half: EmittedGraph, plan: Plan, packed: Collection[str]) -> None:
    """The graph holds the plan's weight codes and scales: of activations exactly, of weights as float16 holds them, and
    exactly where they are packed."""
    calls = {n.name: n for n in half.nodes() if n.domain == DOMAIN}
    for name, site in plan.sites.items():
        if name in packed:
            call = calls.get(names.call(name))
            good = call is not None and is_planned(call, site)
        else:
            product = half.product(name)
            good = product is not None and _is_pair(product, site)
        if not good:
            raise CheckError(f"verification: site {name!r} was not emitted as planned in half precision")


def _is_pair(product: ir.Node, site: SitePlan) -> bool:
    good = all(_is_grid(product, operand, grid) for operand, (_, grid) in enumerate(site.operands))
    if not isinstance(site, WeightPlan):
        return good
    pair = _pair(product, 1)
    codes, scale = (None, None) if pair is None else (constant(pair.inputs[0]), constant(pair.inputs[1]))
    good = good and codes is not None and np.array_equal(codes, site.codes)
    return good and scale is not None and _close(scale, site.weight_scale, site.codes)


def _is_grid(product: ir.Node, operand: int, grid: Grid) -> bool:
    pair = _pair(product, operand)
    codes = pair.inputs[0] if pair is not None else None
    quantize = codes.producer() if codes is not None else None
    if pair is None or quantize is None or quantize.op_type != "QuantizeLinear":
        return False
    wanted = np.float32(grid.emitted_scale)
    forward, back = constant(quantize.inputs[1]), constant(pair.inputs[1])
    assert forward is not None and back is not None
    return float(forward) == float(wanted) and abs(float(back) - float(wanted)) <= SCALE_ERROR * float(wanted)


def _pair(product: ir.Node | None, operand: int) -> ir.Node | None:
    value = product.inputs[operand] if product is not None else None
    pair = value.producer() if value is not None else None
    return pair if pair is not None and pair.op_type == "DequantizeLinear" else None


def _close(found: np.ndarray, planned: np.ndarray, codes: np.ndarray) -> bool:
    """Whether every scale that any code is multiplied by is the planned one, up to float16."""
    by_channel = codes.any(axis=0) if codes.ndim == 2 else codes.any(axis=tuple(range(1, codes.ndim)))
    error = np.abs(found.astype(np.float32) - planned)
    return bool((error <= SCALE_ERROR * planned)[by_channel].all())
