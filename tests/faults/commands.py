"""The commands that are disturbed: their inputs, and what they write, as values to compare."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

TESTS = Path(__file__).parent.parent
CHECKPOINT = "six_stream_simclr"
PUBLISHED = "mouse_neuropixels_visual_data_with_reliabilities.pkl"
#: Values that differ between two runs alike: moments, speeds, sizes of files that hold moments.
_MOMENTS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^\"]*")
_VARIABLE = frozenset(
    {"images_per_s", "waiting", "seconds", "sha256", "n_bytes", "bytes", "checksums", "duration_s", "eta_s"}
)

RECIPE = """
name: tiny
source: a test
model: {architecture: tiny}
views:
  size_px: 16
  views: [{crop: {name: random_resized}, steps: [{name: flip}]}]
validation: {size_px: 16, views: [{crop: {name: centre, resize_px: 20, crop_px: 16}}]}
objective: {name: instance_recognition, width: 4, noise_samples: 8}
optimiser: {name: sgd, learning_rate: 0.05, weight_decay: 1e-3}
train: {epochs: 2, batch_size: 12, seed: 7}
checkpoint: {every_epochs: 1, every_steps: 2}
evaluate: [{name: bank_neighbours}]
"""


@dataclass(frozen=True)
class Command:
    """A command line in a folder of its own.

    Attributes
    ----------
    name
        For the table.
    words
        After ``mvkit``; ``{work}`` and ``{inputs}`` are the folders.
    before
        Called in the process before the command.
    resumes
        Whether files of a part of the work may stand under final names (a run's checkpoints).
    """

    name: str
    words: str
    before: Callable[[], None] = lambda: None
    resumes: bool = False

    def line(self, work: Path, inputs: Path) -> list[str]:
        """Return the words for these folders."""
        return [word.format(work=work, inputs=inputs) for word in self.words.split()]


def use_tiny_network() -> None:
    """Let every architecture be a small network."""
    from mvkit.models.base import VisionModel
    from mvkit.pipeline import train
    from mvkit.training import setup

    class Tiny(VisionModel):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
                nn.Dropout(0.3), nn.Linear(6 * 7 * 7, width),
            )  # fmt: skip

        def forward(self, images: Tensor) -> Tensor:
            output: Tensor = self.net(images)
            return output

    def build(architecture: str, *, n_classes: int | None, seed: int, **unused: object) -> VisionModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Tiny(n_classes or 8).train()

    setup.build_for_training = build
    train.is_model = lambda name: True


_SCORE = (
    "score gabor --dataset {inputs}/mine.h5 --splits 1 --halves 2 --set n_components=4 --out {work}/scores"
)
_PAGES = "--figure {work}/figure.svg --report {work}/report.html"
_TRAIN = "train {inputs}/tiny.yaml --images {inputs}/images --out {work}/run --device cpu --workers 1"
_WEIGHTS = "extract shi_mousenet_ir --weights random --export-weights {work}/w.safetensors --force"
_RELIABILITY = "fetch reliability {inputs}/mine.h5 --halves 4 --out {work}/reliable.h5 --replace"
COMMANDS = (
    Command("fetch checkpoint", f"fetch checkpoints {CHECKPOINT}"),
    Command("fetch + convert", "fetch neural --dataset neuropixels"),
    Command("convert", f"fetch neural --dataset neuropixels --from {{inputs}}/{PUBLISHED}"),
    Command("reliability", _RELIABILITY),
    Command("prep", "prep demo --images {inputs}/images --out {work}/beton --workers 1"),
    Command("train", _TRAIN, before=use_tiny_network, resumes=True),
    Command("extract h5", "extract gabor --stimuli {inputs}/mine.h5 --out {work}/f.h5 --force"),
    Command("extract npz", "extract gabor --stimuli {inputs}/mine.h5 --out {work}/f.npz --force"),
    Command("export weights", _WEIGHTS),
    Command("score", f"{_SCORE} {_PAGES} --jobs 1"),
    Command("score 2 jobs", f"{_SCORE} --jobs 2 --ceiling holdout"),
)


def make_inputs(folder: Path) -> None:
    """Make what the commands read."""
    from mvkit.neural import Recording, write_neural_file

    folder.mkdir(parents=True)
    script = TESTS.parent / "scripts" / "make_demo_images.py"
    command = [sys.executable, str(script), str(folder / "images"), "--train", "60", "--val", "24"]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "tiny.yaml").write_text(RECIPE)
    pickles = (TESTS / "legacy" / "odd" / "resaved").glob("*.pkl")
    largest = max(pickles, key=lambda path: (path.stat().st_size, path.name))
    shutil.copy(largest, folder / PUBLISHED)
    draw = np.random.default_rng(3)
    images = draw.integers(0, 255, (24, 32, 32), dtype=np.uint8)
    drive = draw.normal(size=(24, 5))
    recordings = [
        Recording.from_arrays(
            5 + drive @ draw.normal(size=(5, n)) + draw.normal(size=(6, 24, n)),
            unit_ids=np.arange(n) + 100 * specimen,
            area=area,
            specimen=specimen,
        )
        for area, specimen, n in (("VISp", 1, 7), ("VISp", 2, 6), ("VISl", 1, 5))
    ]
    write_neural_file(folder / "mine.h5", recordings, stimuli=images, units_of_measure="spikes/s")


def checkpoint_bytes() -> bytes:
    """Return what stands in for a checkpoint on the server."""
    return b"PK\x03\x04" + np.random.default_rng(8).bytes(300_000)


def outputs(work: Path) -> dict[str, Any]:
    """Return every file below a folder by relative name: what it holds, without moments and speeds.

    Locks, which stay, do not count.
    """
    found = {}
    for path in sorted(work.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            name = str(path.relative_to(work))
            try:
                found[name] = contents(path)
            except Exception as error:
                found[name] = f"unreadable: {type(error).__name__}: {error}"
    return found


def contents(path: Path) -> Any:
    """Return what a file holds, to compare."""
    if path.suffix == ".h5":
        return _hdf5(path)
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return {name: _sha(archive.read(name)) for name in archive.namelist()}
    if path.suffix == ".pt" and path.stem != CHECKPOINT:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(damaged)
        return _hashable(torch.load(path, weights_only=True))
    if path.suffix in (".json", ".jsonl"):
        lines = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
        records = [json.loads(_MOMENTS.sub("", line)) for line in lines]
        # How often a run was interrupted is told in its log, and no result.
        if path.name == "manifest.json":
            # Of a file that was in place before it was recorded, it says less.
            return [_steady(record, "made_from", "url", "etag", "digest") for record in records]
        return [
            _steady(one) for one in records if _kind(one) not in ("resume", "interrupted", "start", "end")
        ]
    if path.suffix == ".html":
        return _sha(re.sub(r"\d{4}-\d\d-\d\d", "", path.read_text()).encode())
    return _sha(path.read_bytes())


def _kind(record: Any) -> str:
    return str(record.get("kind", "")) if isinstance(record, dict) else ""


def _hdf5(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        for key, value in item.attrs.items():
            if key not in ("DIMENSION_LIST", "REFERENCE_LIST"):
                text = _MOMENTS.sub("", str(np.asarray(value).tolist()))
                found[f"{name}@{key}"] = re.sub(r'"source": "[^"]*"', "", text)
        if isinstance(item, h5py.Dataset):
            values = np.asarray(item[()])
            content = str(values.tolist()).encode() if values.dtype.kind == "O" else values.tobytes()
            found[name] = (str(values.dtype), values.shape, _sha(content))

    with h5py.File(path) as file:
        note("/", file)
        file.visititems(note)
    return found


def _hashable(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (str(value.dtype), tuple(value.shape), _sha(value.numpy().tobytes()))
    if isinstance(value, Mapping):
        return {str(key): _hashable(item) for key, item in value.items() if key not in _VARIABLE}
    if isinstance(value, list | tuple):
        return [_hashable(item) for item in value]
    return value


def _steady(value: Any, *without: str) -> Any:
    if isinstance(value, dict):
        left = {key: item for key, item in value.items() if key not in _VARIABLE and key not in without}
        return {key: _steady(item, *without) for key, item in left.items()}
    return [_steady(item, *without) for item in value] if isinstance(value, list) else value


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
