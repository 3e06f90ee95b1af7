"""Renders the report of a compile, which shows its allocation and its verification."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qvit_deploy.artifacts.manifest import Manifest, SiteRecord
from qvit_deploy.artifacts.verification import Verification
from qvit_deploy.report.compile.findings import fidelity, findings, left_out, number
from qvit_deploy.report.compile.scores import Ranking, rank
from qvit_deploy.report.compile.views import ViewedImage, meaning, views_figure
from qvit_deploy.report.labels import printable, role_text, runs, site_labels
from qvit_deploy.report.numbers import amount, digits, percent, times
from qvit_deploy.report.templates import render
from qvit_deploy.tasks.registry import task_called

REPORT = "report.html"
VIEWS = "Images, and the outputs of the float and of the quantized model for them, side by side"
"""What a screen reader says of the pictures."""
ATTENTION = ("matmul_qk", "matmul_av")


def render_report(manifest: Manifest, views: Sequence[ViewedImage]) -> bytes:
    """Returns the report as one UTF-8 HTML file without scripts and external resources.

    The same manifest and views give the same bytes. Views are what the two models make of some images, none where a
    task has nothing to look at. The list of files omits `report.html`, because a report cannot hold its own
    digest: the manifest with and without it gives the same report.
    """
    from markupsafe import Markup

    from qvit_deploy.report.compile import plots
    from qvit_deploy.report.svg import draw

    sites, words = manifest.sites, task_called(manifest.task).words
    ranking = rank(sites, str(_extra(manifest, "relevance").get("method", "")))
    shown = ranking if isinstance(ranking, Ranking) else None
    return render(
        "compile/compile.html.jinja",
        model=printable(str(manifest.source.get("model", "unnamed model"))),
        cards=_cards(manifest),
        fidelity=fidelity(manifest, words),
        findings=[*findings(manifest.verification, words), *left_out(manifest.left_out)],
        operators=_operators(manifest.verification),
        widths=sorted({b for s in sites for b in (s.w_bits, s.a_bits) if b is not None}),
        any_float=any(b is None for s in sites for b in (s.w_bits, s.a_bits)),
        depth_plot=Markup(plots.depth_plot(sites, shown)) if sites else "",
        bytes_plot=Markup(plots.bytes_plot(sites)) if any(s.params for s in sites) else "",
        bitops_plot=Markup(plots.bitops_plot(sites)) if any(s.macs for s in sites) else "",
        views=Markup(draw("views", VIEWS, lambda: views_figure(views))) if views else "",
        view_meaning=meaning(views[0]) if views else "",
        split=_split_text(sites),
        most_relevant=_most_relevant(sites, shown),
        score_meaning=shown.meaning if shown else "",
        no_ranking=ranking if isinstance(ranking, str) else "",
        unscored=sum(s.score is None for s in sites) if shown else 0,
        attention=_attention_text(manifest),
        in_float=_float_text(manifest),
        containers=_container_text(manifest),
        blocks=_block_text(sites),
        rows=_rows(sites, shown),
        recipe=_toml(manifest.recipe),
        provenance=_provenance(manifest),
        files=[(printable(n), amount(f.bytes, "B"), f.sha256) for n, f in _files(manifest)],
        schema=manifest.schema_id,
    )


def _cards(manifest: Manifest) -> list[dict[str, Any]]:
    """Returns the costs of the headline: amounts, reductions, and shares of the float model's cost as bars."""
    s = manifest.summary
    costs = (
        ("Weights, packed", s.weight_bytes, s.float_weight_bytes, "B", "smaller"),
        ("BitOps per image", s.bitops, s.float_bitops, "", "fewer"),
    )
    return [
        {
            "label": label,
            "value": amount(small, unit),
            "ratio": times(large, small),
            "word": word,
            "float": amount(large, unit, small),
            "bar": round(100 * min(small / large, 1.0), 2) if large else 0.0,
        }
        for label, small, large, unit, word in costs
    ] + [{"label": "Mean bits", "weights": f"{s.mean_w_bits:.2f}", "activations": f"{s.mean_a_bits:.2f}"}]


def _rows(sites: Sequence[SiteRecord], ranking: Ranking | None) -> list[dict[str, Any]]:
    labels = site_labels([s.name for s in sites])
    starts = {first for _, first, _ in runs(labels)}
    return [
        {
            "name": printable(site.name),
            "role": role_text(site),
            "w_bits": site.w_bits,
            "a_bits": site.a_bits,
            "params": amount(site.params) if site.params else "–",
            "macs": amount(site.macs) if site.macs else "–",
            "score": _score_text(site, ranking, index),
            "bar": ranking.width(index) if ranking else 0.0,
            "cut": bool(ranking and ranking.cut(index)),
            "starts_block": index in starts,
        }
        for index, site in enumerate(sites)
    ]


def _score_text(site: SiteRecord, ranking: Ranking | None, index: int) -> str:
    if site.score is None:
        return "–"
    share = ranking.shares[index] if ranking else None
    return digits(site.score) if share is None else percent(share)


