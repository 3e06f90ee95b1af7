"""Small trees as `explain_tree` makes them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from qvit_deploy.patching.agreement import compare, random_map, summarise
from qvit_deploy.patching.completeness import completeness, is_beyond

HOSTILE = "</svg><script>alert(1)</script>\n\u202e$x_"


def relp(pairs: int = 2, exact: bool = True, heads: bool = True, grid: tuple[int, int, int] | None = (1, 2, 2)) -> Any:
    """Two blocks of five tokens; behind the last attention only the first is read."""
    draw = np.random.default_rng(0)

    def component(kind: str, block: int, cells: int, dead: int = 0) -> dict[str, Any]:
        values = draw.normal(size=cells)
        values[cells - dead :] = 0
        whole = completeness(values, 4.0)
        assert whole is not None
        return {
            "kind": kind, "block": block, "label": f"blocks.{block}" if block < 2 else "output", "tensor": "t",
            "effects": values.tolist(), "reached": [i < cells - dead for i in range(cells)],
            "completeness": whole, "beyond": is_beyond(kind, whole),
            "exact": (values * 1.1).tolist() if exact else None, "grid": None if kind == "head" else grid,
        }  # fmt: skip

    def pair(index: int) -> dict[str, Any]:
        components = [component("residual", 0, 5), component("residual", 1, 5), component("residual", 2, 5, 4)]
        components += [component(kind, b, 5, 4 * b) for kind in ("attention", "mlp") for b in range(2)]
        components += [component("head", b, 3) for b in range(2)] if heads else []
        return {
            "name": f"image {index}", "kind": "composite", "warnings": [], "out_of_distribution": False,
            "clean_class": 1, "corrupt_class": 2, "clean": 2.5, "corrupt": -1.5, "components": components,
        }  # fmt: skip

    from dataclasses import asdict

    scores = {
        m: asdict(summarise([compare(random_map((20,), i + s), random_map((20,), i)) for i in range(pairs)]))
        for s, m in enumerate(("relp", "gradient", "random"))
    }
    return {
        "schema": "qvit-deploy/relp/1", "model": "a model", "rules": "relp", "metric": "logit-diff",
        "direction": "denoising", "firings": {"norm": 5, "gate": 0}, "pairs": [pair(i) for i in range(pairs)],
        "agreement": {"residual": scores, "mlp": scores} if exact else None,
        "circuits": {"exact": {"cpr": 0.8, "cmd": None}, "relp": {"cpr": 0.7, "cmd": 0.2}} if exact else None,
        "cross_check": 3.7e-7 if exact else None,
    }  # fmt: skip


def pictures(pairs: int = 2) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    return tuple(draw.normal(size=(pairs, 3, 8, 8)).astype(np.float32) for _ in range(2))  # type: ignore[return-value]


def drift() -> Any:
    from dataclasses import asdict

    draw = np.random.default_rng(2)
    names = ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.mlp.fc1", "head"]
    effects = draw.normal(size=(4, 6))
    true = effects.sum(0) * 1.05
    return {
        "schema": "qvit-deploy/relp/1", "model": "a model", "rules": "gradient", "metric": "logit-diff", "images": 6,
        "changed_predictions": 1, "unexplained": 0.0, "before": [1.0] * 6, "after": (1 + true).tolist(),
        "estimated": effects.sum(0).tolist(), "agreement": asdict(compare(effects.sum(0), true)), "beyond": False,
        "sites": [
            {
                "name": name, "block": "blocks.0" if "blocks" in name else "outside blocks", "w_bits": 4, "a_bits": 6,
                "error": 0.01 * (i + 1), "rms_effect": float(np.sqrt((e**2).mean())), "mean_effect": float(e.mean()),
                "share": float(e @ true / (true @ true)), "effects": e.tolist(),
                "tokens": None if i == 3 else np.abs(draw.normal(size=4 + (i > 0))).tolist(),
                "grid": None if i == 3 else [int(i > 0), 2, 2],
            }
            for i, (name, e) in enumerate(zip(names, effects, strict=True))
        ],
    }  # fmt: skip


def changed(tree: Any, *path: Any, to: Any) -> Any:
    """A copy of `tree` with another value at `path`."""
    result = copy.deepcopy(tree)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return result
