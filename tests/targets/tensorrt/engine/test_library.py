"""The adapter over both modules: `tensorrt_rtx` as installed, `tensorrt` against recorded names of 10.3 and 11.4."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.artifacts.engine_record import Batch, BuildRequest
from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.builder import builder_process as engine_builder
from qvit_deploy.targets.tensorrt.engine.gpu import Gpu, find_gpu
from qvit_deploy.targets.tensorrt.engine.library import Library, library_of, load_library, parse_version
from tests.support.devices.engine_examples import attention_onnx, packed_onnx
from tests.support.devices.recorded_tensorrt import RecordedApi, RecordedObject, building

RELEASES = ["10.3.0", "11.4.0"]
ORIN = Gpu("Orin", 87)


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--target tensorrt` asks the driver for a GPU before it builds, and there is none here."""
    monkeypatch.setattr(engine_builder, "require_gpu", lambda what: ORIN)


def request(folder: Path, **changes: Any) -> BuildRequest:
    (folder / "m.onnx").write_bytes(b"the recorded parser takes anything")
    base = {"target": "tensorrt", "onnx": folder / "m.onnx", "engine": folder / "m.engine"}
    return BuildRequest.model_validate({**base, "batch": Batch(least=1, best=4, most=8), **changes})


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.usefixtures("_gpu")
def test_a_build_touches_only_names_the_release_has(release: str, tmp_path: Path) -> None:
    api = building(release)
    wanted = request(
        tmp_path, timing_cache=tmp_path / "cache", workspace_mb=64, layer_info=tmp_path / "layers.json",
        hardware="ampere-plus",
    )  # fmt: skip
    events: list[Any] = []
    result = engine_builder.build(library_of("tensorrt", api), wanted, events.append)
    assert (tmp_path / "m.engine").read_bytes() == b"engine"
    assert (tmp_path / "cache").read_bytes() == b"timings"
    assert (tmp_path / "layers.json").read_text() == '{"Layers": []}'
    assert result.gpu == "Orin" and result.sm == 87 and result.layers == 7
    assert result.inputs[0].shape == (-1, 1, 28, 28) and result.inputs[0].dtype == "float"
    assert api.called("IOptimizationProfile.set_shape") == [("image", (1, 1, 28, 28), (4, 1, 28, 28), (8, 1, 28, 28))]
    assert api.called("IBuilderConfig.set_memory_pool_limit")[0][1] == 64 << 20


def plugins(release: str, folder: Path, names: tuple[str, ...]) -> tuple[RecordedApi, list[bytes]]:
    """A release whose registry gets qvit plugins of these names, and what its parser is handed."""
    parsed: list[bytes] = []
    creators = [SimpleNamespace(name=n, plugin_version="1", plugin_namespace="qvit") for n in names]
    api = building(release, creators=lambda: creators if api.called("load_library") else [])

    def parser(network: Any, logger: Any) -> Any:
        return RecordedObject(api, "OnnxParser", parse=lambda data: not parsed.append(data), num_errors=0)

    api.given["OnnxParser"] = parser
    (folder / "libqvit_plugins.so").write_bytes(b"")
    return api, parsed


OPERATORS = ("LayerNormQuantize8", "QLinearW8", "QLinearW8Codes8", "QLinearW8Codes8Gelu")
"""What `packed_onnx` calls."""


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.usefixtures("_gpu")
def test_bodies_are_taken_out_where_they_would_win(release: str, tmp_path: Path) -> None:
    onnx_path = packed_onnx(tmp_path)
    api, parsed = plugins(release, tmp_path, OPERATORS)
    wanted = request(tmp_path, onnx=onnx_path, plugins=(tmp_path / "libqvit_plugins.so",))
    result = engine_builder.build(library_of("tensorrt", api), wanted, lambda _: None)
    assert result.operators == tuple(f"qvit::{name}:1" for name in OPERATORS)
    given = onnx.load_from_string(parsed[0])
    assert bool(given.functions) == (release == "11.4.0") and given.graph == onnx.load(str(onnx_path)).graph


@pytest.mark.usefixtures("_gpu")
def test_plugins_that_the_library_does_not_bring_are_named(tmp_path: Path) -> None:
    api, parsed = plugins("11.4.0", tmp_path, OPERATORS[:3])
    wanted = request(tmp_path, onnx=packed_onnx(tmp_path), plugins=(tmp_path / "libqvit_plugins.so",))
    with pytest.raises(InputError, match=r"needs the plugin qvit::QLinearW8Codes8Gelu:1, which no --plugin"):
        engine_builder.build(library_of("tensorrt", api), wanted, lambda _: None)
    assert parsed == [] and not wanted.engine.exists()


