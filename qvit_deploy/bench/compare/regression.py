"""Is a candidate worse than a baseline? Latency by interval and threshold; size, memory and accuracy by threshold."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.artifacts.measurement import Measurement, Subject
from qvit_deploy.bench.compare.stats import Ratio, paired_ratio, ratio
from qvit_deploy.bench.device.environment import differences
from qvit_deploy.errors import InputError

MAX_SLOWDOWN = 0.03

Named = tuple[Path, Measurement]


@dataclass(frozen=True)
class Thresholds:
    """What is allowed; None is not checked. Growth and drops are against the baseline.

    Attributes:
        max_slowdown, max_size_growth, max_memory_growth: relative, 0.03 is 3 %.
        min_top1, max_top1_drop, min_agreement: shares, so a drop of 0.01 is one point.
    """

    max_slowdown: float = MAX_SLOWDOWN
    max_size_growth: float | None = None
    max_memory_growth: float | None = None
    min_top1: float | None = None
    max_top1_drop: float | None = None
    min_agreement: float | None = None


@dataclass(frozen=True)
class Finding:
    """One thing checked. `text` says what was found and what was allowed, on one line."""

    name: str
    failed: bool
    text: str


@dataclass(frozen=True)
class Report:
    """The outcome of a check.

    Attributes:
        latency: candidate over baseline; of times relative to the reference workload, when the sides were measured
            apart on one kind of machine and both have it.
        findings: latency first.
        notes: what the reader should know but what fails nothing.
    """

    baseline: Subject
    candidate: Subject
    latency: Ratio
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> bool:
        return any(f.failed for f in self.findings)

    @property
    def title(self) -> str:
        """What was compared. Files of two bundles have the same name, so digests tell them apart."""
        new, old = self.candidate.file, self.baseline.file
        if new.name != old.name:
            return f"{new.name} against {old.name}"
        if new.sha256 == old.sha256:
            return f"{new.name} against the same file (sha256 {new.sha256[:8]})"
        return f"{new.name} (sha256 {new.sha256[:8]}) against {old.name} (sha256 {old.sha256[:8]})"


def check(
    baselines: Sequence[Named],
    candidates: Sequence[Named],
    thresholds: Thresholds,
    allow_different_environments: bool = False,
) -> Report:
    """Compares measurements.

    Args:
        baselines: of the same file, on the same machine. Empty: every candidate was measured `--against` its baseline.
        candidates: likewise.

    Raises:
        InputError: the environments differ, a measurement has no other side, several of one side are of different
            files, or a threshold needs a number that was not measured.
    """
    notes = []
    everything = [*baselines, *candidates]
    for path, other in everything[1:]:
        found = differences(everything[0][1], other)
        if found and not allow_different_environments:
            raise InputError(
                f"{everything[0][0]} and {path} come from different environments ({'; '.join(found)}); measure both "
                "on one machine, best in one run with --against, or pass --allow-different-environments"
            )
        notes += [f"{path} was measured elsewhere: {said}" for said in found]
    olds, news = _sides(baselines, candidates)
    for side in (olds, news):
        _require_one_file(side)
    if baselines:
        relative = not notes and all(p.yardstick_ms for _, s in [*olds, *news] for p in s.processes)
        latency = ratio(*([_blocks(s, relative) for _, s in side] for side in (olds, news)))
        notes.append(_speeds(olds, news) if relative else _APART)
    else:
        latency = paired_ratio([(_blocks(o), _blocks(n)) for (_, o), (_, n) in zip(olds, news, strict=True)])
    notes += _notes(latency, [*olds, *news])
    (old_path, old), (new_path, new) = olds[0], news[0]
    findings = [_latency(latency, thresholds.max_slowdown)]
    for name, limit, values in (
        ("size", thresholds.max_size_growth, [(p, s.file.bytes) for p, s in (olds[0], news[0])]),
        ("memory", thresholds.max_memory_growth, _memory(olds[0], news[0])),
    ):
        if limit is not None:
            before, after = (_measured(f"peak {name}", p, v) for p, v in values)
            findings.append(_growth(name, before, after, limit))
    if thresholds.min_top1 is not None:
        findings.append(_at_least("top-1", _top1(new_path, new), thresholds.min_top1))
    if thresholds.max_top1_drop is not None:
        before, after = _top1(old_path, old), _top1(new_path, new)
        text = f"{before:.1%} -> {after:.1%}, at most {100 * thresholds.max_top1_drop:g} points lower"
        findings.append(Finding("top-1 drop", before - after > thresholds.max_top1_drop, text))
    if thresholds.min_agreement is not None:
        share = _measured(
            "agreement with the float model", new_path, None if new.quality is None else new.quality.agreement
        )
        findings.append(_at_least("agreement", share, thresholds.min_agreement))
    return Report(old, new, latency, tuple(findings), tuple(notes))


def _sides(
    baselines: Sequence[Named], candidates: Sequence[Named]
) -> tuple[list[tuple[Path, Subject]], list[tuple[Path, Subject]]]:
    if baselines:
        return list(baselines), list(candidates)
    olds: list[tuple[Path, Subject]] = []
    for path, found in candidates:
        if found.against is None:
            raise InputError(f"{path}: holds one file only; name a baseline, or measure with bench --against BASELINE")
        olds.append((path, found.against))
    return olds, list(candidates)


def _require_one_file(side: Sequence[tuple[Path, Subject]]) -> None:
    for path, subject in side[1:]:
        if subject.file.sha256 != side[0][1].file.sha256:
            raise InputError(
                f"{side[0][0]} and {path} are given for one side but measured different files "
                f"({side[0][1].file.name}, {subject.file.name})"
            )


def _blocks(subject: Subject, relative: bool = False) -> list[tuple[float, ...]]:
    """Block medians in ms, or in units of the reference workload's block that was measured next to each."""
    if not relative:
        return [p.blocks_ms for p in subject.processes]
    pairs = [zip(p.blocks_ms, p.yardstick_ms or (), strict=True) for p in subject.processes]
    return [tuple(own / reference for own, reference in pair) for pair in pairs]


