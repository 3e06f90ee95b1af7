"""`bench-sites` on TensorRT: models are emitted and engines built for real, by RTX or by stand-ins; none is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.bench.sites import times as site_times
from qvit_deploy.bench.sites.models import INDEX, OVERHEAD, read_index
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.tensorrt.engine import gpu
from qvit_deploy.targets.tensorrt.engine.gpu import Gpu, find_gpu
from tests.support.absent_libraries import without
from tests.support.artifacts.bundle_example import tree
from tests.support.command_line import REPOSITORY, Command, Inputs, Result, program
from tests.support.devices.driver_stand_in import compiled_driver
from tests.support.devices.recorded_device import Memory, milliseconds
from tests.support.graphs.quantizable_graphs import canonical
from tests.support.graphs.relevance_graphs import Builder

TENSORRT = ("--target", "tensorrt")
FEW = ("--processes", "1", "--iterations", "2", "--no-pin")
LIBRARY = "libqvit_plugins.so"
OPERATORS = "LayerNormQuantize4 LayerNormQuantize8 QLinearW4Codes4 QLinearW8Codes8 QLinearW4 QLinearW8"

SHARED = """
from tests.support.devices.recorded_device import Memory, compiling
memory = Memory()
api = compiling("11.4.0", memory)
"""
MODULES = {
    "shared_device.py": SHARED,
    "tensorrt.py": "from shared_device import api\n__version__ = api.version\n__getattr__ = api.__getattr__",
    "pycuda/__init__.py": "",
    "pycuda/driver.py": "from shared_device import memory\nglobals().update(vars(memory.module()))",
}


@pytest.fixture(scope="module")
def compiled(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with three sites, for ONNX Runtime alone: a table may come before the compile it is for."""
    folder, b = tmp_path_factory.mktemp("compiled"), Builder(0)
    x = b.layer_norm(b.op("Reshape", "image", b.constant([0, 12, 64])), 64, "norm")
    x = b.linear(b.op("Gelu", b.linear(x, 64, 96, "fc1")), 96, 64, "fc2")
    row = b.op("Gather", x, b.constant(np.int64(0)), axis=1)
    graph = canonical(b, b.linear(row, 64, 5, "head", "logits"), (3, 16, 16))
    (folder / "m.onnx").write_bytes(graph.serialize())
    recipe = Recipe(uniform="w8a8", compensate="none", row_importance="none", fold=False)
    preprocess = Preprocess.from_file(inputs.preprocess)
    compile(str(folder / "m.onnx"), folder / "b", calib=str(inputs.calib), recipe=recipe, preprocess=preprocess)
    return folder / "b"


