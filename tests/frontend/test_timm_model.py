from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qvit_deploy.errors import InputError, NonFiniteError
from qvit_deploy.frontend import Source, load_model
from qvit_deploy.frontend.checkpoint import load_weights
from qvit_deploy.frontend.timm_model import create, parse_spec
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import Graph
from tests.support.models.coverage_models import MODELS
from tests.support.models.torch_models import SMALL_SWIN_QUERY, TINY, TINY_QUERY, assert_same


def check(spec: str, graph: Graph) -> None:
    assert graph.static_batch is None
    assert_same(graph, create(*parse_spec(spec))[0])
    again = canonicalize(graph.clone().model, graph.name)
    assert again.to_proto().SerializeToString(deterministic=True) == graph.to_proto().SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("spec", [TINY_QUERY, SMALL_SWIN_QUERY])
def test_small_models(spec: str) -> None:
    check(spec, load_model(spec).graph)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_promised_architecture(model: str) -> None:
    spec = f"timm:{model}"
    check(spec, load_model(spec).graph)


@pytest.fixture(scope="module")
def tiny() -> Source:
    return load_model(TINY_QUERY)


def test_weights_have_the_names_of_their_parameters(tiny: Source) -> None:
    graph = tiny.graph
    parameters = dict(create("vit_tiny_patch16_224", dict(TINY))[0].named_parameters())
    missing = set(parameters) - set(graph.initializers)
    assert not missing
    tensor = graph.initializers["blocks.0.attn.qkv.weight"].const_value
    assert tensor is not None
    assert np.array_equal(tensor.numpy(), parameters["blocks.0.attn.qkv.weight"].detach().numpy().T)
    names = [node.name for node in graph.nodes()]
    assert len(set(names)) == len(names)
    assert "blocks.1.mlp.fc2/MatMul" in names


def test_preprocessing_has_the_real_image_size(tiny: Source) -> None:
    source = tiny
    assert source.preprocess is not None
    assert source.preprocess["input_size"] == [3, 32, 32]
    assert source.preprocess["color"] == "rgb"
    assert len(source.preprocess["mean"]) == 3
    assert source.graph.interface.image_size == (3, 32, 32)


def test_grey_images() -> None:
    source = load_model(TINY_QUERY + "&in_chans=1")
    assert source.graph.interface.image_size == (1, 32, 32)
    assert source.preprocess is not None
    assert len(source.preprocess["std"]) == 1


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    create("vit_tiny_patch16_224", dict(TINY))
    assert torch.equal(torch.rand(1), expected)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"did you mean.*vit_tiny_patch16_224"):
        load_model("timm:vit_tiny_patch16_242")


@pytest.mark.parametrize("spec", ["timm:", "timm:vit_tiny_patch16_224?img_size", "timm:vit_tiny_patch16_224?nope=1"])
def test_unusable_specs(spec: str) -> None:
    with pytest.raises(InputError):
        load_model(spec)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model, _ = create("vit_tiny_patch16_224", dict(TINY))
    return {key: torch.randn_like(value) * 0.1 for key, value in model.state_dict().items()}


@pytest.mark.parametrize("container", ["safetensors", "plain", "model", "state_dict", "model_ema", "module."])
def test_checkpoints(tmp_path: Path, state: dict[str, torch.Tensor], container: str) -> None:
    path = tmp_path / ("weights.safetensors" if container == "safetensors" else "weights.pth")
    if container == "safetensors":
        save_file(state, path)
    elif container == "plain":
        torch.save(state, path)
    elif container == "module.":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        torch.save({container: state, "epoch": 3}, path)
    model, _ = create("vit_tiny_patch16_224", dict(TINY))
    load_weights(model, path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_ends_up_in_the_graph(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    source = load_model(TINY_QUERY, checkpoint=tmp_path / "weights.safetensors")
    tensor = source.graph.initializers["head.weight"].const_value
    assert tensor is not None
    assert np.array_equal(tensor.numpy(), state["head.weight"].numpy().T)
    assert "weights.safetensors" in source.description


def test_a_checkpoint_that_does_not_fit(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "weights.safetensors"
    state["extra"] = torch.zeros(1)
    del state["head.bias"]
    state["head.weight"] = torch.zeros(7, 32)
    save_file(state, path)
    with pytest.raises(InputError, match=r"missing: head.bias.*unexpected: extra.*wrong shape: head.weight"):
        load_model(TINY_QUERY, checkpoint=path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_a_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(InputError, match="safetensors"):
        load_model(TINY_QUERY, checkpoint=path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_broken_checkpoints(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="does not exist"):
        load_model(TINY_QUERY, checkpoint=path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError):
        load_model(TINY_QUERY, checkpoint=path)


def test_nan_weights_are_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["blocks.1.mlp.fc1.weight"][0, 0] = torch.nan
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(NonFiniteError, match=r"blocks\.1\.mlp\.fc1\.weight"):
        load_model(TINY_QUERY, checkpoint=tmp_path / "w.safetensors")
