"""Image folders: order, labels, and layouts that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from mvkit.errors import DataError
from mvkit.images.sources.folder import open_splits


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_order_and_labels_are_torchvisions(make_folder: Callable[..., Path]) -> None:
    root = make_folder()
    for source in open_splits(root):
        oracle = ImageFolder(str(root / source.split))
        items = list(source.open_items())
        assert [(str(item.path), item.label) for item in items] == oracle.samples
        assert source.classes == tuple(oracle.classes)
        assert source.n_images == len(oracle)


def test_flat_folders_have_no_labels(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPEG", ".hidden.png", "notes.txt"):
        _touch(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    (source,) = open_splits(tmp_path)
    assert (source.split, source.classes) == ("train", None)
    assert [(item.name, item.label) for item in source.open_items()] == [("a.JPEG", -1), ("b.png", -1)]


def test_labels_of_val_are_those_of_train(tmp_path: Path) -> None:
    for name in ("train/a/0.png", "train/b/0.png", "train/c/0.png", "val/c/deeper/0.png"):
        _touch(tmp_path / name)
    val = open_splits(tmp_path)[1]
    assert [(item.name, item.label) for item in val.open_items()] == [("val/c/deeper/0.png", 2)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/0.png", "train/0.png"], "images of its own"),
        (["train/a/0.png", "val/b/0.png"], "'b'.*not in train"),
        (["train/a/0.png", "val/0.png"], "give both the same"),
    ],
)
def test_ambiguous_layouts_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        _touch(tmp_path / name)
    with pytest.raises(DataError, match=message):
        open_splits(tmp_path)


def test_empty_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images and no class folders"):
        open_splits(tmp_path)
    (tmp_path / "train" / "empty").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty.*without images"):
        open_splits(tmp_path)


def test_listing_digest_follows_names_and_sizes(make_folder: Callable[..., Path]) -> None:
    root = make_folder()
    before = open_splits(root)[0].listing_digest()
    assert open_splits(root)[0].listing_digest() == before
    first = root / "train/class_0/000.png"
    first.write_bytes(first.read_bytes() + b"x")
    grown = open_splits(root)[0].listing_digest()
    first.rename(first.with_name("renamed.png"))
    renamed = open_splits(root)[0].listing_digest()
    assert len({before, grown, renamed}) == 3
