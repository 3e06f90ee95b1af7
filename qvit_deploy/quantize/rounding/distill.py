"""Distillation: the whole plan tuned to the float model, on the calibration images and variations of them.

Rounding fits each layer to its own output; what the layers do to each other's errors it cannot see. Here codes, scales
and biases of all layers learn together, by gradients through the quantized graph, to give the float model's outputs and
residual stream. Rounding passes gradients straight through (Bengio et al., arXiv 1308.3432); scales learn as in LSQ
(Esser et al., arXiv 1902.08153). No label is needed: the float model answers for any image, so each is shown flipped
and shifted at random; without that, the plan overfits 64 images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.execute.ops import OpFn, build
from qvit_deploy.formats.format import SMALLEST_SCALE, Format
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.graph.examples import Examples, concatenated
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.interface import IMAGE
from qvit_deploy.progress import Advance
from qvit_deploy.quantize.calibration import Calibration
from qvit_deploy.quantize.plan import Plan, ProductPlan, WeightPlan
from qvit_deploy.quantize.rounding.compensate import add_bias
from qvit_deploy.relevance.dataflow import Dataflow
from qvit_deploy.tasks.objective import Spread
from qvit_deploy.tasks.task import Task

CODE_RATE = 3e-2
"""First step of Adam on weights, in steps of their grid: a code flips after some 20 that agree."""

SCALE_RATE = 3e-4
"""First step on the logarithm of scales."""

BIAS_RATE = 3e-4
"""First step on biases, in standard deviations of the layer's output."""

LAST_RATE = 0.02
"""Share of the rates left at the end; they fall along a cosine."""

SHIFT = 12
"""Images are shifted by up to 1 / SHIFT of their side."""


