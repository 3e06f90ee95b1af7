"""A target that is added through the registry alone is compiled, verified, linted, told, evaluated and measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.artifacts.verification import FileVerification
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.lint import Finding, LintTarget
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.forced_comparison import probe_images
from qvit_deploy.targets.onnxruntime.target import OnnxRuntime
from qvit_deploy.targets.registry import REFERENCE, TARGETS, runtime_of, target_called, targets_of, with_known_targets
from qvit_deploy.targets.runtime import ModelSession
from qvit_deploy.targets.target import EmissionJob, Reading, Target, VerificationJob
from tests.support.command_line import Command
from tests.support.graphs.quantizable_graphs import mixed_vit

LEAST = {"uniform": "w8a8", "calibration_images": 6, "batch_size": 3, "compensate": "none", "row_importance": "none"}


class AbacusVerification(FileVerification):
    """`beads`: how many nodes the file has."""

    beads: int | None = None


class AbacusRuntime(OnnxRuntime):
    """ONNX Runtime that counts what it opened."""

    name = "abacus"

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open(self, model: Path | bytes, threads: int) -> ModelSession:
        self.opened.append(Path(str(model)).name)
        return super().open(model, threads)


class Abacus(Target[Graph, AbacusVerification]):
    """The Q/DQ graph under another producer's name."""

    name = "abacus"
    summary = "the Q/DQ graph, counted by hand"
    library = "numpy"
    verified = AbacusVerification
    linted_for: LintTarget = "onnxruntime"

    def __init__(self, broken: bool = False) -> None:
        self.runtime = AbacusRuntime()
        self.broken = broken

    def emit(self, job: EmissionJob) -> Graph:
        emitted = job.reference.clone()
        emitted.model.producer_name = "abacus"
        return emitted

    def verify(self, emitted: Graph, job: VerificationJob) -> AbacusVerification:
        probed, beads = probe_images(job.images, emitted.static_batch), len(list(emitted.nodes()))
        return AbacusVerification(
            images=len(job.images), probe_images=len(probed), codes=60, code_mismatches=0, worst_site="head",
            worst_site_error=0.0, beads=beads,
        )  # fmt: skip

    def lint(self, model: ir.Model) -> list[Finding]:
        return [Finding("ABA001", "error" if self.broken else "note", "fc1", "too many beads", "take some away")]

    def line(self, verification: AbacusVerification) -> str:
        return f"{verification.codes} codes on {verification.beads} beads"

    def reading(self, verification: AbacusVerification) -> Reading:
        return Reading("Counted by hand.", f"; {verification.beads} beads")


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch) -> Abacus:
    target = Abacus()
    monkeypatch.setitem(TARGETS, target.name, target)
    return target


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """MODEL and the flags that bring its images."""
    (tmp_path / "tiny.onnx").write_bytes(mixed_vit().serialize())
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=random.integers(0, 5, 8))
    (tmp_path / "p.json").write_text(json.dumps({"input_size": [3, 16, 16], "mean": [0.5], "std": [0.25]}))
    (tmp_path / "r.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in LEAST.items()))
    return [str(tmp_path / name) for name in ("tiny.onnx", "images.npz", "p.json", "r.toml")]


Program = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(qvit: Command) -> Program:
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        done = qvit(*arguments)
        return done.code, done.out, done.err

    return run


def test_one_that_is_added_goes_through_every_command(
    abacus: Abacus, files: list[str], tmp_path: Path, run: Program
) -> None:
    model, images, preprocess, recipe = files
    out = tmp_path / "out"
    flags = ("--calib", images, "--preprocess", preprocess, "--recipe", recipe, "--target", "abacus")
    code, said, _ = run("compile", model, "-o", out, *flags)
    manifest = read_bundle(out).manifest
    beads = abacus.read(manifest.verification.targets["abacus"]).beads
    assert code == 0 and f"60 codes on {beads} beads" in " ".join(said.split())
    assert manifest.recipe["targets"] == ["onnxruntime", "abacus"]
    assert manifest.verification.lint["abacus"] == {"ABA001": 1}
    assert onnx.load(str(out / "model.abacus.onnx")).producer_name == "abacus"
    page = (out / "report.html").read_text()
    assert "File for abacus" in page and f"60 codes compared: all equal; {beads} beads" in page
    assert "Counted by hand." in page

    code, said, _ = run("eval", out, "--data", images, "--target", "abacus", "--json")
    assert code == 0 and json.loads(said)["n"] == 8 and abacus.runtime.opened == ["model.abacus.onnx"]

    code, said, _ = run("inspect", out, "--json")
    assert code == 0 and json.loads(said)["models"]["model.abacus.onnx"]["lint"]["profile"] == "onnxruntime"

    quick = ("--processes", 1, "--iterations", 12)
    code, said, _ = run("bench", out, "--target", "abacus", *quick, "--json")
    measured = json.loads(said)
    assert code == 0 and measured["file"]["name"] == "model.abacus.onnx" and measured["settings"]["runtime"] == "abacus"
    assert measured["profile"]["sites"]


class Jammed(Abacus):
    """An abacus that counts wrong."""

    def verify(self, emitted: Graph, job: VerificationJob) -> AbacusVerification:
        raise CheckError("verification of abacus: 3 of 60 codes of 'fc1' differ")


class Broken(Abacus):
    """An abacus whose file cannot be written."""

    def emit(self, job: EmissionJob) -> Graph:
        raise CheckError("abacus: 'fc1' has more rows than there are rods")


class Refused(Abacus):
    """An abacus that does not take its own file."""

    def verify(self, emitted: Graph, job: VerificationJob) -> AbacusVerification:
        raise InputError("model: abacus cannot load it: a bead is missing")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Broken(), "abacus: 'fc1' has more rows than there are rods"),
        (Refused(), "model: abacus cannot load it: a bead is missing"),
        (Jammed(), "verification of abacus: 3 of 60 codes of 'fc1' differ"),
        (Abacus(broken=True), "lint: the abacus model breaks ABA001 at 'fc1': too many beads"),
    ],
)
def test_one_that_fails_is_left_out_and_the_others_are_written(
    target: Abacus, reason: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Program
) -> None:
    monkeypatch.setitem(TARGETS, "abacus", target)
    model, images, preprocess, recipe = files
    out = tmp_path / "out"
    flags = ("--calib", images, "--preprocess", preprocess, "--recipe", recipe)
    code, said, errors = run("compile", model, "-o", out, *flags, "--target", "abacus", "--json")
    bundle = read_bundle(out)
    assert code == 1 and json.loads(said)["left_out"] == bundle.manifest.left_out == {"abacus": reason}
    line = errors.splitlines()[-1]
    assert line.startswith(f"error: {out} was written without abacus, not verified: abacus: {reason};")
    assert "compile without --target abacus" in line
    assert sorted(bundle.manifest.files) == ["model.float.onnx", "model.onnxruntime.onnx", "report.html"]
    assert "abacus" not in bundle.manifest.verification.lint and not bundle.manifest.verification.targets
    assert "File for abacus" in (out / "report.html").read_text() and "left out" in (out / "report.html").read_text()
    code, _, errors = run("eval", out, "--data", images, "--target", "abacus")
    assert code == 2 and f"the compile left abacus out: {reason}" in errors

    code, said, _ = run("compile", model, "-o", tmp_path / "text", *flags, "--target", "abacus")
    assert code == 1 and "left out       abacus (not verified)" in said
    code, said, _ = run("compile", model, "-o", tmp_path / "whole", *flags)
    assert code == 0 and "left_out" not in (tmp_path / "whole" / "manifest.json").read_text()