@pytest.fixture
def bundle(compiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled, tmp_path / "b"))


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The driver of a GPU that is not there, with modules that have TensorRT's and pycuda's names."""
    folder = tmp_path / "device"
    for name, text in MODULES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return compiled_driver(folder)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """What the stand-in takes for a plugin library: the names of its operators."""
    (tmp_path / LIBRARY).write_text(OPERATORS)
    return tmp_path / LIBRARY


def refused(result: Result, *words: str) -> None:
    assert result.code == 2 and result.out == "" and len(result.errors) == 1, result
    assert all(word in result.errors[0] for word in words), result.errors[0]


def test_sites_in_plugins_on_a_device_that_is_not_there(
    device: Path, library: Path, qvit: Command, inputs: Inputs, compiled: Path, bundle: Path, tmp_path: Path
) -> None:
    """Emitted on one machine, timed on another, obeyed by a compile."""
    models, out = tmp_path / "models", tmp_path / "table.json"
    flags = (*TENSORRT, "--site-models", models)
    emitted = qvit("bench-sites", bundle, *flags, "--emit-only", "--bits", "4,8", "--plugin", LIBRARY, "--json")
    assert emitted.code == 0 and "models of the tensorrt-plugin file" in emitted.err, emitted.err
    index, before = read_index(models), tree(models)
    assert json.loads(emitted.out) == json.loads((models / INDEX).read_text())
    assert index.file_for == "tensorrt-plugin" and set(index.sites) == {
        s.name for s in read_bundle(bundle).manifest.sites
    }

    done = program(device, 87, "bench-sites", bundle, *flags, "--plugin", library, "-o", out, "--json", *FEW)
    assert done.code == 0, done.err
    assert f"{len(index.files)}/{len(index.files)}" in done.err and tree(models) == before  # one bar for all builds
    table = json.loads(done.out)
    assert table == json.loads(out.read_text())
    digest = FileRecord.of_file(library).sha256[:12]
    assert table["device"] == "Test GPU 7" and table["batch_size"] == 1
    assert table["fingerprint"] == f"Test GPU 7, SM87; tensorrt 11.4.0; tensorrt-plugin; {LIBRARY} {digest}"
    taken = {name: milliseconds((models / name).stat().st_size) for name in index.files}
    for site, files in index.sites.items():
        wanted = {w: taken[name] - taken[index.baselines.get(name, OVERHEAD)] for w, name in files.items()}
        assert table["sites"][site] == pytest.approx(wanted, abs=1e-3 * max(taken.values())), site
    assert set(index.baselines) == set(index.sites["fc1"].values())  # it reads the LayerNorm, fc2 and head do not
    # Files of different sizes take the stand-in differently long; what stays in float is one file at every width.
    assert table["sites"]["fc1"]["w4a4"] != table["sites"]["fc1"]["w8a8"]
    assert table["sites"]["head"]["w4a4"] == table["sites"]["head"]["w8a8"]

    budget = ("--bits", "4,8", "--latency-table", out, "--max-latency", 1000, "--effort", "fast", "--json")
    model = replace(inputs, model=compiled.parent / "m.onnx")
    obeyed = qvit(*model.arguments(tmp_path / "c", *budget))
    assert obeyed.code == 0 and json.loads(obeyed.out)["latency"]["fingerprint"] == table["fingerprint"], obeyed.err


@pytest.fixture
def at_hand(device: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with a GPU for this process too, and the driver and modules for those that it starts."""
    for place in (gpu, site_times):
        monkeypatch.setattr(place, "require_gpu", lambda what: Gpu("Test GPU 7", 87))
    Memory().install(monkeypatch)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(device.parent))
    monkeypatch.syspath_prepend(device.parent)  # which workers get
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(device.parent), str(REPOSITORY)]))
    return device.parent


def test_one_command_where_everything_is_installed(at_hand: Path, qvit: Command, bundle: Path) -> None:
    done = qvit("bench-sites", bundle, *TENSORRT, "--bits", "8", "--batch", 2, *FEW)
    assert (
        done.code == 0
        and "w8a8, ms" in done.out
        and "batch 2; Test GPU 7, SM87; tensorrt 11.4.0; tensorrt\n" in done.out
    ), done
    (table,) = (bundle / "measurements").glob("sites.tensorrt.batch2.*.json")
    assert json.loads(table.read_text())["device"] == "Test GPU 7"


