"""What is fuzzed: readers of files and words from others, and small valid inputs to start from.

A target whose inputs are of several kinds has the kind on the first line of each; where an input is several
texts or files, :data:`GAP` stands between them.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pickles

from mvkit.errors import MvkitError

GAP = b"\n\x1d\n"
LEGACY = Path(__file__).parent.parent / "legacy" / "odd"

Mutate = Callable[[bytes, bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes
    ----------
    read
        Called with an input and a folder of its own; may raise MvkitError only.
    seeds
        Called with an empty folder; returns valid inputs.
    may_import
        Packages whose parts may be imported while an input is read.
    mutate
        Changes an input in its own way; None leaves it to the fuzzer.
    runs_code
        Whether Python may compile and import code of its own while an input is read.
    most_s
        User time of one input.
    instrument
        Modules whose branches guide the fuzzer.
    """

    read: Callable[[bytes, Path], object]
    seeds: Callable[[Path], list[bytes]]
    instrument: tuple[str, ...]
    may_import: tuple[str, ...] = ()
    mutate: Mutate | None = None
    most_s: float = 1.0
    runs_code: bool = False


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _kind(data: bytes, kinds: tuple[str, ...]) -> tuple[str, bytes]:
    """Return the kind that an input names on its first line, and the rest of it."""
    first, line, rest = data.partition(b"\n")
    named = first.decode("ascii", "replace")
    return (named, rest) if line and named in kinds else (kinds[len(first) % len(kinds)], rest)


def _parts(data: bytes, count: int) -> list[bytes]:
    parts = data.split(GAP, count - 1)
    return [*parts, *[b""] * (count - len(parts))]


# Pickles


def _read_pickle(data: bytes, folder: Path) -> object:
    from mvkit.errors import DataError
    from mvkit.neural import published
    from mvkit.neural.published import read_pickle_structure

    recording = read_pickle_structure(_write(folder, "some.pkl", data))
    recording.load_responses()
    for dataset in published.HAS_TIME:
        with contextlib.suppress(DataError):
            published.contents_of(recording, dataset, recording.responses.dtype)
    return recording


def _pickle_seeds(folder: Path) -> list[bytes]:
    import numpy as np
    import pandas as pd
    import xarray as xr

    seeds = [(LEGACY / "resaved" / "mini_old_stack.pkl").read_bytes()]
    index = pd.MultiIndex.from_arrays(
        [[5, 6], [7, 7], ["VISp", None], [0.5, np.nan]], names=["unit_id", "specimen_id", "visual_area", "p"]
    )
    for protocol in (2, 3, 4, 5):
        for has_time in (True, False):
            dims = ["trials", "frame_id", *(["time_relative_to_stimulus_onset"] if has_time else []), "units"]
            shape = (2, 3, 2, 2) if has_time else (2, 3, 2)
            array = xr.DataArray(
                np.arange(np.prod(shape), dtype="f4").reshape(shape),
                dims=dims,
                coords=xr.Coordinates.from_pandas_multiindex(index, "units"),
            )
            if has_time:
                array = array.assign_coords({dims[2]: [0.005, 0.015]})
                array = array.assign_coords(splithalf_r_mean=((dims[2], "units"), np.eye(2)))
            array = array.assign_coords(frame_id=np.array(["a", "b", "c"], dtype=object))
            content = {"stimuli": np.zeros((3, 2, 2), np.uint8), "neural_data": array}
            seeds.append(pickle.dumps(content, protocol))
    harmful = (bytes.fromhex(text) for text in json.loads((LEGACY / "malicious.json").read_text()).values())
    seeds += [content for content in harmful if len(content) < 4096]
    seeds += [gzip.compress(seeds[0], mtime=0)]
    return seeds


