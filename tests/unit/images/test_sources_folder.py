"""Image folders: order, labels, and layouts that are refused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from mvkit.errors import DataError
from mvkit.images.sources import open_folder as open_splits


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
        (["train/a/0.png", "val/0.png"], "give both the same\nImageNet"),
        (
            ["ILSVRC/Data/CLS-LOC/train/a/0.JPEG", "ILSVRC/Data/CLS-LOC/val/0.JPEG"],
            "has no train and val, but a folder inside has\nname that one: .*/ILSVRC/Data/CLS-LOC$",
        ),
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


def _labels(root: Path, split: int = 0) -> dict[str, int]:
    return {item.name: item.label for item in open_splits(root)[split].open_items()}


@pytest.mark.parametrize(
    "links",
    [
        {"train/a/self": "."},
        {"train/a/up": ".."},
        {"train/a/s1": ".", "train/a/s2": "."},
        {
            "train/a/u1": "..",
            "train/b/u2": "..",
            "train/a/root": "../..",
            "train/self": ".",
            "train/up": "..",
        },
    ],
)
def test_links_in_circles_add_nothing(tmp_path: Path, links: dict[str, str]) -> None:
    for number in range(3):
        for place in ("train/a", "train/b", "val/a", "val/b"):
            _touch(tmp_path / place / f"{number}.png")
    before = [source.listing_digest() for source in open_splits(tmp_path)]
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert [source.listing_digest() for source in open_splits(tmp_path)] == before
    expected = {f"train/{name}/{number}.png": "ab".index(name) for name in "ab" for number in range(3)}
    assert _labels(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "target"), [("train/a/x", "../b"), ("train/c", "a"), ("train/c/x", "../a/in")]
)
def test_a_folder_in_two_classes_is_refused(tmp_path: Path, name: str, target: str) -> None:
    for image in ("train/a/0.png", "train/a/in/0.png", "train/b/0.png"):
        _touch(tmp_path / image)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(target)
    with pytest.raises(DataError, match="are the same folder: its files would be in two classes") as error:
        open_splits(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_classes_may_be_links_and_splits_may_be_one(tmp_path: Path) -> None:
    for image in ("store/cats/0.png", "store/dogs/0.png"):
        _touch(tmp_path / image)
    (tmp_path / "store/cats/up").symlink_to("..")
    root = tmp_path / "root"
    (root / "train").mkdir(parents=True)
    (root / "train/a").symlink_to(tmp_path / "store/cats")
    (root / "train/b").symlink_to(tmp_path / "store/dogs")
    (root / "val").symlink_to("train")
    assert _labels(root) == {"train/a/0.png": 0, "train/b/0.png": 1}
    assert _labels(root, 1) == {"val/a/0.png": 0, "val/b/0.png": 1}


def test_links_to_nothing_are_images_without_a_file(tmp_path: Path) -> None:
    _touch(tmp_path / "train/a/0.png")
    (tmp_path / "train/a/1.png").symlink_to("gone.png")
    (tmp_path / "train/b").symlink_to("/unmounted/b")
    (source,) = open_splits(tmp_path)
    assert (source.classes, source.n_images) == (("a",), 3)
    expected = {
        "train/b": "a link to nothing (/unmounted/b)",
        "train/a/1.png": "a link to nothing (gone.png)",
    }
    assert dict(source.absent) == expected
    assert {item.name: item.problem for item in source.open_items()} == {**expected, "train/a/0.png": ""}
    (tmp_path / "val").symlink_to("/unmounted/val")
    with pytest.raises(DataError, match=r"val: a link to nothing \(/unmounted/val\)"):
        open_splits(tmp_path)


def test_names_are_bytes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        _touch(tmp_path / split / os.fsdecode(b"caf\xe9") / "0.png")
        _touch(tmp_path / split / r"caf\xe9" / "0.png")
        _touch(tmp_path / split / "b" / os.fsdecode(b"\xe9\n.png"))
    train, val = open_splits(tmp_path)
    assert train.classes == val.classes == ("b", r"caf\x5cxe9", r"caf\xe9")
    names = [r"train/b/\xe9\x0a.png", r"train/caf\x5cxe9/0.png", r"train/caf\xe9/0.png"]
    assert [(item.name, item.label) for item in train.open_items()] == list(zip(names, range(3), strict=True))
    assert all(item.path is not None and item.path.is_file() for item in train.open_items())
    digest = hashlib.sha256(b"folder train\n")
    for label, name in enumerate([b"b/\xe9\n.png", rb"caf\xe9/0.png", b"caf\xe9/0.png"]):
        size = (tmp_path / os.fsdecode(b"train/" + name)).stat().st_size
        digest.update(f"{size} {label} ".encode() + b"train/" + name + b"\n")
    assert train.listing_digest() == digest.hexdigest()
