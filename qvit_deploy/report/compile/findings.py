"""Words the verification in a manifest as rows of the report. A row whose numbers the manifest lacks is left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from qvit_deploy.artifacts.manifest import Manifest
from qvit_deploy.artifacts.verification import FileVerification, Verification
from qvit_deploy.report.labels import printable
from qvit_deploy.report.numbers import digits, interval, percent
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.targets.target import Reading
from qvit_deploy.tasks.task import Words

UNKNOWN = Reading("The file, and the one for ONNX Runtime, with the same tensors in front of every quantizer.")
"""The reading of the verification of a target that this version does not have."""

SHOWN_OUTPUTS = 5
"""Outputs of the original that are listed, worst first."""

EQUAL_DB = 200.0
"""SQNR that `tasks.metrics` gives for equal outputs."""


@dataclass(frozen=True)
class VerificationRow:
    """One row of the verification table.

    Attributes:
        what: the quantity.
        result: its value.
        meaning: a sentence that interprets it.
        good: whether the check passed; None where there is nothing to pass.
    """

    what: str
    result: str
    meaning: str
    good: bool | None = None


def findings(verification: Verification, words: Words) -> list[VerificationRow]:
    """Returns the rows of the verification table for which `verification` has numbers."""
    rows = [row(verification) for row in (_original, _codes, _worst_site, _fused, _in_float)]
    rows += [_free_running(verification, words)]
    rows += [_file(name, file) for name, file in verification.targets.items()]
    return [row for row in rows if row is not None]


def _original(v: Verification) -> VerificationRow | None:
    if v.original is None:
        return None
    if v.original.worst is None:
        why = printable(v.original.unavailable or "no reason given")
        meaning = f"What the float model is called here was not compared with the model that was handed in: {why}."
        return VerificationRow("Against the original", "not compared", meaning, False)
    errors = sorted(v.original.errors.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{printable(name)} {error:.1e}" for name, error in errors[:SHOWN_OUTPUTS])
    more = f" and {len(errors) - SHOWN_OUTPUTS} more below" if len(errors) > SHOWN_OUTPUTS else ""
    on = "" if v.original.images is None else f" on {_images(v.original.images)}"
    meaning = (
        "Largest error of each output of the float model, relative to its size, against the model as it was given, "
        f"run by {v.original.runtime}{on}: no more than the noise of floating point."
    )
    return VerificationRow("Against the original", shown + more, meaning, True)


def _codes(v: Verification) -> VerificationRow | None:
    if v.codes is None or v.code_mismatches is None:
        return None
    on = "" if v.probe_images is None else f" on {_images(v.probe_images)}"
    meaning = "Every integer the runtime computes is the one that was planned, site by site."
    if v.code_mismatches:
        meaning = "The runtime does not compute the planned integers; do not deploy this bundle."
    result = f"{v.codes:,} compared{on}: {_differ(v.code_mismatches)}"
    return VerificationRow("Activation codes", result, meaning, not v.code_mismatches)


def _worst_site(v: Verification) -> VerificationRow | None:
    error, site = v.worst_site_error, v.worst_site
    if error is None or site is None:
        return None
    result = f"{printable(site)}: {digits(error)} of its largest value" if error else "no difference at any site"
    return VerificationRow("Worst site", result, "Largest difference of a site's output between runtime and executor.")


def _fused(v: Verification) -> VerificationRow | None:
    fused, expected = v.integer_products, v.expected_integer_products
    if fused is None or expected is None:
        return None
    short = expected - fused
    meaning = "ONNX Runtime multiplies integers in all of them, not floats that were quantized and restored."
    if short > 0:
        meaning = f"{short:,} run in floating point inside ONNX Runtime: correct, but slower than they should be."
    return VerificationRow("Integer products", f"{fused:,} of {expected:,} fused", meaning, short <= 0)


def _in_float(v: Verification) -> VerificationRow | None:
    if not v.float_products:
        return None
    meaning = (
        "ONNX Runtime fuses no integer product for them: convolutions whose output stays in float (the file for "
        "onnxruntime-fused runs those on integers) and probabilities with logarithmic codes."
    )
    return VerificationRow(
        "Products in floating point", f"{len(v.float_products)}: {_first(v.float_products)}", meaning
    )


def _free_running(v: Verification, words: Words) -> VerificationRow | None:
    agree, error = v.logits_agreement, v.logits_error
    if error is None:
        return None
    same = "" if agree is None else f"same {words.same} on {_share_of(words, agree, v.images)}; "
    result = f"{same}{words.signal} within {percent(error)} of the largest"
    meaning = (
        "Runtime against executor with nothing held equal: a last-digit difference of floats can move a value to the "
        "next code, and later layers carry it on."
    )
    return VerificationRow("Running freely", result, meaning)


def _file(name: str, verification: FileVerification) -> VerificationRow | None:
    """Returns the row of a file that was verified against the reference's."""
    if verification.codes is None or verification.code_mismatches is None:
        return None
    target = TARGETS.get(name)
    reading = UNKNOWN if target is None else target.reading(target.read(verification))
    result = f"{verification.codes:,} codes compared: " + _differ(verification.code_mismatches)
    if reading.free_codes_equal is not None:
        result += f"; {percent(reading.free_codes_equal)} running freely"
    if reading.in_float:
        result += f"; {len(reading.in_float)} in floating point: {_first(reading.in_float)}"
    result += printable(reading.result)
    return VerificationRow(f"File for {printable(name)}", result, reading.meaning, not verification.code_mismatches)