def _mutate_pickle(data: bytes, other: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.02:
        return pickles.generate(draw)
    return pickles.mutate(data, other, draw)


def _read_pickle_part(data: bytes, folder: Path) -> object:
    """Read a pickle of one array, index or column: smaller than a recording, and so thousands in a second."""
    from mvkit.errors import DataError
    from mvkit.neural import pickle_arrays
    from mvkit.pickle_reader import PickleFile, read_pickle

    source = PickleFile(_write(folder, "some.pkl", data))
    value = read_pickle(source)
    for read in (
        lambda: pickle_arrays.load(pickle_arrays.array_ref(value, "it"), source, "it"),
        lambda: pickle_arrays.column_values(value, source, "it"),
        lambda: pickle_arrays.index_values(value, source, "it"),
        lambda: pickle_arrays.level_columns(value, source, "it"),
    ):
        with contextlib.suppress(DataError):
            read()
    return value


def _part_seeds(folder: Path) -> list[bytes]:
    import numpy as np
    import pandas as pd

    texts = ["VISp", None, "é"]
    values = [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.asfortranarray(np.eye(2)),
        np.array(["a", "bc"]),
        np.array([True]),
        np.array([1, "x", None, 2.5], dtype=object),
        np.zeros((0, 2)),
        np.array(["x"], dtype=object),
        np.float64(2.0),
        pd.Index([1, 2, 3]),
        pd.RangeIndex(3),
        pd.Index(texts),
        pd.Index([0.5, np.nan]),
        pd.MultiIndex.from_arrays([[1, 2, 3], texts]),
        pd.array(["a", None], dtype="string[python]"),
        pd.array(["a", None, "é"], dtype="string[pyarrow]"),
        {"a": [1, (2,), {3}]},
        OrderedDict(a=b"x" * 70000),
        [b"", bytearray(b"abc"), -1, 1 << 70, 1e300, None, frozenset({1}), slice(1, 2)],
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in (2, 3, 4, 5)]


# Texts


def _read_recipe(data: bytes, folder: Path) -> object:
    from mvkit.pipeline.recipes import open_recipe

    text, *overrides = data.split(GAP)
    path = _write(folder, "some.yaml", text)
    recipe = open_recipe(str(path), [one.decode("utf-8", "replace") for one in overrides])
    return recipe.text(locations=True), recipe.to_json()


def _recipe_seeds(folder: Path) -> list[bytes]:
    recipes = Path(__file__).parents[2] / "recipes"
    names = ("demo", "alexnet_ir", "score/honest", "score/quick", "prep/cifar10", "six_stream_depth")
    texts = [(recipes / f"{name}.yaml").read_bytes() for name in names]
    sets = [
        b"train.epochs=3",
        b"mapping=ridge",
        b"areas=[VISp]",
        b"train.optimiser={name: adam}",
        b"seed=0x10",
    ]
    return [
        *texts,
        *[GAP.join([text, *sets]) for text in texts[::3]],
        *map(GAP.join, [[texts[0], one] for one in sets]),
    ]


_LAYERS = (
    "features.0",
    "features.1.conv",
    "features.10.relu",
    "decoder:VISp",
    "layer1.0.conv1",
    "relu",
    "relu[0]",
    "layer4.2.downsample.0.weight_norm",
    "blocks.11.attn.qkv",
    "a" * 60,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
)


def _read_pattern(data: bytes, folder: Path) -> object:
    from mvkit.models.names import match_layers
    from mvkit.neural.own.request import name_pattern

    text = data.decode("utf-8", "replace")
    with contextlib.suppress(MvkitError):
        name_pattern(text)
    return match_layers(text.split("\n"), _LAYERS)


def _pattern_seeds(folder: Path) -> list[bytes]:
    texts = [
        "features.*",
        "features.[0-3]",
        "re:.*conv\\d",
        "relu[0]",
        "relu[0]:part",
        "*:VISp",
        "re:(a+)+$",
        "?*?*?",
        "re:(a|aa)*b",
        "re:(?=a)a*(?!b)",
        "re:(.*)(.*)\\1x",
        "*a*a*a*a*b",
        "re:a{1,3}{2}",
        "re:[[:alpha:]]",
        "re:(?P<x>a)(?P=x)",
        "re:(?i)RELU",
        "{area}*{animal}",
        "re:" + "a?" * 30 + "a" * 30,
    ]
    return ["\n".join(texts[:3]).encode(), *(one.encode() for one in texts)]


class _StoppedError(MvkitError):
    """Raised in place of long work: a command line was understood."""


def _read_command_line(data: bytes, folder: Path) -> object:
    from mvkit.cli.main import run

    words = [word.decode("utf-8", "surrogateescape") for word in data.split(b"\n")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = run(words)
    if code not in (0, 1, 2):
        raise RuntimeError(f"exit code {code!r}")
    return code


def _without_long_work() -> None:
    """Let commands end where the long work would begin."""
    import importlib

    def stop(*arguments: object, **options: object) -> object:
        raise _StoppedError("stopped before the work")

    for name in (
        "pipeline.score.run_score",
        "pipeline.score.run_shard",
        "pipeline.estimate.estimate_run",
        "pipeline.train.run_training",
        "distributed.run_processes",
        "images.prep.prepare",
        "features.extraction.run_extract",
        "features.extraction.run_export",
        "allen.environment.install_allensdk",
        "fetch.run.fetch_checkpoints",
        "fetch.run.fetch_neural",
        "allen.fetch.fetch_sessions",
        "cache.prune",
        "pipeline.reliability.measure_reliability",
        "pipeline.plots.compare_rdms",
        "pipeline.plots.read_unit",
        "pipeline.listing.list_layers",
        "pipeline.train.plan_training",
    ):
        module, _, function = name.rpartition(".")
        setattr(importlib.import_module(f"mvkit.{module}"), function, stop)


@functools.cache
def _command_words() -> list[str]:
    """Return the words that mvkit's commands know."""
    import typer.main

    from mvkit.cli.main import app

    words: dict[str, None] = {}

    def visit(command: Any) -> None:
        for parameter in command.params:
            words.update(dict.fromkeys((*parameter.opts, *parameter.secondary_opts)))
            words.update(dict.fromkeys(map(str, getattr(getattr(parameter, "type", None), "choices", ()))))
        for name, inner in getattr(command, "commands", {}).items():
            words[name] = None
            visit(inner)

    visit(typer.main.get_command(app))
    return list(words)


_VALUES = [
    "",
    "0",
    "-1",
    "1e999",
    "nan",
    "10**9",
    "٣",
    "1_000",
    "VISp",
    "VISp,VISl",
    "alexnet",
    "gabor",
    "random",
    "released",
    "simulated",
    "neuropixels",
    "x.h5",
    "/",
    "/dev/null",
    "/etc/passwd",
    "../../x",
    ".",
    "~",
    "~nobody/x",
    "a=b",
    "=",
    "x" * 5000,
    "\x1b[31m",
    "\udcff",
    "é",
    "\u202e",
    "re:(a+)+",
    "*",
    "[",
    "%s",
    "{}",
    "1/2",
    "0/0",
    "999999999999999999999",
    "torchvision:resnet18",
    "timm:vit",
    "os:system",
    "x.py:f",
    "builtins:eval",
    "--",
    "-",
    "@",
    "C:\\x",
    "nul",
    "\t",
    "a\rb",
]


def _mutate_command_line(data: bytes, other: bytes, draw: random.Random) -> bytes:
    words = data.split(b"\n")
    known = [word.encode() for word in _command_words()]
    values = [value.encode("utf-8", "surrogateescape") for value in _VALUES]
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(words) + 1)
        kind = draw.random()
        if kind < 0.35:
            words.insert(at, draw.choice(known))
        elif kind < 0.65:
            words.insert(at, draw.choice(values))
        elif kind < 0.8 and words:
            words[at % len(words)] = draw.choice(values + known)
        elif kind < 0.9 and len(words) > 1:
            del words[at % len(words)]
        else:
            words[at:at] = draw.sample(other.split(b"\n"), 1)
    return b"\n".join(words[:20])


def _command_line_seeds(folder: Path) -> list[bytes]:
    lines = [
        "list models",
        "list layers alexnet",
        "list recipes",
        "list datasets",
        "recipe show honest",
        "recipe check x.yaml",
        "score gabor --dataset simulated --splits 1",
        "score alexnet --layers * --areas VISp --json",
        "cite alexnet",
        "train demo --dry-run --set train.epochs=1",
        "extract alexnet --images . --layers relu --out x.h5",
        "prep imagenet --images . --out x.beton",
        "fetch checkpoints --list",
        "fetch neural --from x.npz --out y.h5",
        "fetch neural --from {area}_*.npz --axes trials,images,units",
        "cache",
        "cache prune 30d",
        "report x --out y.html",
        "plot areas x --out y.png",
        "plot layers x",
        "plot rdm a b",
        "plot training x",
        "--version",
        "--help",
        "",
        "score --shard 1/2 --dask tcp://127.0.0.1:1",
        "fetch sessions --list",
        "fetch reliability x.h5",
    ]
    return ["\n".join(line.split()).encode() for line in lines]


# Neural and feature files


def _read_neural(data: bytes, folder: Path) -> object:
    from mvkit.neural.open import open_dataset, read_unit_facts

    path = _write(folder, "some.h5", data)
    dataset = open_dataset(path)
    return dataset.responses(), dataset.unit_table(), read_unit_facts(path)


def _small_dataset() -> Any:
    import numpy as np

    from mvkit.neural import NeuralDataset

    draw = np.random.default_rng(1)
    responses = {area: {"m1": draw.normal(size=(4, 6, 2)).astype(np.float32)} for area in ("VISp", "VISl")}
    return NeuralDataset.from_arrays(
        responses, draw.integers(0, 256, (6, 8, 8)).astype(np.uint8), name="small"
    )


def _neural_seeds(folder: Path) -> list[bytes]:
    from mvkit.neural.convert import convert_pickle

    small = _small_dataset().save(folder / "small.h5")
    seeds = [small.read_bytes()]
    for number, (dataset, content) in enumerate(
        zip(("neuropixels", "calcium"), _pickle_seeds(folder)[5:7], strict=True)
    ):
        source, target = _write(folder, f"{number}.pkl", content), folder / f"{number}.h5"
        with contextlib.suppress(MvkitError):
            convert_pickle(source, target, dataset=dataset)
            seeds.append(target.read_bytes())
    return [_without_checksum(seed) for seed in seeds]


def _without_checksum(data: bytes) -> bytes:
    """Return a file as others would write it: with mvkit's checksum HDF5 would not see what is changed."""
    return data.partition(b"\nmvkit crc32 ")[0]


def _read_features(data: bytes, folder: Path) -> object:
    from mvkit.features import read_features

    features = read_features(_write(folder, "some.h5", data))
    return {layer: values.shape for layer, values in features.items()}


def _feature_seeds(folder: Path) -> list[bytes]:
    import numpy as np
    import torch

    from mvkit.features import extract_to_file

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
    images = np.zeros((3, 3, 8, 8), np.float32)
    for name in ("some.h5", "some.npz"):
        extract_to_file(network, images, folder / name, ["1"])
    return [_without_checksum((folder / name).read_bytes()) for name in ("some.h5", "some.npz")]


_ARRAY_KINDS = (".npz", ".npy", ".mat", ".h5", ".csv", ".tsv", ".csv.gz", ".parquet", ".nwb")


def _read_arrays(data: bytes, folder: Path) -> object:
    from mvkit.neural import ImportSettings, import_recordings

    kind, content = _kind(data, _ARRAY_KINDS)
    path = _write(folder, f"some{kind}", content)
    stimuli = str(folder.parent / "stimuli.npy") if kind in (".csv", ".tsv", ".csv.gz", ".parquet") else None
    return import_recordings([path], ImportSettings(area="VISp", stimuli=stimuli)).dataset.responses()


def _array_seeds(folder: Path) -> list[bytes]:
    import h5py
    import numpy as np
    import pandas as pd
    import scipy.io

    draw = np.random.default_rng(0)
    responses, stimuli = draw.normal(size=(2, 3, 4)), draw.integers(0, 256, (3, 4, 4)).astype(np.uint8)
    arrays = {"responses": responses, "stimuli": stimuli, "unit_ids": np.arange(4)}
    np.save(folder.parent / "stimuli.npy", stimuli)
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "b.npz", **arrays)
    np.save(folder / "c.npy", responses)
    scipy.io.savemat(
        folder / "d.mat", {**arrays, "names": np.array(["a", "bc"], dtype=object), "s": {"x": 1}}
    )
    scipy.io.savemat(folder / "e.mat", {"responses": responses, "stimuli": stimuli}, do_compression=True)
    for name in ("f.h5", "g.mat"):
        with h5py.File(folder / name, "w") as file:
            for key, values in arrays.items():
                file.create_dataset(key, data=values, compression="gzip" if key == "stimuli" else None)
            file.create_group("group")["inner"] = np.array([b"x", b"yz"])
            file["cell"] = np.array([file["responses"].ref], dtype=h5py.ref_dtype)
            file["cell"].attrs["MATLAB_class"] = np.bytes_("cell")
    table = pd.DataFrame(
        [
            (image, unit, trial, 0.5 * image + unit)
            for image in range(3)
            for unit in range(2)
            for trial in range(2)
        ],
        columns=["image", "unit", "trial", "response"],
    )
    table.to_csv(folder / "h.csv", index=False)
    table.to_csv(folder / "i.tsv", index=False, sep="\t")
    table.to_csv(folder / "j.csv.gz", index=False)
    table.to_parquet(folder / "k.parquet")
    with h5py.File(folder / "l.nwb", "w") as file:
        units = file.create_group("units")
        units["id"] = np.arange(2)
        units["spike_times"], units["spike_times_index"] = np.arange(8) / 10, np.array([4, 8])
        shown = file.create_group("intervals/presentations")
        shown["start_time"], shown["stop_time"] = np.arange(3) / 4, np.arange(3) / 4 + 0.25
        shown["frame"], shown["id"] = np.arange(3), np.arange(3)
        file["stimulus/templates/scenes/data"] = stimuli
    return [
        b"".join(["".join(path.suffixes).encode(), b"\n", path.read_bytes()])
        for path in sorted(folder.iterdir())
    ]


