"""Finds the kernel that runs every site in an engine, from the JSON of TensorRT's engine inspector.

Its format: 10.x calls a tensor's type `Format/Datatype` and its list of inputs and outputs `Bindings`; 11 splits the
type into `Format` and `Datatype` and says `I/O Tensors`. A build without detailed verbosity lists plain names without
types. A layer names the ONNX nodes it came from in `Metadata`, as `[ONNX Layer: NAME]`, one or more.

The inspector says which kernel runs, not what it computes: this is evidence of speed, while the numeric check
(`targets.tensorrt.engine.run.check`) is evidence of correctness.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from qvit_deploy.errors import InputError

Kernel = Literal["int8", "float", "plugin", "missing"]
_ONNX = re.compile(r"\[ONNX Layer: ([^\]\x1e]+)\]")
_INT8 = re.compile(r"int8|(?<![a-z0-9])[su]8|i8i8|i8f|imma", re.IGNORECASE)
_ATTENTION = re.compile(r"_gemm_mha_v2|fmha|fused_mha|multi_?head_?attention|\bmha\b|_mha_", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        kind: the inspector's `LayerType`.
        types: of its inputs, as the inspector writes them.
        nodes: ONNX nodes that it came from.
    """

    name: str
    kind: str
    tactic: str
    types: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def int8(self) -> bool:
        """Returns whether two operands are int8, or its kernel's name says that it multiplies int8."""
        return sum("int8" in t.lower() for t in self.types) >= 2 or bool(_INT8.search(self.tactic))

    @property
    def attention(self) -> bool:
        """Returns whether it is a fused attention, by its names."""
        return bool(_ATTENTION.search(f"{self.name} {self.tactic} {self.kind}"))

    @property
    def plugin(self) -> bool:
        """Returns whether a plugin runs it."""
        return "plugin" in self.kind.lower()


@dataclass(frozen=True)
class SiteKernel:
    """The layer that runs one site.

    Attributes:
        kernel: `missing` when no layer says that it came from the site's product.
        attention: whether the layer is a fused attention.
        layer, tactic: names of the layer and of its kernel; "" when it is missing.
    """

    site: str
    kernel: Kernel
    attention: bool
    layer: str
    tactic: str


@dataclass(frozen=True)
class EngineLayers:
    """The kernels of a whole engine.

    Attributes:
        layers, reformats: how many layers there are, and how many only change a layout or a type.
    """

    sites: tuple[SiteKernel, ...]
    layers: int
    reformats: int

    def as_dict(self) -> dict[str, Any]:
        """Converts to JSON values."""
        return asdict(self)

    def failures(self, attention: Iterable[str] = (), plugins: Iterable[str] = ()) -> list[str]:
        """Returns one sentence for every site that does not run as it was emitted.

        Args:
            attention: sites that must be part of a fused attention.
            plugins: sites that must run in a plugin; all others must run on int8.
        """
        fused, custom = set(attention), set(plugins)
        failures = []
        for s in self.sites:
            if s.kernel == "missing":
                failures.append(f"{s.site}: no layer of the engine names its product")
            elif s.site in custom and s.kernel != "plugin":
                failures.append(f"{s.site}: no plugin runs it but {s.layer} ({s.tactic})")
            elif s.site in fused and not s.attention:
                failures.append(f"{s.site}: its attention is not fused, {s.layer} runs it ({s.tactic})")
            elif s.site not in custom and s.site not in fused and s.kernel != "int8":
                failures.append(f"{s.site}: {s.layer} runs it in floating point ({s.tactic})")
        return failures


def read_layers(text: str) -> tuple[Layer, ...]:
    """Reads the layers from the inspector's JSON.

    Raises:
        InputError: the text is not such JSON, or was not written with detailed verbosity.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise InputError(f"the layer information is not JSON: {error}") from None
    return layers_of(tree)


def layers_of(tree: Any) -> tuple[Layer, ...]:
    """Does the same for parsed JSON. Raises InputError."""
    entries = tree.get("Layers") if isinstance(tree, dict) else None
    if not isinstance(entries, list):
        raise InputError("the layer information has no list of Layers: it is not what TensorRT's inspector writes")
    if any(not isinstance(entry, dict) for entry in entries):
        raise InputError("the layer information lists names only: build with detailed profiling verbosity")
    return tuple(_layer(entry) for entry in entries)


def engine_layers(layers: Iterable[Layer], products: Mapping[str, str]) -> EngineLayers:
    """Finds the layer that runs each site.

    Args:
        products: site name -> name of the ONNX node that multiplies it.
    """
    layers = tuple(layers)
    sites = tuple(_site(site, node, layers) for site, node in products.items())
    return EngineLayers(sites, len(layers), sum(_is_reformat(layer) for layer in layers))


def _site(site: str, node: str, layers: tuple[Layer, ...]) -> SiteKernel:
    candidates = [layer for layer in layers if node in layer.nodes or layer.name == node]
    # Quantizers and biases of the same node may have layers of their own: the most specialised one is the product.
    candidates.sort(key=lambda layer: (not layer.plugin, not layer.attention, not layer.int8, _is_reformat(layer)))
    if not candidates:
        return SiteKernel(site, "missing", False, "", "")
    best = candidates[0]
    kernel: Kernel = "plugin" if best.plugin else "int8" if best.int8 else "float"
    return SiteKernel(site, kernel, best.attention, best.name, best.tactic)


def _layer(entry: Mapping[str, Any]) -> Layer:
    inputs = entry.get("Inputs", [])
    types = tuple(_type(t) for t in inputs if isinstance(t, dict)) if isinstance(inputs, list) else ()
    metadata = entry.get("Metadata")
    return Layer(
        str(entry.get("Name", "")),
        str(entry.get("LayerType", "")),
        str(entry.get("TacticName", "")),
        types,
        tuple(_ONNX.findall(metadata)) if isinstance(metadata, str) else (),
    )


def _type(tensor: Mapping[str, Any]) -> str:
    return str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")


def _is_reformat(layer: Layer) -> bool:
    return layer.kind.lower() in ("reformat", "noop", "shuffle") or layer.name.lower().startswith("reformatting")
