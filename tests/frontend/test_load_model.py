import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from qvit_deploy.errors import InputError
from qvit_deploy.frontend import load_model
from qvit_deploy.frontend.demo import DEMO_FOLDER, from_demo
from qvit_deploy.frontend.timm_model import create
from tests.support.models.demo_models import demo
from tests.support.models.torch_models import TINY, assert_same


@pytest.mark.parametrize("spec", ["", "resnet", "model.pt", "hf:google/vit"])
def test_unknown_forms_list_the_accepted_ones(spec: str) -> None:
    with pytest.raises(InputError, match=r"timm:NAME.*\.onnx.*demo:"):
        load_model(spec)


def test_flags_that_do_not_go_together() -> None:
    with pytest.raises(InputError, match="exclude each other"):
        load_model("timm:vit_tiny_patch16_224", checkpoint=Path("x"), pretrained=True)
    with pytest.raises(InputError, match="comes with its weights"):
        load_model("m.onnx", pretrained=True)


def test_demo_models_are_read_from_their_folder(tmp_path: Path) -> None:
    model, _ = create("vit_tiny_patch16_224", dict(TINY))
    save_file({key: value.half() for key, value in model.state_dict().items()}, tmp_path / "vit.safetensors")
    entry = {
        "timm_name": "vit_tiny_patch16_224",
        "kwargs": TINY,
        "preprocess": {"input_size": [3, 32, 32], "mean": [0.5]},
    }
    (tmp_path / "models.json").write_text(json.dumps({"vit": entry}))
    graph, preprocess, description, _ = from_demo("vit", tmp_path)
    assert preprocess["mean"] == [0.5]
    assert "vit" in description
    assert_same(graph, _rounded(model))
    with pytest.raises(InputError, match="available are vit"):
        from_demo("cnn", tmp_path)
    with pytest.raises(InputError, match="no demo models"):
        from_demo("vit", tmp_path / "nowhere")


def _rounded(model: object) -> object:
    return model.half().float()  # type: ignore[attr-defined]


@pytest.mark.skipif(not (DEMO_FOLDER / "models.json").is_file(), reason="the demo models are not built yet")
@pytest.mark.parametrize("name", ["vit", "deit", "swin"])
def test_the_shipped_demo_models(name: str) -> None:
    source = demo(name)
    assert source.preprocess is not None
    assert source.preprocess["input_size"] == list(source.graph.interface.image_size)
    assert source.graph.static_batch is None