# Weights


def _read_checkpoint(data: bytes, folder: Path) -> object:
    from mvkit.models.checkpoints import find_weights, read_checkpoint

    kind, content = _kind(data, (".pt", ".safetensors"))
    path = _write(folder, f"some{kind}", content)
    return {key: tuple(value.shape) for key, value in find_weights(read_checkpoint(path), path).items()}


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    import safetensors.torch
    import torch

    state = {"conv.weight": torch.ones(2, 3), "bn.running_mean": torch.zeros(2)}
    seeds = []
    for number, content in enumerate((state, {"state_dict": state, "epoch": 3, "args": ["x"]})):
        for is_zip in (True, False):
            path = folder / f"{number}{is_zip}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=is_zip)
            seeds.append(b".pt\n" + path.read_bytes())
    seeds.append(b".safetensors\n" + safetensors.torch.save(state, {"mvkit_format": "x"}))
    return seeds


_STORAGES, _STORAGE_BYTES = 8, 256


def _zip_of(structure: bytes) -> bytes:
    """Return a checkpoint of this ``data.pkl``, beside a few storages; its CRC-32s are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", structure)
        archive.writestr("a/byteorder", b"little")
        for number in range(_STORAGES):
            archive.writestr(f"a/data/{number}", bytes(_STORAGE_BYTES))
        archive.writestr("a/version", b"3\n")
    return buffer.getvalue()


def _read_pickled_checkpoint(data: bytes, folder: Path) -> object:
    """Read a checkpoint that holds more than tensors: of a zip archive the input has the structure only."""
    from mvkit.models.checkpoints import find_weights, read_checkpoint

    kind, content = _kind(data, ("zip", "legacy"))
    path = _write(folder, "some.pt", _zip_of(content) if kind == "zip" else content)
    weights = find_weights(read_checkpoint(path), path)
    for value in weights.values():
        if value.numel() < 1 << 20 and not (value.is_sparse or value.is_quantized):
            value.clone()  # beyond its storage a tensor would be read here
    return weights


def _pickled_checkpoint_seeds(folder: Path) -> list[bytes]:
    import argparse
    import collections

    import numpy as np
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1))
    state = network.state_dict()
    kinds = (torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint16)
    contents: list[object] = [
        {"state_dict": state, "args": argparse.Namespace(lr=0.1, path=Path("x"))},
        network,
        {"net": state, "counts": collections.defaultdict(list, a=[1]), "rng": np.random.RandomState(0)},
        {"w": torch.nn.Parameter(torch.ones(2, 2)), "c": collections.Counter("ab"), "s": {1, 2}},
        {str(kind): torch.zeros(2, 2, dtype=kind) for kind in kinds} | {"a": argparse.Namespace()},
        {"view": torch.ones(4, 4)[1:, ::2], "shared": [state, state], "a": argparse.Namespace()},
        {
            "sparse": torch.eye(2).to_sparse(),
            "quantised": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8),
        },
    ]
    seeds = []
    for content in contents:
        for is_zip in (True, False):
            path = folder / "some.pt"
            torch.save(content, path, _use_new_zipfile_serialization=is_zip)
            data = path.read_bytes()
            if is_zip:
                with zipfile.ZipFile(path) as archive:
                    data = archive.read("some/data.pkl")
            seeds.append((b"zip\n" if is_zip else b"legacy\n") + data)
    return seeds


def _mutate_pickled_checkpoint(data: bytes, other: bytes, draw: random.Random) -> bytes:
    kind, content = _kind(data, ("zip", "legacy"))
    _, theirs = _kind(other, ("zip", "legacy"))
    return kind.encode() + b"\n" + _mutate_pickle(content, theirs or b".", draw)


# Images


_IMAGE_KINDS = ("png", "jpeg", "gif", "tiff", "webp", "bmp", "ppm")


def _read_images(data: bytes, folder: Path) -> object:
    from mvkit.features.stimuli import open_stimuli
    from mvkit.images.prep import encode, load_prep_recipe
    from mvkit.images.sources import Item
    from mvkit.neural.grey_images import read_image_folder

    kind, content = _kind(data, _IMAGE_KINDS)
    images = folder / "images"
    images.mkdir(exist_ok=True)
    path = _write(images, f"some.{kind}", content)
    try:
        settings = load_prep_recipe("imagenet_64")
        encode(Item("some", 0, path=path), settings)
        encode(Item("some", 0, path=path, depth_path=path), settings)
        with contextlib.suppress(MvkitError):
            read_image_folder(images)
        return open_stimuli(images).read(0, 1)
    finally:
        path.unlink()


def _image_seeds(folder: Path) -> list[bytes]:
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(2)
    seeds = []
    for kind in _IMAGE_KINDS:
        for mode, shape in (("L", (9, 7)), ("RGB", (5, 6, 3))):
            buffer = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, shape).astype(np.uint8), mode).save(buffer, kind)
            seeds.append(kind.encode() + b"\n" + buffer.getvalue())
    return seeds


# What mvkit wrote, changed


def _read_manifest(data: bytes, folder: Path) -> object:
    from mvkit.fetch.manifest import Manifest

    path = _write(folder, "manifest.json", data)
    manifest = Manifest(folder)
    return manifest.records(), manifest.state(path)


def _manifest_seeds(folder: Path) -> list[bytes]:
    from mvkit.fetch.manifest import Manifest, Record

    manifest = Manifest(folder)
    manifest.record(folder / "x.pt", Record(size=3, sha256="00", url="https://x/y", made_from={"a": 1}))
    return [manifest.path.read_bytes()]


def _read_beton(data: bytes, folder: Path) -> object:
    """Read a beton whose sidecar fits it, as one who changes both would see to."""
    import hashlib

    from mvkit.images import beton

    path = _write(folder, "some.beton", data)
    sidecar = json.loads(_sidecar())
    structure = beton.read_structure(path)
    sidecar |= {
        "n_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "structure_sha256": structure.sha256,
        "n_images": structure.n_images,
    }
    _write(folder, "some.json", json.dumps(sidecar).encode())
    return beton.verify_beton(path)


def _read_sidecar(data: bytes, folder: Path) -> object:
    from mvkit.images import beton

    path = _write(folder, "some.beton", b"\2\0" + bytes(70))
    _write(folder, "some.json", data)
    with contextlib.suppress(MvkitError):
        beton.check_complete(path)
    return beton.read_sidecar(path)


_BETON: dict[str, bytes] = {}


def _make_beton(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    from mvkit.images.prep import load_prep_recipe, prepare

    if _BETON:
        return
    images = folder / "images"
    for split in ("train", "val"):
        for name in ("a", "b"):
            (images / split / name).mkdir(parents=True)
            Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(images / split / name / "x.png")
    settings = load_prep_recipe("imagenet_64", ["short_side_px=8", "page_mib=2"])
    prepare(settings, images, folder / "out.beton")
    made = next(path for path in sorted(folder.rglob("*.beton")) if path.is_file())
    _BETON["beton"], _BETON["sidecar"] = made.read_bytes(), made.with_suffix(".json").read_bytes()


def _sidecar() -> bytes:
    return _BETON["sidecar"]


def _beton_seeds(part: str, folder: Path) -> list[bytes]:
    _make_beton(folder)
    return [_BETON[part]]


def _read_results(data: bytes, folder: Path) -> object:
    from mvkit.pipeline.citations import cite
    from mvkit.report.html import read_run, write_report

    (folder / "run").mkdir(exist_ok=True)
    for name in _RESULT_FILES:
        (folder / "run" / name).unlink(missing_ok=True)
    for name, content in zip(_RESULT_FILES, _parts(data, len(_RESULT_FILES)), strict=True):
        if content or name != "units.csv":
            _write(folder / "run", name, content)
    with contextlib.suppress(MvkitError):
        cite([folder / "run"])
    return write_report(read_run([folder / "run"]), folder / "page.html")


_RESULT_FILES = ("summary.json", "units.csv", "scores.csv", "scores.parquet")


def _result_seeds(folder: Path) -> list[bytes]:
    import mvkit

    run = mvkit.score("gabor", _small_dataset(), mapping="rsa", n_splits=1, n_halves=2)
    folder.mkdir(exist_ok=True)
    run.save(folder / "saved")
    contents = []
    for name in _RESULT_FILES:
        path = folder / "saved" / name
        contents.append(path.read_bytes() if path.is_file() else b"")
    return [GAP.join(contents)]


def _read_log(data: bytes, folder: Path) -> object:
    from mvkit.report.figures import read_training_log

    _write(folder, "log.jsonl", data)
    return read_training_log(folder)


def _log_seeds(folder: Path) -> list[bytes]:
    rows = [
        {"kind": "step", "step": 1, "epoch": 0, "loss": 2.5},
        {"kind": "epoch", "step": 4, "epoch": 1, "loss": 2.0},
        {"kind": "evaluation", "step": 4, "epoch": 1, "top1": 0.25},
        {"kind": "end", "step": 4, "epoch": 1},
    ]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


TARGETS: dict[str, Target] = {
    "pickle": Target(
        _read_pickle,
        _pickle_seeds,
        ("mvkit.pickle_reader", "mvkit.neural.pickle_arrays", "mvkit.neural.published"),
        mutate=_mutate_pickle,
    ),
    "pickle_part": Target(
        _read_pickle_part,
        _part_seeds,
        ("mvkit.pickle_reader", "mvkit.neural.pickle_arrays"),
        mutate=_mutate_pickle,
    ),
    "recipe": Target(
        _read_recipe, _recipe_seeds, ("mvkit.recipes", "mvkit.pipeline.recipes", "yaml"), ("pydantic",)
    ),
    "pattern": Target(_read_pattern, _pattern_seeds, ("mvkit.models.names", "mvkit.neural.own.request")),
    "command_line": Target(
        _read_command_line,
        _command_line_seeds,
        ("mvkit.cli", "mvkit.errors"),
        (),
        _mutate_command_line,
        most_s=10.0,
        runs_code=True,
    ),
    "neural": Target(
        _read_neural, _neural_seeds, ("mvkit.neural.neural_file", "mvkit.neural.netcdf"), ("numpy", "pandas")
    ),
    "features": Target(_read_features, _feature_seeds, ("mvkit.features.feature_file", "zipfile")),
    "arrays": Target(
        _read_arrays, _array_seeds, ("mvkit.neural.own",), ("numpy", "pandas", "scipy", "pyarrow", "h5py")
    ),
    "checkpoint": Target(_read_checkpoint, _checkpoint_seeds, ("mvkit.models.checkpoints",)),
    "pickled_checkpoint": Target(
        _read_pickled_checkpoint,
        _pickled_checkpoint_seeds,
        ("mvkit.models.checkpoints", "mvkit.pickle_reader"),
        ("torch",),
        _mutate_pickled_checkpoint,
    ),
    "images": Target(_read_images, _image_seeds, ("PIL", "mvkit.images.prep"), ("PIL",)),
    "manifest": Target(_read_manifest, _manifest_seeds, ("mvkit.fetch.manifest",)),
    "beton": Target(_read_beton, partial(_beton_seeds, "beton"), ("mvkit.images.beton",), ("PIL",)),
    "sidecar": Target(_read_sidecar, partial(_beton_seeds, "sidecar"), ("mvkit.images.beton",)),
    "results": Target(
        _read_results,
        _result_seeds,
        ("mvkit.scoring.results", "mvkit.report.html"),
        ("numpy", "pandas", "pyarrow", "scipy"),
    ),
    "log": Target(_read_log, _log_seeds, ("mvkit.report.figures.training",)),
}


def prepare(name: str) -> None:
    """Load what a target's reader imports, and keep it from long work and the network."""
    os.environ["MVKIT_OFFLINE"] = "1"
    if name == "command_line":
        _without_long_work()


def fresh_folder(folder: Path) -> Path:
    """Return an empty folder at a path."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
