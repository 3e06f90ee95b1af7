"""Names sites in the report: `layers.2.blocks.0.mlp.fc1` is `fc1` in block `2.0`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from qvit_deploy.artifacts.manifest import SiteRecord

LONGEST = 18
"""Characters of a label under an axis; site names are weight names of any model and can be long."""

ROLES = {
    "image": "patch embedding",
    "post_layernorm": "after LayerNorm",
    "post_gelu": "after GELU",
    "post_relu": "after ReLU",
    "query": "QK product",
    "post_softmax": "AV product",
    "other": "other inputs",
}
"""The text of every role, in the order of the forward pass."""


@dataclass(frozen=True)
class Label:
    """`block` is the dotted path of the numbered block a site sits in ("" outside one), `leaf` the rest, shortened."""

    block: str
    leaf: str

    @property
    def number(self) -> str:
        """The block's numbers alone: layers.2.blocks.0 -> 2.0."""
        return ".".join(part for part in self.block.split(".") if part.isdigit())

    @property
    def pattern(self) -> str:
        """The block's path with # for its numbers: layers.#.blocks.#"""
        return ".".join("#" if part.isdigit() else part for part in self.block.split("."))


def site_labels(names: Sequence[str]) -> list[Label]:
    """Returns one label per name, in order. A leaf is the last part of a name, or more where that is ambiguous."""
    split = [_split(printable(name)) for name in names]
    last = Counter((block, rest.rpartition(".")[2]) for block, rest in split)
    labels = []
    for block, rest in split:
        short = rest.rpartition(".")[2]
        labels.append(Label(block, _shorten(short if block and last[block, short] == 1 else rest)))
    return labels


def block_names(labels: Sequence[str]) -> list[str]:
    """Names blocks by their numbers: `blocks.3` -> 3, `layers.0.blocks.1` -> 0.1; other labels stay as they are."""
    parsed = site_labels([f"{label}.x" for label in labels])  # a number counts as a block's when something follows it
    return [site.number or printable(label) for site, label in zip(parsed, labels, strict=True)]


def runs(labels: Sequence[Label]) -> list[tuple[Label, int, int]]:
    """Returns the runs of neighbouring sites in one block as (label, first index, last index)."""
    blocks = []
    for _, group in groupby(enumerate(labels), key=lambda item: item[1].block or (item[0],)):
        members = list(group)
        blocks.append((members[0][1], members[0][0], members[-1][0]))
    return blocks


def role_text(site: SiteRecord) -> str:
    """Returns the text of a site's role; a role that this version does not know is shown as it is."""
    return ROLES.get(site.role, printable(site.role))


def printable(text: str) -> str:
    """Replaces control and direction-changing characters, which SVG cannot hold or a reader cannot see."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _split(name: str) -> tuple[str, str]:
    """Splits a name into (block, rest) after the last number that something follows."""
    parts = name.strip("/").replace("/", ".").split(".")
    ends = [i for i, part in enumerate(parts[:-1], 1) if part.isdigit()]
    cut = ends[-1] if ends else 0
    return ".".join(parts[:cut]), ".".join(parts[cut:])


def _shorten(text: str) -> str:
    """Shortens text in the middle: both ends of a module path say more than its middle."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[: half - 1]}…{text[-half:]}"