def left_out(reasons: Mapping[str, str]) -> list[VerificationRow]:
    """Returns a row for each target that has no file in the bundle, by the reason."""
    meaning = "This target failed its verification, so the bundle has no file for it; the other files are not affected."
    return [
        VerificationRow(f"File for {printable(name)}", f"left out: {printable(reason)}", meaning, False)
        for name, reason in reasons.items()
    ]


def _differ(count: int) -> str:
    return f"{count:,} differ" if count else "all equal"


def _first(sites: Collection[str]) -> str:
    """Returns the names of the first three sites, and "..." if there are more."""
    return ", ".join(printable(site) for site in list(sites)[:3]) + (", ..." if len(sites) > 3 else "")


_HELD_OUT = {True: " that nothing was fitted to", False: " that calibration used: data had too few others", None: ""}
"""What images a quality was measured on; earlier versions did not say."""


@dataclass(frozen=True)
class Fidelity:
    """The agreement of the quantized model with the float model and its SQNR, as texts with notes."""

    agreement: str
    agreement_note: str
    sqnr: str
    sqnr_note: str


def fidelity(manifest: Manifest, words: Words) -> Fidelity:
    """Returns agreement and SQNR with the number of images they were measured on."""
    v = manifest.verification
    agree, db, n = v.float_agreement, v.float_sqnr_db, v.images
    agreement, note = "not measured", ""
    if agree is not None:
        agreement, note = percent(agree), f"same {words.same} as the float model"
        if n and words.counted == "images":
            low, high = interval(agree, n)
            confidence = f"95 % interval {100 * low:.0f} to {100 * high:.0f} %"
            note = f"{share_of_images(agree, n)} keep their {words.same}; {confidence}"
    on = f" (n = {n:,}{_HELD_OUT[v.held_out]})" if n else ""
    if db is None:
        return Fidelity(agreement, note, "not measured", "")
    if db >= EQUAL_DB:
        return Fidelity(agreement, note, "exact", f"{words.signal} equal the float model's{on}")
    error = f"{words.signal.removesuffix('s')} error is {percent(10 ** (-db / 20))} of the signal, rms{on}"
    ranked = sorted(v.sqnr_by_output.items(), key=lambda item: item[1])
    if len(ranked) > 1:
        error = f"worst output; {error}: " + ", ".join(f"{printable(name)} {each:.1f} dB" for name, each in ranked)
    return Fidelity(agreement, note, f"{db:.1f} dB", error)


def _share_of(words: Words, share: float, images: int | None) -> str:
    return share_of_images(share, images) if words.counted == "images" else f"{percent(share)} of {words.counted}"


def share_of_images(share: float, images: int | None) -> str:
    """Returns "28 of 32 images", or the percentage if the number of images is not known."""
    if not images:
        return f"{percent(share)} of images"
    return f"{share * images:,.0f} of {_images(images)}"


def number(values: Mapping[str, Any], key: str) -> float | None:
    """Returns `values[key]` if it is a number, else None."""
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _images(count: int) -> str:
    return f"{count:,} image" + ("" if count == 1 else "s")
