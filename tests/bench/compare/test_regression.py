from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvit_deploy.artifacts.measurement import Measurement
from qvit_deploy.bench.compare.outputs import as_tree, benchmark_action, junit, markdown
from qvit_deploy.bench.compare.regression import Named, Report, Thresholds, check
from qvit_deploy.errors import InputError
from tests.support.artifacts.measurements import noisy, subject, tree

QUALITY = {"top1": 0.84, "agreement": 0.95, "n": 1000}


def named(name: str, level: float, seed: int, **more: Any) -> Named:
    return Path(f"{name}{seed}.json"), Measurement.model_validate(tree(name, noisy(level, seed), **more))


def report(old: float = 5, new: float = 5, thresholds: Thresholds = Thresholds(), **more: Any) -> Report:  # noqa: B008
    return check([named("old", old, 1)], [named("new", new, 2, **more)], thresholds)


def failures(compared: Report) -> list[str]:
    return [f.name for f in compared.criteria if f.failed]


def test_the_title_tells_files_of_one_name_apart() -> None:
    compared = report()
    assert compared.title == "new.onnx against old.onnx"
    alike = compared.candidate.file.model_copy(update={"name": "old.onnx"})
    renamed = replace(compared, candidate=compared.candidate.model_copy(update={"file": alike}))
    assert renamed.title == "old.onnx (sha256 bbbbbbbb) against old.onnx (sha256 aaaaaaaa)"
    assert "| sha256 | aaaaaaaa | bbbbbbbb | |" in markdown(renamed)
    assert replace(compared, candidate=compared.baseline).title == "old.onnx against the same file (sha256 aaaaaaaa)"


def test_no_change_passes_and_a_clear_slowdown_fails() -> None:
    assert not report().failed and failures(report(5, 5.5)) == ["latency"]
    assert not report(5, 4).failed


def test_a_slowdown_needs_the_threshold_too() -> None:
    sure = report(5, 5.12)
    assert sure.latency.interval[0] > 1 and not sure.failed
    assert report(5, 5.12, Thresholds(max_slowdown=0.01)).failed


def test_a_slowdown_needs_an_interval_too() -> None:
    wild = [
        (Path("a.json"), Measurement.model_validate(tree(n, noisy(v, s, processes=4, spread=0.2))))
        for n, v, s in (("old", 5, 1), ("new", 7, 5))
    ]
    compared = check(wild[:1], wild[1:], Thresholds())
    assert compared.latency.value > 1.03 and not compared.failed
    assert any("wide" in note for note in compared.notes)


def with_reference(name: str, level: float, seed: int, speed: float) -> Named:
    """A machine `speed` times as slow, for the file and for the reference workload."""
    whole = tree(name, (speed * np.array(noisy(level, seed))).tolist())
    for process, blocks in zip(whole["processes"], (speed * np.array(noisy(0.5, seed + 50))).tolist(), strict=True):
        process["yardstick_ms"] = blocks
    return Path(f"{name}{seed}.json"), Measurement.model_validate(whole)


def test_the_reference_tells_a_slow_machine_from_a_slow_model() -> None:
    base = with_reference("old", 5, 1, speed=1)
    same = check([base], [with_reference("new", 5, 2, speed=1.3)], Thresholds())
    assert not same.failed and same.latency.value == pytest.approx(1, abs=0.02)
    assert any("reference workload" in n and "+30" in n and "use --against" in n for n in same.notes)
    like = check([base], [with_reference("new", 5, 2, speed=1.05)], Thresholds())
    assert any("reference workload" in n and "+5" in n for n in like.notes)
    assert not any("too different" in n for n in like.notes)
    slow = check([base], [with_reference("new", 5.5, 2, speed=0.8)], Thresholds())
    assert slow.failed and slow.latency.value == pytest.approx(1.1, abs=0.02)


def test_the_reference_does_not_compare_machines() -> None:
    base, (path, new) = with_reference("old", 5, 1, speed=1), with_reference("new", 5, 2, speed=1.3)
    other = new.model_copy(update={"environment": new.environment.model_copy(update={"cpu": "another"})})
    compared = check([base], [(path, other)], Thresholds(), allow_different_environments=True)
    assert compared.latency.value == pytest.approx(1.3, abs=0.03) and any("measured apart" in n for n in compared.notes)


def test_one_run_that_measured_both() -> None:
    both = named("new", 5.5, 2, against=subject("old", noisy(5, 1)))
    compared = check([], [both], Thresholds())
    assert compared.failed and compared.latency.interleaved and compared.baseline.file.name == "old.onnx"
    with pytest.raises(InputError, match=r"new2\.json: holds one file only.*--against"):
        check([], [named("new", 5, 2)], Thresholds())


def test_several_of_each_side() -> None:
    olds, news = [named("old", 5, i) for i in range(3)], [named("new", 5.5, 10 + i) for i in range(3)]
    compared = check(olds, news, Thresholds())
    assert compared.failed and compared.latency.units == 3
    with pytest.raises(InputError, match=r"old0\.json and new10\.json are given for one side"):
        check([olds[0], news[0]], news, Thresholds())