SAME_SPEED = 0.1
"""Change of the reference workload's time above which `check` says not to trust it: what slows the machine down so much
slows a file and the reference down by shares that differ (docs/bench.md, "How often it is wrong")."""

_APART = "measured apart: a change of the machine's speed between them counts as the model's (use --against)"


def reference_ms(subjects: Iterable[Subject]) -> float:
    """Median time of the reference workload in all their blocks."""
    return statistics.median(y for s in subjects for p in s.processes for y in p.yardstick_ms or ())


def _speeds(olds: Sequence[tuple[Path, Subject]], news: Sequence[tuple[Path, Subject]]) -> str:
    before, after = (reference_ms(s for _, s in side) for side in (olds, news))
    change = after / before - 1
    said = (
        f"measured apart, times taken relative to the yardstick, which the machine ran in {before:.3f} ms for the "
        f"baseline and {after:.3f} ms for the candidate ({change:+.1%})"
    )
    if abs(change) <= SAME_SPEED:
        return said
    return f"{said}: too different for telling a few percent, which may be missed or made up; use --against"


def _latency(found: Ratio, limit: float) -> Finding:
    low, high = found.interval
    slower = found.value - 1
    failed = low > 1 and slower > limit
    said = f"{abs(slower):.1%} {'slower' if slower > 0 else 'faster'}, 95 % interval {low - 1:+.1%} to {high - 1:+.1%}"
    return Finding("latency", failed, f"{said}; allowed {limit:+.1%}")


def _memory(*sides: tuple[Path, Subject]) -> list[tuple[Path, int | None]]:
    """The GPU's, where both sides ran on one; else that of the processes."""
    if all(s.device_memory_bytes for _, s in sides):
        return [(p, s.device_memory_bytes) for p, s in sides]
    return [(p, s.peak_memory_bytes) for p, s in sides]


def _growth(name: str, before: float, after: float, limit: float) -> Finding:
    grown = after / before - 1
    return Finding(
        name, grown > limit, f"{before / 1e6:.2f} -> {after / 1e6:.2f} MB ({grown:+.1%}); allowed {limit:+.1%}"
    )


def _at_least(name: str, share: float, least: float) -> Finding:
    return Finding(name, share < least, f"{share:.1%}; at least {least:.1%}")


def _measured(what: str, path: Path, value: float | None) -> float:
    if value is None:
        raise InputError(f"{path}: has no {what}, which a threshold asks for; measure it (bench --data for accuracy)")
    return value


def _top1(path: Path, subject: Subject) -> float:
    return _measured("top-1", path, None if subject.quality is None else subject.quality.top1)


def _notes(found: Ratio, subjects: Iterable[tuple[Path, Subject]]) -> list[str]:
    notes = []
    low, high = found.interval
    if high - low > 2 * MAX_SLOWDOWN:
        notes.append(f"the interval is {high - low:.1%} wide: use more --processes, or an idle machine")
    for path, subject in subjects:
        if len(subject.processes) == 1:
            notes.append(f"{path}: {subject.file.name} ran in one process; how processes differ is not known")
        restless = sum(p.stable is False for p in subject.processes)
        if 2 * restless > len(subject.processes):
            notes.append(
                f"{path}: times of {subject.file.name} had not settled after the warm-up in {restless} of "
                f"{len(subject.processes)} processes"
            )
    return notes
