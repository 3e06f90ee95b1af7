"""What verification found, in sentences. A manifest may lack any of its numbers; then so does the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from qvit_deploy.artifacts.manifest import Manifest
from qvit_deploy.recipe import FUSED_PROFILE, OPENVINO_PROFILE
from qvit_deploy.report.labels import printable
from qvit_deploy.report.numbers import digits, interval, percent
from qvit_deploy.tasks.task import Words

EQUAL_DB = 200.0
"""SQNR that stands for no difference at all (tasks/metrics.py)."""


@dataclass(frozen=True)
class Finding:
    """One row of the verification table; `good` is None where there is nothing to pass."""

    what: str
    result: str
    meaning: str
    good: bool | None = None


def findings(verification: Mapping[str, Any], words: Words) -> list[Finding]:
    """The rows of the verification table, as far as `verification` has numbers for them."""
    rows = (_codes, _worst_site, _fused, _in_float, partial(_free_running, words))
    profiles = verification.get("profiles")
    half = [_half(str(n), v) for n, v in profiles.items()] if isinstance(profiles, Mapping) else []
    return [row for row in (*(make(verification) for make in rows), *half) if row is not None]


def _codes(v: Mapping[str, Any]) -> Finding | None:
    codes, differ = number(v, "codes"), number(v, "code_mismatches")
    if codes is None or differ is None:
        return None
    images = number(v, "probe_images")
    on = "" if images is None else f" on {_images(images)}"
    result = f"{codes:,.0f} compared{on}: " + (f"{differ:,.0f} differ" if differ else "all equal")
    meaning = "Every integer the runtime computes is the one that was planned, site by site."
    if differ:
        meaning = "The runtime does not compute the planned integers; do not deploy this bundle."
    return Finding("Activation codes", result, meaning, not differ)


def _worst_site(v: Mapping[str, Any]) -> Finding | None:
    error, site = number(v, "worst_site_error"), v.get("worst_site")
    if error is None or not isinstance(site, str):
        return None
    result = f"{printable(site)}: {digits(error)} of its largest value" if error else "no difference at any site"
    return Finding("Worst site", result, "Largest difference of a site's output between runtime and executor.")


def _fused(v: Mapping[str, Any]) -> Finding | None:
    fused, expected = number(v, "integer_products"), number(v, "expected_integer_products")
    if fused is None or expected is None:
        return None
    short = expected - fused
    meaning = "ONNX Runtime multiplies integers in all of them, not floats that were quantized and restored."
    if short > 0:
        meaning = f"{short:,.0f} run in floating point inside ONNX Runtime: correct, but slower than they should be."
    return Finding("Integer products", f"{fused:,.0f} of {expected:,.0f} fused", meaning, short <= 0)


def _in_float(v: Mapping[str, Any]) -> Finding | None:
    sites = v.get("float_products")
    if not isinstance(sites, list | tuple) or not sites:
        return None
    named = ", ".join(printable(str(s)) for s in sites[:3]) + (", ..." if len(sites) > 3 else "")
    meaning = (
        "Their attention probabilities have logarithmic codes, which no integer product takes; chosen, not missed."
    )
    return Finding("Products in floating point", f"{len(sites)}: {named}", meaning)


def _free_running(words: Words, v: Mapping[str, Any]) -> Finding | None:
    agree, error = number(v, "logits_agreement"), number(v, "logits_error")
    if agree is None or error is None:
        return None
    images = share_of_images(agree, number(v, "images"))
    result = f"same {words.same} on {images}; {words.signal} within {percent(error)} of the largest"
    meaning = (
        "Runtime against executor with nothing held equal: a last-digit difference of floats can move a value to the "
        "next code, and later layers carry it on."
    )
    return Finding("Running freely", result, meaning)


def _half(profile: str, v: object) -> Finding | None:
    """One file in half precision, or in ONNX Runtime's own operators, against the file for ONNX Runtime."""
    if not isinstance(v, Mapping):
        return None
    codes, differ, free = number(v, "codes"), number(v, "code_mismatches"), number(v, "free_codes_equal")
    if codes is None or differ is None:
        return None
    result = f"{codes:,.0f} codes compared: " + (f"{differ:,.0f} differ" if differ else "all equal")
    if free is not None:
        result += f"; {percent(free)} running freely"
    kept = v.get("in_float")
    if isinstance(kept, Mapping) and kept:
        named = ", ".join(printable(str(s)) for s in list(kept)[:3]) + (", ..." if len(kept) > 3 else "")
        result += f"; {len(kept)} in floating point: {named}"
    if profile == FUSED_PROFILE:
        meaning = "The file in ONNX Runtime's own operators, with the same tensors in front of every quantizer."
        return Finding(f"File for {printable(profile)}", result, meaning, not differ)
    if profile == OPENVINO_PROFILE:
        ties, products = number(v, "ties"), number(v, "integer_products")
        result += "" if not ties else f" but {ties:,.0f} whose value lies in the middle between two codes"
        result += "" if products is None else f"; {products:,.0f} products on integers"
        meaning = "The file as OpenVINO runs it, and the executor, with the same tensors in front of every quantizer."
        return Finding(f"File for {printable(profile)}", result, meaning, not differ)
    meaning = (
        "The file in half precision and the one for ONNX Runtime, both run by ONNX Runtime with the same tensors in "
        "front of every quantizer. What an engine computes is checked when it is built on its device."
    )
    return Finding(f"File for {printable(profile)}", result, meaning, not differ)


@dataclass(frozen=True)
class Fidelity:
    """How close the quantized model is to the float model, each with what it means."""

    agreement: str
    agreement_note: str
    sqnr: str
    sqnr_note: str


def fidelity(manifest: Manifest, words: Words) -> Fidelity:
    """Agreement and SQNR with the number of images behind them."""
    v = manifest.verification
    agree, db, n = number(v, "float_agreement"), number(v, "float_sqnr_db"), number(v, "images")
    agreement, note = "not measured", ""
    if agree is not None:
        agreement, note = percent(agree), f"same {words.same} as the float model"
        if n:
            low, high = interval(agree, round(n))
            sure = f"95 % interval {100 * low:.0f} to {100 * high:.0f} %"
            note = f"{share_of_images(agree, n)} keep their {words.same}; {sure}"
    on = f" (n = {n:,.0f})" if n else ""
    if db is None:
        return Fidelity(agreement, note, "not measured", "")
    if db >= EQUAL_DB:
        return Fidelity(agreement, note, "exact", f"{words.signal} equal the float model's{on}")
    noise = percent(10 ** (-db / 20))
    return Fidelity(
        agreement, note, f"{db:.1f} dB", f"{words.signal.removesuffix('s')} error is {noise} of the signal, rms{on}"
    )


def share_of_images(share: float, images: float | None) -> str:
    """28 of 32 images, or the percentage where the number of images is not known."""
    if not images:
        return f"{percent(share)} of images"
    return f"{share * images:,.0f} of {_images(images)}"


def number(values: Mapping[str, Any], key: str) -> float | None:
    """`values[key]` if it is a number."""
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _images(count: float) -> str:
    return f"{count:,.0f} image" + ("" if count == 1 else "s")