def test_the_reference_that_fails_stops_the_compile(
    abacus: Abacus, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Program
) -> None:
    # Nothing that the compiler emits fails it.
    def fail(*_: object) -> None:
        raise CheckError("verification: codes differ")

    monkeypatch.setattr(type(REFERENCE), "verify", fail)
    model, images, preprocess, recipe = files
    flags = ("--calib", images, "--preprocess", preprocess, "--recipe", recipe, "--target", "abacus")
    code, said, errors = run("compile", model, "-o", tmp_path / "out", *flags)
    assert (code, said) == (1, "") and errors.splitlines()[-1] == "error: verification: codes differ"
    assert not (tmp_path / "out").exists()


def test_targets_have_one_order_and_the_reference_is_always_there() -> None:
    assert [t.name for t in targets_of(())] == ["onnxruntime"]
    assert [t.name for t in targets_of(["tensorrt-plugin", "openvino", "tensorrt"])] == [
        "onnxruntime", "openvino", "tensorrt", "tensorrt-plugin",
    ]  # fmt: skip
    assert with_known_targets(Recipe(targets=("openvino", "openvino"))).targets == ("onnxruntime", "openvino")


def test_one_that_there_is_not_is_refused_in_one_line(files: list[str], tmp_path: Path, run: Program) -> None:
    with pytest.raises(InputError, match=r"no target 'tflite'; choose from onnxruntime, onnxruntime-fused, openvino, "):
        target_called("tflite")
    model, images, preprocess, _ = files
    flags = ("--calib", images, "--preprocess", preprocess, "--target", "tflite")
    code, said, errors = run("compile", model, "-o", tmp_path / "out", *flags)
    assert code == 2 and said == "" and errors.count("\n") == 1 and "there is no target 'tflite'" in errors


def test_names_and_files_are_unique() -> None:
    assert [t.name for t in TARGETS.values()] == list(TARGETS) and next(iter(TARGETS.values())) is REFERENCE
    assert all(t.summary and "\n" not in t.summary for t in TARGETS.values())


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("model.onnxruntime.onnx", "onnxruntime"),
        ("model.tensorrt.onnx", "onnxruntime"),
        ("model.openvino.onnx", "openvino"),
        ("any.openvino.onnx", "openvino"),
        ("m.xml", "openvino"),
        ("m.engine", "engine"),
        ("m.plan", "engine"),
        ("anything.onnx", "onnxruntime"),
    ],
)
def test_a_file_runs_in_the_runtime_it_is_for(name: str, runtime: str) -> None:
    assert runtime_of(Path(name)).name == runtime
