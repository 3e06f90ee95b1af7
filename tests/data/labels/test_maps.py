"""Label maps of folders and archives: what belongs to which picture, and files that must not pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvit_deploy.data.images import open_images
from qvit_deploy.data.labels.maps import archive_maps, folder_maps, read_map
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.data.window import WHOLE, Window
from qvit_deploy.errors import InputError
from tests.support.hostile_files import png_of_size

P = Preprocess(input_size=(3, 4, 4), mean=(0.0,), std=(1.0,))


def pictures(folder: Path, names: dict[str, tuple[int, int]]) -> None:
    for name, (height, width) in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(folder / name)


def test_a_folder_of_maps_by_stems(tmp_path: Path) -> None:
    pictures(tmp_path / "in", {"b.jpg": (4, 8), "a.png": (4, 4)})
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.full((4, 8), 7, np.uint8)).save(tmp_path / "maps" / "b.png")
    Image.fromarray(np.full((2, 2), 255, np.uint8)).save(tmp_path / "maps" / "a.png")
    maps = folder_maps(tmp_path / "maps", open_images(str(tmp_path / "in"), P))
    first, second = maps[0], maps[1]
    assert first.name == "a.png" and first.values.tolist() == [[255, 255], [255, 255]] and first.window == WHOLE
    # The shorter side of 4x8 fits, the middle of the longer one is kept.
    assert second.values.shape == (4, 8) and second.window == Window(0, 0.25, 1, 0.75)


def test_a_folder_without_one_map(tmp_path: Path) -> None:
    pictures(tmp_path / "in", {"a.png": (4, 4)})
    (tmp_path / "maps").mkdir()
    with pytest.raises(InputError, match=r"1 of 1 pictures have no label map .*a\.png should have a\.png"):
        folder_maps(tmp_path / "maps", open_images(str(tmp_path / "in"), P))


def test_a_map_of_another_shape(tmp_path: Path) -> None:
    pictures(tmp_path / "in", {"a.png": (4, 4)})
    pictures(tmp_path / "maps", {})
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(tmp_path / "maps" / "a.png")
    maps = folder_maps(tmp_path / "maps", open_images(str(tmp_path / "in"), P))
    with pytest.raises(InputError, match=r"label map of a\.png is 8x4, which is not the shape of the picture, 4x4"):
        maps[0]


@pytest.mark.parametrize(
    ("mode", "value", "kind"), [("L", 200, "i"), ("P", 200, "i"), ("1", 1, "i"), ("I;16", 60000, "i"), ("F", 0.5, "f")]
)
def test_numbers_come_as_they_were_written(tmp_path: Path, mode: str, value: float, kind: str) -> None:
    path = tmp_path / ("map.tif" if mode == "F" else "map.png")
    image = Image.new(mode, (3, 2), value)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(path)
    values = read_map(path)
    assert values.shape == (2, 3) and values.dtype.kind == kind and (values == value).all()


def test_colours_are_no_labels(tmp_path: Path) -> None:
    pictures(tmp_path, {"map.png": (2, 2)})
    with pytest.raises(InputError, match=r"one number per pixel.*'RGB'"):
        read_map(tmp_path / "map.png")


def test_a_map_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "map.png").write_bytes(png_of_size(10_000, 10_000))
    with pytest.raises(InputError, match="decompression bomb"):
        read_map(tmp_path / "map.png")


def archive(tmp_path: Path, labels: np.ndarray) -> str:
    np.savez(tmp_path / "data.npz", images=np.zeros((4, 4, 4), np.uint8), labels=labels)
    return str(tmp_path / "data.npz")


def test_maps_of_an_archive_follow_a_draw_of_its_images(tmp_path: Path) -> None:
    data = archive(tmp_path, np.arange(4 * 16).reshape(4, 4, 4))
    images = open_images(data, P, limit=2, seed=1)
    assert images.labels is None and images.label_maps == Path(data)
    maps = archive_maps(Path(data), "test", images)
    assert [m.values[0, 0] // 16 for m in maps] == [int(name[-2]) for name in images.names]


def test_labels_of_an_archive_that_are_no_maps(tmp_path: Path) -> None:
    data = archive(tmp_path, np.arange(4))
    with pytest.raises(InputError, match=r"must be numbers \[N, H, W\].*got int64 \[4\]"):
        archive_maps(Path(data), "test", open_images(data, P))


def test_too_few_maps(tmp_path: Path) -> None:
    data = archive(tmp_path, np.zeros((3, 4, 4), int))
    with pytest.raises(InputError, match=r"3 label maps, too few for images\[3\]"):
        archive_maps(Path(data), "test", open_images(data, P))
