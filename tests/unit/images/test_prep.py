"""Preparing whole sources: what is written, what is refused, what is reused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mvkit.errors import DataError, UsageError
from mvkit.images import beton
from mvkit.images.beton import check_complete, read_structure, verify_beton
from mvkit.images.prep import PrepSettings, plan, prepare

pytestmark = pytest.mark.usefixtures("ffcv")
SMALL = PrepSettings(name="small", short_side_px=40, resampling="lanczos")


def _files(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def _images(path: Path) -> list[tuple[np.ndarray[Any, Any], int]]:
    """Read every image and label with nothing but the layout."""
    structure, content = read_structure(path), path.read_bytes()
    found = []
    for row, label in zip(structure.column("image"), structure.column("label"), strict=True):
        at, shape = int(row["data_ptr"]), (int(row["height"]), int(row["width"]), 3)
        if row["mode"] == beton.RAW_MODE:
            pixels = np.frombuffer(content, np.uint8, int(np.prod(shape)), at).reshape(shape)
        else:
            pixels = np.asarray(Image.open(io.BytesIO(content[at:])))
        found.append((pixels, int(label)))
    return found


def test_pixels_labels_and_sidecar(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, out = make_folder(), tmp_path / "out"
    seen: list[tuple[int, int]] = []
    report = prepare(SMALL, root, out, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(1, 9)]
    assert _files(out) == ["train.beton", "train.json", "val.beton", "val.json"]
    files = sorted((root / "train").rglob("*.png"))
    for file, (pixels, label) in zip(files, _images(out / "train.beton"), strict=True):
        with Image.open(file) as image:
            size = (40 * image.width // min(image.size), 40 * image.height // min(image.size))
            expected = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
        assert np.array_equal(pixels, expected)
        assert label == int(file.parent.name[-1])
    sidecar = json.loads((out / "train.json").read_text())
    assert sidecar["classes"] == ["class_0", "class_1"] and sidecar["counts"] == [3, 3]
    assert sidecar["sha256"] == hashlib.sha256((out / "train.beton").read_bytes()).hexdigest()
    contents = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    assert sidecar["source"]["content_digest"] == hashlib.sha256(b"".join(contents)).hexdigest()
    assert sidecar["recipe_digest"] == SMALL.digest() and not sidecar["failures"]
    assert [split.was_there for split in report.splits] == [False, False]
    assert verify_beton(out / "val.beton", workers=2).with_ffcv


def test_file_does_not_depend_on_workers(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder(n_train=21)
    for workers in (1, 2):
        prepare(SMALL, root, tmp_path / str(workers), workers=workers)
    assert (tmp_path / "1/train.beton").read_bytes() == (tmp_path / "2/train.beton").read_bytes()


def test_ffcv_reads_pixels_labels_numbers_and_depth(
    make_cifar: Any, make_pairs: Any, tmp_path: Path, ffcv: Any
) -> None:
    cifar, rows = make_cifar()
    prepare(PrepSettings(name="c", source="cifar10"), cifar, tmp_path / "c")
    decoders, loading = ffcv("ffcv.fields.decoders"), ffcv("ffcv.loader")
    pipelines = {
        "image": [decoders.SimpleRGBImageDecoder()],
        "label": [decoders.IntDecoder()],
        "index": [decoders.IntDecoder()],
    }
    options = {"batch_size": 25, "num_workers": 1, "drop_last": False}
    loader = loading.Loader(str(tmp_path / "c/train.beton"), pipelines=pipelines, **options)
    ((images, labels, numbers),) = [[part.copy() for part in batch] for batch in loader]
    assert np.array_equal(images[:5], rows.reshape(5, 3, 32, 32).transpose(0, 2, 3, 1))
    assert labels.ravel().tolist() == [0, 1, 2, 3, 4] * 5
    assert numbers.ravel().tolist() == list(range(25))

    prepare(PrepSettings(name="d", source="paired_depth", format="jpeg"), make_pairs(3), tmp_path / "d")
    pipelines = {"image": None, "label": None, "index": None, "depth": [decoders.BytesDecoder()]}
    loader = loading.Loader(str(tmp_path / "d/train.beton"), pipelines=pipelines, **options)
    ((depths,),) = [[part.copy() for part in batch] for batch in loader]
    for number, content in enumerate(depths):
        expected = np.asarray(Image.open(tmp_path / f"pairs/train_depth/data/{number}.png")) / np.float32(255)
        assert np.array_equal(beton.unpack_depth(content), expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_end_the_run_before_anything_is_final(
    make_folder: Callable[..., Path], tmp_path: Path, workers: int
) -> None:
    root, out = make_folder(), tmp_path / "out"
    for name in ("000", "004"):
        (root / f"train/class_0/{name}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="2 of 6 images of train") as error:
        prepare(SMALL, root, out, workers=workers)
    assert "train/class_0/000.png: " in str(error.value) and "train/class_0/004.png: " in str(error.value)
    assert "--on-error skip" in str(error.value)
    assert _files(out) == []


def test_skipped_images_are_left_out_and_recorded(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, out = make_folder(), tmp_path / "out"
    (root / "train/class_0/002.png").write_bytes(b"broken")
    messages: list[str] = []
    report = prepare(SMALL, root, out, on_error="skip", log=messages.append)
    (failure,) = report.splits[0].sidecar.failures
    assert (
        failure.path == "train/class_0/002.png"
        and failure.reason == "not an image of a kind that Pillow knows"
    )
    assert report.splits[0].sidecar.counts == (2, 3)
    assert [label for _, label in _images(out / "train.beton")] == [0, 0, 1, 1, 1]
    assert read_structure(out / "train.beton").column("index").tolist() == [0, 1, 2, 3, 4]
    assert any("left out 1" in message for message in messages)


def test_many_failures_are_listed_in_a_file(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, out = make_folder(n_train=25), tmp_path / "out"
    for file in (root / "train").rglob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"None is left.*[\s\S]*5 more, all listed in .*train.unreadable.txt"):
        prepare(SMALL, root, out, on_error="skip")
    assert len((out / "train.unreadable.txt").read_text().splitlines()) == 25


def test_a_second_run_has_nothing_to_do(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, out = make_folder(), tmp_path / "out"
    prepare(SMALL, root, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.suffix in (".beton", ".json")}
    renamed = SMALL.model_copy(update={"notes": "notes change nothing"})
    report = prepare(renamed, root, out)
    assert [split.was_there for split in report.splits] == [True, True]
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_files_of_other_recipes_and_images_are_in_the_way(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root, out = make_folder(), tmp_path / "out"
    prepare(SMALL, root, out)
    other = SMALL.model_copy(update={"short_side_px": 20})
    with pytest.raises(UsageError, match=r"train\.beton was made by another recipe.*--force"):
        prepare(other, root, out)
    assert check_complete(out / "train.beton").recipe_digest == SMALL.digest()
    prepare(other, root, out, force=True)
    assert check_complete(out / "train.beton").recipe_digest == other.digest()
    Image.new("RGB", (50, 50)).save(root / "val/class_0/new.png")
    with pytest.raises(UsageError, match=r"val\.beton"):
        prepare(other, root, out)


def test_damaged_files_and_leftovers_are_replaced(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, out = make_folder(), tmp_path / "out"
    prepare(SMALL, root, out)
    content = (out / "train.beton").read_bytes()
    (out / "train.beton").write_bytes(content[:-5])
    (out / "train.tmp-1-abc.beton").write_bytes(b"left by a killed run")
    (out / "train.tmp-1-abc.json").write_bytes(b"left by a killed run")
    messages: list[str] = []
    report = prepare(SMALL, root, out, log=messages.append)
    assert [split.was_there for split in report.splits] == [False, True]
    assert (out / "train.beton").read_bytes() == content
    assert _files(out) == ["train.beton", "train.json", "val.beton", "val.json"]
    assert any("damaged" in message for message in messages)


def test_a_full_disk_is_known_before(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(DataError, match=r"about 33\.6 MB are needed, but only 1\.0 kB are free"):
        prepare(SMALL, make_folder(), tmp_path / "out")


def test_plan_estimates_what_is_written(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, out = make_folder(n_train=60), tmp_path / "out"
    (root / "val/class_0/broken.png").write_bytes(b"")
    planned = plan(SMALL, root, out)
    assert not out.exists()
    assert [(split.source.split, split.source.n_images, split.state) for split in planned.splits] == [
        ("train", 60, "new"),
        ("val", 3, "new"),
    ]
    assert [bad.name for split in planned.splits for bad in split.unreadable] == ["val/class_0/broken.png"]
    report = prepare(SMALL, root, out, on_error="skip")
    for split, written in zip(planned.splits, report.splits, strict=True):
        assert split.estimated_bytes == pytest.approx(written.sidecar.n_bytes, rel=0.05)
    assert [split.state for split in plan(SMALL, root, out).splits] == ["done", "done"]


def test_names_without_files_are_refused_before_reading_or_listed(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = make_folder(), tmp_path / "out"
    (root / "train/class_0/gone.png").symlink_to("../../.git/annex/objects/K/K.png")
    os.mkfifo(root / "train/class_1/pipe.png")
    (root / "val/class_2").symlink_to("/unmounted/class_2")
    (root / os.fsdecode(b"train/class_1/caf\xe9.png")).write_bytes(b"no picture")
    (planned, _) = plan(SMALL, root, out).splits
    with monkeypatch.context() as patched:
        patched.setattr("mvkit.images.prep.plan_splits", lambda *words: pytest.fail("images were read"))
        with pytest.raises(DataError, match="2 of 9 images of train") as error:
            prepare(SMALL, root, out)
    reasons = {
        "train/class_0/gone.png": "a link to nothing (../../.git/annex/objects/K/K.png); its content was not "
        "fetched; run datalad get (or git annex get)",
        "train/class_1/pipe.png": "a pipe, not a file",
    }
    assert all(f"  {name}: {reason}" in str(error.value) for name, reason in reasons.items())
    assert _files(out) == []
    report = prepare(SMALL, root, out, on_error="skip")
    written = json.loads((out / "train.json").read_bytes())
    bad = {r"train/class_1/caf\xe9.png": "not an image of a kind that Pillow knows"}
    assert {one["path"]: one["reason"] for one in written["failures"]} == {**reasons, **bad}
    assert {one.name: one.reason for one in planned.unreadable} == {**reasons, **bad}
    assert written["counts"] == [3, 3]
    assert [one.path for one in report.splits[1].sidecar.failures] == ["val/class_2"]
    assert json.dumps(report.to_json()).isascii()
    # Nothing has changed: nothing to do.
    assert all(one.was_there for one in prepare(SMALL, root, out, on_error="skip").splits)


def test_classes_and_folders_may_have_any_name(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder(name=os.fsdecode(b"im\xe9"))
    for split in ("train", "val"):
        (root / split / "class_1").rename(root / split / os.fsdecode(b"\xe9a"))
    out = tmp_path / os.fsdecode(b"o\xe9")
    report = prepare(SMALL, root, out)
    assert report.splits[0].sidecar.classes == ("class_0", r"\xe9a")
    assert report.splits[0].sidecar.counts == (3, 3)
    assert verify_beton(out / "train.beton").n_images == 6