def grown(size: int, memory: int) -> dict[str, Any]:
    return {"file": {"name": "new.onnx", "sha256": "b" * 64, "bytes": size}, "peak_memory_bytes": memory}


@pytest.mark.parametrize(
    ("thresholds", "failed"),
    [
        (Thresholds(), []),
        (Thresholds(max_size_growth=0.05), ["size"]),
        (Thresholds(max_size_growth=0.15), []),
        (Thresholds(max_memory_growth=0.01), ["memory"]),
        (Thresholds(min_top1=0.85), ["top-1"]),
        (Thresholds(min_top1=0.8, min_agreement=0.94), []),
        (Thresholds(max_top1_drop=0.01), ["top-1 drop"]),
        (Thresholds(max_top1_drop=0.03, min_agreement=0.96), ["agreement"]),
    ],
)
def test_thresholds_other_than_latency(thresholds: Thresholds, failed: list[str]) -> None:
    old = named("old", 5, 1, peak_memory_bytes=100, quality={"top1": 0.86, "n": 1000})
    new = named("new", 5, 2, quality=QUALITY, **grown(1100, 120))
    compared = check([old], [new], thresholds)
    assert failures(compared) == failed and compared.criteria[0].name == "latency"


@pytest.mark.parametrize(
    ("thresholds", "words"),
    [
        (Thresholds(min_top1=0.5), "new2.json: has no top-1"),
        (Thresholds(max_top1_drop=0.5), "old1.json: has no top-1"),
        (Thresholds(min_agreement=0.5), "new2.json: has no agreement"),
        (Thresholds(max_memory_growth=0.5), "old1.json: has no peak memory"),
    ],
)
def test_a_threshold_without_its_number_is_refused(thresholds: Thresholds, words: str) -> None:
    with pytest.raises(InputError, match=words):
        report(thresholds=thresholds)


@pytest.mark.parametrize(
    ("part", "field", "value", "words"),
    [
        ("environment", "cpu", "another", "cpu: a cpu / another"),
        ("environment", "power_mode", "MAXN", "power_mode: unknown / MAXN"),
        ("environment", "versions", {"onnxruntime": "1.33.0"}, "version of onnxruntime: 1.32.0 / 1.33.0"),
        ("settings", "threads", 4, "threads: 1 / 4"),
        ("settings", "flags", {"noSpinWait": "on"}, "flags: none / noSpinWait=on"),
    ],
)
def test_different_environments_are_refused(part: str, field: str, value: object, words: str) -> None:
    old, (path, new) = named("old", 5, 1), named("new", 5, 2)
    other = new.model_copy(update={part: getattr(new, part).model_copy(update={field: value})})
    with pytest.raises(InputError) as caught:
        check([old], [(path, other)], Thresholds())
    assert words in str(caught.value) and "old1.json and new2.json" in str(caught.value)
    allowed = check([old], [(path, other)], Thresholds(), allow_different_environments=True)
    assert any(words in note for note in allowed.notes)


def test_kernel_memory_and_load_may_differ() -> None:
    old, (path, new) = named("old", 5, 1), named("new", 5, 2)
    update = {"os": "Linux 7", "memory_bytes": 5, "load_average": 9.0}
    other = new.model_copy(update={"environment": new.environment.model_copy(update=update)})
    assert not check([old], [(path, other)], Thresholds()).failed


def test_notes_say_what_weakens_the_answer() -> None:
    restless = tree("new", noisy(5, 2))
    for process in restless["processes"]:
        process["stable"] = False
    compared = check([named("old", 5, 1)], [(Path("n.json"), Measurement.model_validate(restless))], Thresholds())
    assert any("had not settled" in note for note in compared.notes)
    assert any("measured apart" in note for note in compared.notes)
    alone = Measurement.model_validate(tree("new", noisy(5, 2, processes=1)))
    assert any("one process" in n for n in check([named("old", 5, 1)], [(Path("n"), alone)], Thresholds()).notes)


def test_outputs_say_the_same() -> None:
    compared = report(5, 5.5, Thresholds(max_size_growth=0.5))
    suite = ET.fromstring(junit(compared))
    assert suite.get("tests") == "2" and suite.get("failures") == "1"
    assert [c.find("failure") is not None for c in suite.findall("testcase")] == [True, False]
    text = markdown(compared)
    assert "regression" in text and "| ❌ | latency |" in text and "| ✅ | size |" in text
    rows = benchmark_action(compared.candidate)
    assert {r["unit"] for r in rows} == {"ms", "bytes"} and all(r["value"] > 0 for r in rows)
    assert {"name", "unit", "value"} <= set(rows[0])
    assert json.loads(json.dumps(as_tree(compared)))["failed"] is True


def test_a_file_name_cannot_break_a_table() -> None:
    file = {"name": "a|b<img src=x>\n.onnx", "sha256": "b" * 64, "bytes": 5}
    row = next(line for line in markdown(report(file=file)).splitlines() if line.startswith("| file"))
    assert "a\\|b&lt;img" in row and row.endswith("| |")
