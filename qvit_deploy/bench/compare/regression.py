"""Decides whether a candidate is worse than a baseline.

Latency fails by interval and threshold; size, memory and accuracy fail by threshold.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.artifacts.measurement import Measurement, Subject
from qvit_deploy.bench.compare.stats import Ratio, paired_ratio, ratio
from qvit_deploy.bench.device.environment import differences
from qvit_deploy.errors import InputError

MAX_SLOWDOWN = 0.03

Named = tuple[Path, Measurement]
"""A measurement and the file it was read from."""

NamedSubject = tuple[Path, Subject]
"""One measured file, and the file that the measurement was read from."""

SAME_SPEED = 0.1
"""Change of the reference workload's time above which `check` says not to trust it: what slows the machine down so much
slows a file and the reference workload down by different shares (docs/bench.md, "How often it is wrong")."""

_APART = "measured apart: a change of the machine's speed between them counts as the model's (use --against)"


@dataclass(frozen=True)
class Thresholds:
    """What is allowed; a threshold of None is not checked. Growth and drops are against the baseline.

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
class Criterion:
    """The outcome of one threshold. `text` says on one line what was measured and what is allowed."""

    name: str
    failed: bool
    text: str


@dataclass(frozen=True)
class Report:
    """The outcome of a check.

    Attributes:
        latency: candidate over baseline. Times are relative to the reference workload when the sides were measured
            apart on one kind of machine and both have it.
        criteria: latency first.
        notes: what the reader should know but does not fail the check.
    """

    baseline: Subject
    candidate: Subject
    latency: Ratio
    criteria: tuple[Criterion, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Returns whether any criterion failed."""
        return any(c.failed for c in self.criteria)

    @property
    def title(self) -> str:
        """Returns what is compared. Files of two bundles have the same name, so digests tell them apart."""
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
    notes = _environment_notes([*baselines, *candidates], allow_different_environments)
    olds, news = _sides(baselines, candidates)
    for side in (olds, news):
        _require_one_file(side)
    if baselines:
        relative = not notes and all(p.reference_ms for _, s in [*olds, *news] for p in s.processes)
        latency = ratio(*([_blocks(s, relative) for _, s in side] for side in (olds, news)))
        notes.append(_speed_note(olds, news) if relative else _APART)
    else:
        latency = paired_ratio([(_blocks(o), _blocks(n)) for (_, o), (_, n) in zip(olds, news, strict=True)])
    notes += _reliability_notes(latency, [*olds, *news])
    old, new = olds[0], news[0]
    criteria = [
        _latency(latency, thresholds.max_slowdown),
        *_resources(old, new, thresholds),
        *_accuracy(old, new, thresholds),
    ]
    return Report(old[1], new[1], latency, tuple(criteria), tuple(notes))


def _environment_notes(measurements: Sequence[Named], allow_different: bool) -> list[str]:
    """Notes how environments differ from the first one's. Raises InputError when they may not."""
    notes = []
    for path, other in measurements[1:]:
        unequal = differences(measurements[0][1], other)
        if unequal and not allow_different:
            raise InputError(
                f"{measurements[0][0]} and {path} come from different environments ({'; '.join(unequal)}); measure "
                "both on one machine, best in one run with --against, or pass --allow-different-environments"
            )
        notes += [f"{path} was measured elsewhere: {text}" for text in unequal]
    return notes


def _resources(old: NamedSubject, new: NamedSubject, thresholds: Thresholds) -> Iterator[Criterion]:
    """Checks the growth of the file and of peak memory."""
    for name, limit, values in (
        ("size", thresholds.max_size_growth, [(p, s.file.bytes) for p, s in (old, new)]),
        ("memory", thresholds.max_memory_growth, _memory(old, new)),
    ):
        if limit is not None:
            before, after = (_measured(f"peak {name}", p, v) for p, v in values)
            yield _growth(name, before, after, limit)


def _accuracy(old: NamedSubject, new: NamedSubject, thresholds: Thresholds) -> Iterator[Criterion]:
    """Checks top-1 and the agreement with the float model."""
    if thresholds.min_top1 is not None:
        yield _at_least("top-1", _top1(*new), thresholds.min_top1)
    if thresholds.max_top1_drop is not None:
        before, after = _top1(*old), _top1(*new)
        text = f"{before:.1%} -> {after:.1%}, at most {100 * thresholds.max_top1_drop:g} points lower"
        yield Criterion("top-1 drop", before - after > thresholds.max_top1_drop, text)
    if thresholds.min_agreement is not None:
        path, subject = new
        agreement = None if subject.quality is None else subject.quality.agreement
        share = _measured("agreement with the float model", path, agreement)
        yield _at_least("agreement", share, thresholds.min_agreement)


def _sides(baselines: Sequence[Named], candidates: Sequence[Named]) -> tuple[list[NamedSubject], list[NamedSubject]]:
    """Returns what is compared: baselines and candidates, or the two files that every candidate measured in turn."""
    if baselines:
        return list(baselines), list(candidates)
    olds: list[NamedSubject] = []
    for path, measurement in candidates:
        if measurement.against is None:
            raise InputError(f"{path}: holds one file only; name a baseline, or measure with bench --against BASELINE")
        olds.append((path, measurement.against))
    return olds, list(candidates)


def _require_one_file(side: Sequence[NamedSubject]) -> None:
    for path, subject in side[1:]:
        if subject.file.sha256 != side[0][1].file.sha256:
            raise InputError(
                f"{side[0][0]} and {path} are given for one side but measured different files "
                f"({side[0][1].file.name}, {subject.file.name})"
            )


def _blocks(subject: Subject, relative: bool = False) -> list[tuple[float, ...]]:
    """Returns block medians in ms, or relative to the reference workload's block that was measured next to each."""
    if not relative:
        return [p.blocks_ms for p in subject.processes]
    pairs = [zip(p.blocks_ms, p.reference_ms or (), strict=True) for p in subject.processes]
    return [tuple(own / reference for own, reference in pair) for pair in pairs]


def reference_workload_ms(subjects: Iterable[Subject]) -> float:
    """Returns the median time of the reference workload in all blocks of `subjects`, milliseconds."""
    return statistics.median(y for s in subjects for p in s.processes for y in p.reference_ms or ())


def _speed_note(olds: Sequence[NamedSubject], news: Sequence[NamedSubject]) -> str:
    """Says how the machine's speed differed between the two sides."""
    before, after = (reference_workload_ms(s for _, s in side) for side in (olds, news))
    change = after / before - 1
    text = (
        f"measured apart, times taken relative to the reference workload, which the machine ran in {before:.3f} ms "
        f"for the baseline and {after:.3f} ms for the candidate ({change:+.1%})"
    )
    if abs(change) <= SAME_SPEED:
        return text
    return f"{text}: too different for telling a few percent, which may be missed or made up; use --against"


def _latency(latency: Ratio, limit: float) -> Criterion:
    """Fails when the whole interval says slower and the ratio of medians exceeds the limit."""
    low, high = latency.interval
    slower = latency.value - 1
    failed = low > 1 and slower > limit
    text = f"{abs(slower):.1%} {'slower' if slower > 0 else 'faster'}, 95 % interval {low - 1:+.1%} to {high - 1:+.1%}"
    return Criterion("latency", failed, f"{text}; allowed {limit:+.1%}")


def _memory(*sides: NamedSubject) -> list[tuple[Path, int | None]]:
    """Returns the peak memory of the GPU, where both sides ran on one; else that of the processes."""
    if all(s.device_memory_bytes for _, s in sides):
        return [(p, s.device_memory_bytes) for p, s in sides]
    return [(p, s.peak_memory_bytes) for p, s in sides]


def _growth(name: str, before: float, after: float, limit: float) -> Criterion:
    growth = after / before - 1
    return Criterion(
        name, growth > limit, f"{before / 1e6:.2f} -> {after / 1e6:.2f} MB ({growth:+.1%}); allowed {limit:+.1%}"
    )


def _at_least(name: str, share: float, least: float) -> Criterion:
    return Criterion(name, share < least, f"{share:.1%}; at least {least:.1%}")


def _measured(what: str, path: Path, value: float | None) -> float:
    if value is None:
        raise InputError(f"{path}: has no {what}, which a threshold asks for; measure it (bench --data for accuracy)")
    return value


def _top1(path: Path, subject: Subject) -> float:
    return _measured("top-1", path, None if subject.quality is None else subject.quality.top1)


def _reliability_notes(latency: Ratio, subjects: Iterable[NamedSubject]) -> list[str]:
    """Notes what makes the result less certain: a wide interval, few processes, times that did not settle."""
    notes = []
    low, high = latency.interval
    if high - low > 2 * MAX_SLOWDOWN:
        notes.append(f"the interval is {high - low:.1%} wide: use more --processes, or an idle machine")
    for path, subject in subjects:
        if len(subject.processes) == 1:
            notes.append(f"{path}: {subject.file.name} ran in one process; how processes differ is not known")
        unsettled = sum(p.stable is False for p in subject.processes)
        if 2 * unsettled > len(subject.processes):
            notes.append(
                f"{path}: times of {subject.file.name} had not settled after the warm-up in {unsettled} of "
                f"{len(subject.processes)} processes"
            )
    return notes
