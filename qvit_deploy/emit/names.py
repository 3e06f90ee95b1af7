"""How tensors and nodes of emitted files are named, and which site a name belongs to.

Who emits keeps `emit.emitted.EmittedSite` and looks nothing up by name. Files that are read from disk have names only:
a profiler's nodes, an engine's layers, a file to build. Who reads those asks here. Needs no torch.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qvit_deploy.formats.format import Format

_WEIGHT, _BIAS = re.compile(r"(.+)\.weight(\.|$)"), re.compile(r"(.+)\.bias(\.|$)")
_CALL, _RAW, _CODES = ".qvit", ".raw", ".weight.q"


def codes_name(tensor: str, format: Format) -> str:
    """Names the codes of activation `tensor` in `format`: the first reader's; the others' go on with `.2`, `.3`, ...

    They are int8 (of a `LevelGrid`: the levels themselves), of a `LogGrid` the uint16 codes that its own are read from.
    """
    return f"{tensor}.q{format.short}"


def weight_codes(site: str, format: Format) -> str:
    """Names the codes of the weight of `site`."""
    return f"{site}{_CODES}{format.short}"


def weight_scale(site: str) -> str:
    """Names the scales of the weight of `site`."""
    return f"{site}.weight.scale"


def weight_zero(site: str) -> str:
    """Names the zero points of the weight of `site`."""
    return f"{site}.weight.zero"


def weight_value(site: str) -> str:
    """Names the dequantized weight of `site`, which its product reads."""
    return f"{site}.weight.value"


def bias(site: str) -> str:
    """Names the bias of `site`, corrected for what rounding does to the mean output."""
    return f"{site}.bias.corrected"


def raw(output: str) -> str:
    """Names the result of a product behind which something is put that takes over its name, `output`."""
    return f"{output}{_RAW}"


def without_raw(tensor: str) -> str:
    """Returns what the result of a product was called before something was put behind it."""
    return tensor.removesuffix(_RAW)


def call(site: str) -> str:
    """Names the node of an operator of ours that runs `site`, or writes codes under that name."""
    return f"{site}{_CALL}"


def site_of_call(node: str) -> str:
    """Returns the site that a node with an operator of ours runs."""
    return node.removesuffix(_CALL)


def site_of_weight(tensor: str) -> str | None:
    """Returns the site whose weight, in any form, a constant is; None for other names."""
    match = _WEIGHT.match(tensor)
    return None if match is None else match[1]


def site_of_weight_codes(tensor: str) -> str:
    """Returns the site whose weight codes a constant holds; empty for other names."""
    return tensor.rpartition(_CODES)[0]


def site_of_bias(tensor: str) -> str | None:
    """Returns the site whose bias, in any form, a constant is; None for other names."""
    match = _BIAS.match(tensor)
    return None if match is None else match[1]