def distill(
    calibration: Calibration,
    plan: Plan,
    batches: Iterable[Examples[Tensor]],
    epochs: int,
    seed: int,
    task: Task,
    advance: Advance,
) -> Plan:
    """Returns `plan` with other codes, scales and biases; widths and attention grids stay.

    Args:
        batches: calibration images; all but the last of one size. All are held, because
            every epoch draws them in another order.
        epochs: times every image is seen.
        task: what the outputs mean.
        advance: counts epochs.

    Raises:
        CheckError: the loss stopped being finite.
    """
    groups = list(batches)
    size, images = len(groups[0]), concatenated(groups, torch.cat)
    nodes = {n.outputs[0].name or "": n for n in calibration.graph.nodes()}
    learners = {n: _Learner(p, calibration) for n, p in plan.weights().items()}
    overrides: dict[ir.Node, OpFn] = {}
    for learner in learners.values():
        overrides.update(learner.functions(nodes))
    for product in plan.products().values():
        overrides.update(_attention(product, nodes))
    student = Executor(calibration.graph, calibration.executor.device, overrides)
    split = [images[start : start + size] for start in range(0, len(images), size)]
    loss = Loss(calibration.executor, split, task)
    optimizer = torch.optim.Adam([group for learner in learners.values() for group in learner.groups()])
    steps = max(epochs, 1) * math.ceil(len(images) / size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: max(LAST_RATE, 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        # A graph of fixed batch size needs full batches.
        for chosen in torch.cat([order, order[: -len(order) % size]]).split(size):
            error = loss(student, _varied(images.at(chosen), generator))
            if not math.isfinite(float(error.detach())):
                raise CheckError("distillation diverged: its loss is not finite; compile with distill_epochs = 0")
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
        advance(1)
    return Plan({n: learners[n].result() if n in learners else p for n, p in plan.sites.items()})


class _Learner:
    """What one linear or convolution learns.

    Attributes:
        weight: in steps of its scale, the initializer's layout.
        scale: logarithms, shaped to multiply `weight`.
        range: logarithm of the input's scale.
        bias: of the output's channels, in units of `unit`.
    """

    def __init__(self, plan: WeightPlan, calibration: Calibration) -> None:
        grid = plan.grid.per_tensor
        if grid is None:
            raise TypeError(f"site {plan.site.name!r}: only the scale of a whole tensor can be learnt")
        self.plan, self.grid = plan, grid
        shape = [1] * plan.codes.ndim
        shape[-1 if plan.site.kind == "linear" else 0] = -1
        self.weight = torch.from_numpy(plan.codes.astype(np.float32)).requires_grad_()
        self.scale = torch.from_numpy(plan.weight_scale).log().reshape(shape).requires_grad_()
        self.range = torch.tensor(math.log(self.grid.scale)).requires_grad_()
        bias = np.zeros(len(plan.weight_scale), np.float32) if plan.bias is None else plan.bias
        self.unit = self._unit(calibration)
        self.bias = (torch.from_numpy(bias) / self.unit).requires_grad_()

    def _unit(self, calibration: Calibration) -> float:
        """Returns the standard deviation of the output; of a convolution, whose rows are not sampled, of its bias."""
        if self.plan.site.kind != "linear":
            return max(float(np.std(self.plan.bias)) if self.plan.bias is not None else 0.0, 1e-6)
        observation, weight = calibration.observations[self.plan.site.input], calibration.weights[self.plan.site.name]
        return max(float(((observation.rows - observation.mean) @ weight).square().mean().sqrt()), 1e-6)

    def groups(self) -> Iterator[dict[str, object]]:
        """Yields the parameter groups of the optimizer."""
        yield {"params": [self.weight], "lr": CODE_RATE}
        yield {"params": [self.scale, self.range], "lr": SCALE_RATE}
        yield {"params": [self.bias], "lr": BIAS_RATE}

    def functions(self, nodes: Mapping[str, ir.Node]) -> dict[ir.Node, OpFn]:
        """Returns node -> function of the quantized product, and of the bias where that is a node of its own."""
        site = self.plan.site
        product, run = nodes[site.product], build(nodes[site.product])

        def multiplied(x: Tensor, _: Tensor, *bias: Tensor) -> Tensor:
            weight = _on_grid(self.weight, self.plan.format) * self.scale.exp()
            scale = self.range.exp()
            rounded = _on_grid(x / scale, self.grid.format) * scale
            if bias:
                return run(rounded, weight, self.bias * self.unit)
            y: Tensor = run(rounded, weight)
            return y if site.output != site.product else self._with_bias(y)

        functions: dict[ir.Node, OpFn] = {product: multiplied}
        if site.output != site.product:
            add = nodes[site.output]
            position = next(i for i, v in enumerate(add.inputs) if v is not None and v.name == site.product)
            functions[add] = lambda *operands: self._with_bias(operands[position])
        return functions

    def _with_bias(self, product: Tensor) -> Tensor:
        return add_bias(product, self.bias * self.unit, self.plan.site.kind)

    def result(self) -> WeightPlan:
        """Returns the plan with what was learnt."""
        with torch.no_grad():
            codes = _on_grid(self.weight, self.plan.format).numpy().astype(self.plan.format.container)
            scale = self.scale.exp().clamp_min(SMALLEST_SCALE).reshape(-1).numpy()
            range = float(self.range.exp().clamp_min(SMALLEST_SCALE))
            grid = ActivationGrid(self.grid.format, range, self.grid.shift)
            bias = None if self.plan.bias is None else (self.bias * self.unit).numpy()
        return replace(self.plan, grid=grid, codes=codes, weight_scale=scale, bias=bias)


def _attention(plan: ProductPlan, nodes: Mapping[str, ir.Node]) -> dict[ir.Node, OpFn]:
    """Returns node -> function of an attention product on its fixed grids."""
    node = nodes[plan.site.product]
    run = build(node)
    return {node: lambda x, y: run(_through(plan.grid, x), _through(plan.second_grid, y))}


def _through(grid: Grid, x: Tensor) -> Tensor:
    return x + (grid.apply(x) - grid.shift - x).detach()


def _on_grid(x: Tensor, format: Format) -> Tensor:
    """Returns the nearest codes of x, in steps; the gradient is 1 inside the range and 0 outside."""
    inside = x.clamp(*format.range)
    return inside + (format.quantize(inside, torch.ones(())) - inside).detach()


class Loss:
    """Squared error of the task's signals (for a classifier, the logits), averaged over them, and of the residual
    stream after every addition, each as a share of what differs between images."""

    def __init__(self, teacher: Executor, batches: Iterable[Examples[Tensor]], task: Task) -> None:
        self.teacher, self.task = teacher, task
        self.stream = [name for name in _residual_stream(teacher.graph) if name not in teacher.outputs]
        spread = Spread()
        with torch.no_grad():
            for batch in batches:
                spread.add(self._values(teacher, batch))
        self.power = {name: max(power, 1e-12) for name, power in spread.powers().items()}

    def __call__(self, student: Executor, images: Examples[Tensor]) -> Tensor:
        with torch.no_grad():
            aims = self._values(self.teacher, images)
        values = self._values(student, images)
        errors = {n: (values[n] - aims[n]).square().mean() / power for n, power in self.power.items()}
        stream = [errors.pop(n) for n in self.stream if n in errors]
        return torch.stack(list(errors.values())).mean() + (torch.stack(stream).mean() if stream else 0.0)

    def _values(self, executor: Executor, images: Examples[Tensor]) -> dict[str, Tensor]:
        """Returns the tensors that are compared, by name: the signals and the residual stream."""
        values = executor.run(images, fetch=[*executor.outputs, *self.stream])
        signals = self.task.signals({name: values[name] for name in executor.outputs})
        return signals | {name: values[name] for name in self.stream}


def _residual_stream(graph: Graph) -> Iterator[str]:
    """Yields the names of the sums of two tensors that both depend on the image: an embedding of positions or queries
    is no branch, whether it is a constant or computed from one, and the sum of two indices is no stream."""
    flow = Dataflow(graph)
    for node in graph.nodes():
        total = node.outputs[0]
        if node.op_type == "Add" and all(map(flow.is_data, node.inputs)) and total.dtype in (None, ir.DataType.FLOAT):
            yield total.name or ""


def _varied(batch: Examples[Tensor], generator: torch.Generator) -> Examples[Tensor]:
    """Flips and shifts images [b, C, H, W] at random; leaves them where another input may speak of places in them."""
    if list(batch.feeds) != [IMAGE]:
        return batch
    images = batch.arrays[IMAGE]

    def drawn(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    height, width = images.shape[2:]
    down, right = height // SHIFT, width // SHIFT
    # Not of bytes, which torch does not pad.
    padded = torch.nn.functional.pad(images.float(), (right, right, down, down), mode="replicate").to(images.dtype)
    varied = []
    for image in padded:
        top, left = drawn(0, 2 * down), drawn(0, 2 * right)
        cut = image[:, top : top + height, left : left + width]
        varied.append(cut.flip(-1) if drawn(0, 1) else cut)
    return Examples.images(torch.stack(varied))