def test_a_device_that_lacks_something(
    at_hand: Path, library: Path, qvit: Command, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, table = tmp_path / "models", tmp_path / "table.json"
    flags = (*TENSORRT, "--bits", "4", "--site-models", models)
    emitted = qvit("bench-sites", bundle, *flags, "--emit-only", "--plugin", LIBRARY)
    assert emitted.code == 0, emitted.err
    before = tree(models), tree(bundle)
    run = ("bench-sites", bundle, *flags, "-o", table, *FEW)
    refused(qvit(*run), f"{models} holds site models that run in the plugins of {LIBRARY}: pass --plugin")
    refused(qvit(*run, "--plugin", tmp_path / "none.so"), "no plugin library at", "none.so")
    library.write_text(OPERATORS.replace("QLinearW4Codes4", ""))
    refused(qvit(*run, "--plugin", library), "site 'fc1' at w4a4: ", "needs the plugin qvit::QLinearW4Codes4:1")
    (at_hand / "tensorrt.py").write_text("import nothing_of_this_name")
    refused(qvit(*run, "--plugin", library), "the model that does nothing: ", "needs the Python module")
    (at_hand / "tensorrt.py").write_text("import os\nos.abort()")
    refused(qvit(*run, "--plugin", library), "the model that does nothing: ", "was ended by SIGABRT")
    without(monkeypatch, "pycuda.driver")
    refused(qvit(*run, "--plugin", library), "needs pycuda")
    assert (tree(models), tree(bundle)) == before and not table.exists()


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_without_a_gpu_nothing_is_written(qvit: Command, bundle: Path, library: Path, tmp_path: Path) -> None:
    before = tree(bundle)
    for target in ("tensorrt", "tensorrt-rtx"):
        flags = ("--target", target, "--site-models", tmp_path / "models")
        refused(qvit("bench-sites", bundle, *flags, *FEW), f"bench-sites --target {target} needs an NVIDIA GPU")
    assert tree(bundle) == before and not (tmp_path / "models").exists()


def test_folders_for_something_else(at_hand: Path, qvit: Command, bundle: Path, library: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    flags = ("--site-models", models)
    assert qvit("bench-sites", bundle, *flags, "--target", "tensorrt", "--bits", "8", "--emit-only").code == 0
    refused(qvit("bench-sites", bundle, *flags, *FEW), f"{models} holds site models for tensorrt, not onnxruntime")
    refused(qvit("bench-sites", bundle, *flags, "--target", "tensorrt", "--emit-only"), "holds site models already")
    refused(qvit("bench-sites", bundle, "--emit-only"), "--emit-only goes with --site-models FOLDER")
    refused(qvit("bench", bundle, "--sites", "--emit-only"), "--emit-only goes with --sites and --site-models")
    refused(qvit("bench", bundle, "--emit-only", "--site-models", models), "--emit-only goes with --sites")
    on = ("bench-sites", bundle, *flags, "--target", "tensorrt", *FEW)
    refused(qvit(*on, "--batch", 4), "for batches of 1, not 4")
    refused(qvit(*on, "--bits", "4,8"), "of w8a8, not w4a4, w8a8")
    refused(qvit(*on, "--plugin", library), "of the tensorrt file, which calls no plugins")
    refused(qvit("bench-sites", bundle, *flags, "--target", "tensorrt-rtx", *FEW), "not tensorrt-rtx")
    index = json.loads((models / INDEX).read_text())
    index["sites"]["fc3"] = index["sites"].pop("fc2")
    (models / INDEX).write_text(json.dumps(index))
    refused(qvit(*on), "models of another network's sites", "'fc2'")


def test_without_torch_a_folder_is_asked_for(bundle: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from qvit_deploy.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "bench-sites", bundle, *TENSORRT, "--emit-only", "--site-models", tmp_path / "m"],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    refused(Result(done.returncode, done.stdout, done.stderr), "emitting site models needs torch", "--emit-only")
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
@pytest.mark.parametrize("plugins", [(), ("--plugin", LIBRARY)], ids=["plain", "packed"])
def test_rtx_builds_every_site_of_a_shipped_model(qvit: Command, tmp_path: Path, plugins: tuple[str, ...]) -> None:
    """Windows of Swin among them; a minute or more, each engine a process."""
    pytest.importorskip("tensorrt_rtx")
    assert qvit("compile", "demo:swin", "-o", tmp_path / "b", "--effort", "fast").code == 0
    models = tmp_path / "models"
    done = qvit("bench-sites", tmp_path / "b", *TENSORRT, "--site-models", models, "--emit-only", *plugins)
    assert done.code == 0, done.err
    index = read_index(models).model_copy(update={"target": "tensorrt-rtx"})
    built = site_times.build_site_engines(models, index, tmp_path / "engines", 86)
    assert len(built) == len(index.files) > 20