@pytest.mark.usefixtures("_gpu")
def test_the_plugin_of_logarithmic_attention_is_asked_for(tmp_path: Path) -> None:
    api, parsed = plugins("11.4.0", tmp_path, ("QLinearW4", "QLinearW4Gelu"))
    wanted = request(tmp_path, onnx=attention_onnx(tmp_path), plugins=(tmp_path / "libqvit_plugins.so",))
    with pytest.raises(InputError, match=r"needs the plugin qvit::SoftmaxLog2AV:1, which no --plugin library brings"):
        engine_builder.build(library_of("tensorrt", api), wanted, lambda _: None)
    assert parsed == [] and not wanted.engine.exists()


def test_strong_typing_is_a_flag_in_10_and_given_in_11() -> None:
    flags = {}
    for release in RELEASES:
        api = building(release)
        library_of("tensorrt", api).network(api.Builder(None))
        ((flags[release],),) = api.called("Builder.create_network")
        typed = 1 << api.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        assert flags[release] == (typed if release == "10.3.0" else 0)


def test_same_capability_needs_10_9() -> None:
    assert library_of("tensorrt", RecordedApi("11.4.0")).hardware_level("same-capability") is not None
    with pytest.raises(InputError, match=r"needs TensorRT 10\.9; this is 10\.3\.0"):
        library_of("tensorrt", RecordedApi("10.3.0")).hardware_level("same-capability")


@pytest.mark.parametrize("release", RELEASES)
def test_plugins_are_loaded_and_listed(release: str, tmp_path: Path) -> None:
    library = tmp_path / "libqvit.so"
    with pytest.raises(InputError, match="no plugin library at"):
        library_of("tensorrt", building(release)).load_plugins((library,))
    library.write_bytes(b"")
    new = SimpleNamespace(name="W4A4Linear", plugin_version="1", plugin_namespace="qvit")
    api = building(release)
    api.given["get_plugin_registry"].all_creators = property(lambda self: [new] if api.called("load_library") else [])
    assert library_of("tensorrt", api).load_plugins((library,)) == ("qvit::W4A4Linear:1",)
    assert library_of("tensorrt", api).load_plugins((library,)) == ("qvit::W4A4Linear:1",)  # a second engine's
    assert len(api.called("load_library")) == 1
    with pytest.raises(InputError, match="brings no plugin"):
        library_of("tensorrt", building(release)).load_plugins((library,))


@pytest.mark.usefixtures("_gpu")
def test_no_engine_and_no_file_left_when_the_builder_gives_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"builds no engine of it: no reason given"):
        engine_builder.build(library_of("tensorrt", building("10.3.0", engine=None)), request(tmp_path), lambda _: None)
    assert not (tmp_path / "m.engine").exists()


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_a_tensorrt_build_without_a_gpu_is_refused_first(tmp_path: Path) -> None:
    api = building("11.4.0")
    with pytest.raises(InputError, match=r"--target tensorrt needs an NVIDIA GPU and its driver"):
        engine_builder.build(library_of("tensorrt", api), request(tmp_path), lambda _: None)
    assert api.calls == []


@pytest.mark.parametrize(
    ("target", "version", "needed"),
    [("tensorrt", "8.6.1", "10.3"), ("tensorrt", "10.2.0.19", "10.3"), ("tensorrt-rtx", "1.0.0.21", "1.7")],
)
def test_old_versions_are_refused(target: Any, version: str, needed: str) -> None:
    with pytest.raises(InputError, match=rf"is too old, {needed} is needed: pip install --upgrade"):
        library_of(target, SimpleNamespace(__version__=version))


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_missing_module_names_the_extra() -> None:
    with pytest.raises(InputError, match=r'needs the Python module tensorrt: pip install "qvit-deploy\[tensorrt\]"'):
        load_library("tensorrt")


def test_a_module_without_its_libraries_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # NVIDIA's own libraries cannot be had here, so what their absence raises is written down.
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(InputError, match=r"tensorrt does not load \(libnvinfer\.so\.11: cannot open"):
        load_library("tensorrt")


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx")
    return load_library("tensorrt-rtx")


def test_the_installed_rtx_lists_what_it_builds_for(rtx: Library) -> None:
    assert isinstance(rtx.module, ModuleType) and rtx.version >= (1, 7)
    assert {75, 80, 86, 89, 120} <= set(rtx.capabilities())


@pytest.mark.parametrize("sm", [87, 90, 110, 60])
def test_unsupported_gpus_are_refused_with_what_to_do(rtx: Library, sm: int) -> None:
    with pytest.raises(InputError, match=rf"--sm {sm}: .* builds for 75, .*Jetson"):
        rtx.require_capability(sm)


def test_rtx_takes_no_plugins(rtx: Library) -> None:
    with pytest.raises(InputError, match="takes no plugins"):
        rtx.load_plugins((Path("libqvit.so"),))


@given(st.tuples(*[st.integers(0, 99)] * 3), st.sampled_from(["", ".26", "rc1", ".post1"]))
def test_versions_read_their_first_three_numbers(numbers: tuple[int, ...], rest: str) -> None:
    assert parse_version(".".join(map(str, numbers)) + rest) == numbers
    assert parse_version("unknown") == (0,)