def _split_text(sites: Sequence[SiteRecord]) -> str:
    """Returns "50 sites: 29 at 6 bits, 21 at 4 bits.", from wide to narrow."""
    counts = Counter((s.w_bits, s.a_bits) for s in sites)
    order = sorted(counts, key=lambda bits: tuple(-(b or 99) for b in bits))
    parts = [f"{counts[bits]} {'in' if bits == (None, None) else 'at'} {_bits_text(*bits)}" for bits in order]
    if len(parts) == 1:
        return f"All sites: {_bits_text(*order[0])}." if len(sites) > 1 else f"One site, {parts[0][2:]}."
    return f"{len(sites)} sites: " + ", ".join(parts) + "." if parts else "No sites."


def _bits_text(w_bits: int | None, a_bits: int | None) -> str:
    if w_bits == a_bits:
        return "float" if w_bits is None else f"{w_bits} bits"
    if a_bits is None:
        return f"{w_bits} bits with float activations"
    return f"w{w_bits}a{a_bits}" if w_bits else f"float with {a_bits}-bit activations"


def _most_relevant(sites: Sequence[SiteRecord], ranking: Ranking | None) -> str:
    if ranking is None:
        return ""
    order = sorted((-(share or 0.0), i) for i, share in enumerate(ranking.shares))[:3]
    return ", ".join(f"{printable(sites[i].name)} ({percent(-share)})" for share, i in order)


def _attention_text(manifest: Manifest) -> str:
    """Returns a sentence about attention products, which the plots cannot show where they are no sites."""
    if any(s.kind in ATTENTION for s in manifest.sites):
        return "For the attention products (qk, av), “weights” are the key and the value."
    if manifest.recipe.get("attention") == "float":
        return "Attention products (QK and AV) stay in floating point; no cost on this page includes them."
    return ""


def _float_text(manifest: Manifest) -> str:
    """Returns a sentence that names the layers with weights that are in float in every file."""
    layers = manifest.in_float
    if not layers:
        return ""
    names = ", ".join(f"{printable(layer.name)} ({layer.operator})" for layer in layers[:8])
    more = f" and {len(layers) - 8} more" if len(layers) > 8 else ""
    return f"In floating point in every file, and in no number on this page: {names}{more}."


def _container_text(manifest: Manifest) -> str:
    """Returns a sentence that explains why the .onnx file is larger than the packed weights."""
    record = manifest.files.get("model.onnxruntime.onnx")
    if record is None:
        return ""
    return f"The ONNX file is {amount(record.bytes, 'B')}: it keeps every code in a whole byte, whatever its width."


def _block_text(sites: Sequence[SiteRecord]) -> str:
    """Returns the patterns, such as blocks.#, of the blocks whose numbers are under the plot."""
    patterns = dict.fromkeys(label.pattern for label in site_labels([s.name for s in sites]) if label.block)
    return ", ".join(list(patterns)[:4])


def _operators(verification: Verification) -> list[tuple[str, int]]:
    """Returns the operators of the runtime's optimized graph, most frequent first."""
    counts = [(printable(op), n) for op, n in verification.optimized_ops.items()]
    return sorted(counts, key=lambda item: (-item[1], item[0]))


def _toml(recipe: Mapping[str, Any]) -> str:
    """Returns the recipe as TOML, with comments for values that are None, which TOML does not have."""
    return "\n".join(
        f"# {key}: none" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in sorted(recipe.items(), key=lambda item: (item[1] is None, item[0]))
    )


def _provenance(manifest: Manifest) -> list[tuple[str, str]]:
    calibration, relevance = _extra(manifest, "calibration"), _extra(manifest, "relevance")
    rows = [("Input", _preprocess_text(manifest.source.get("preprocess")))]
    if (images := number(calibration, "images")) is not None:
        rows.append(("Calibration images", f"{images:,.0f}"))
    rows.append(("Calibration digest", str(calibration.get("sha256", ""))))
    if (verified := manifest.verification).held_out is not None:
        others = (
            "others of the same data" if verified.held_out else "those of calibration: the data have too few others"
        )
        rows.append(("Measured on", f"{verified.images:,} images, {others}"))
    if method := relevance.get("method"):
        images = number(relevance, "images")
        rows.append(("Score", str(method) + (f", averaged over {images:,.0f} images" if images else "")))
    firings = relevance.get("firings")
    if isinstance(firings, dict):
        rows.append(("Rules fired", ", ".join(f"{rule} {count}" for rule, count in firings.items() if count)))
    return [(title, printable(text)) for title, text in rows if text]


def _preprocess_text(preprocess: object) -> str:
    if not isinstance(preprocess, dict):
        return ""
    size = preprocess.get("input_size")
    shape = "×".join(map(str, size)) if isinstance(size, list) else ""
    rest = [f"{key} {preprocess[key]}" for key in ("color", "interpolation", "crop_pct") if key in preprocess]
    means = [f"{key} {', '.join(map(str, v))}" for key in ("mean", "std") if isinstance(v := preprocess.get(key), list)]
    return " · ".join(part for part in [shape, *rest, *means] if part)


def _files(manifest: Manifest) -> list[tuple[str, Any]]:
    return sorted((name, record) for name, record in manifest.files.items() if name != REPORT)


def _extra(manifest: Manifest, key: str) -> Mapping[str, Any]:
    """Returns a field of the manifest that is a JSON object, {} if there is none."""
    value = (manifest.model_extra or {}).get(key)
    return value if isinstance(value, dict) else {}
