"""One changed or missing byte, at random places of every kind of file that mvkit reads."""

from __future__ import annotations

import faulthandler
import gzip
import json
import os
import pickle
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT_S = 20.0
#: Cases of one forked process: a crash costs no more than what is left of these.
_BATCH = 40
_SECTOR = 4096


@dataclass(frozen=True)
class Kind:
    """A kind of file and how mvkit reads it.

    Attributes
    ----------
    name
        For the table.
    path
        An intact file; files beside it are there when a damaged copy is read.
    read
        Returns everything that mvkit takes from the file at this path, to compare.
    unchecked
        Why another value may go unseen; empty where it must not.
    """

    name: str
    path: Path
    read: Callable[[Path], Any]
    unchecked: str = ""


def changes(content: bytes, n: int, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield damaged copies: a flipped bit or another byte mostly, then missing and further ones."""
    for _ in range(n):
        at = draw.randrange(len(content))
        # Small files of attributes lie at the beginning of HDF5, directories at the end of archives.
        if draw.random() < 0.3:
            at = min(len(content) - 1, draw.randrange(min(len(content), 8192)))
        elif draw.random() < 0.2:
            at = max(0, len(content) - 1 - draw.randrange(min(len(content), 4096)))
        kind = draw.choice(("bit", "bit", "bit", "byte", "byte", "missing", "cut", "more", "zeros"))
        if kind == "bit":
            changed = bytes([content[at] ^ (1 << draw.randrange(8))])
            yield f"bit at {at}", content[:at] + changed + content[at + 1 :]
        elif kind == "byte":
            changed = bytes([(content[at] + draw.randrange(1, 256)) % 256])
            yield f"byte at {at}", content[:at] + changed + content[at + 1 :]
        elif kind == "missing":
            yield f"missing byte at {at}", content[:at] + content[at + 1 :]
        elif kind == "cut":
            yield f"cut at {at}", content[:at]
        elif kind == "more":
            yield "appended bytes", content + draw.randbytes(draw.choice((1, 7, 4096)))
        else:
            begin = at // _SECTOR * _SECTOR
            block = content[begin : begin + _SECTOR]
            yield f"zeros at {begin}", content[:begin] + bytes(len(block)) + content[begin + _SECTOR :]


def damage(root: Path, harness: Any, tally: Any, n_cases: int, draw: random.Random) -> None:
    """Damage every kind of file so often."""
    folder = root / "damage"
    chosen = os.environ.get("MVKIT_FAULTS_KINDS", "").split(",")
    for kind in make_kinds(folder, harness):
        if chosen != [""] and kind.name not in chosen:
            continue
        began = time.monotonic()
        content = kind.path.read_bytes()
        cases = list(changes(content, n_cases, draw))
        position = 0
        while position < len(cases):
            position = _run_batch(kind, cases, position, tally)
            kind.path.write_bytes(content)
        if kind.unchecked:
            print(f"{kind.name}: {kind.unchecked}")
        print(f"damage of {kind.name}: {time.monotonic() - began:.0f} s", flush=True)


def _run_batch(kind: Kind, cases: list[tuple[str, bytes]], first: int, tally: Any) -> int:
    """Read some damaged copies in a forked process; return the next case."""
    reading, writing = os.pipe()
    log = kind.path.with_name("damage.err")
    child = os.fork()
    if child == 0:
        try:
            _read_cases(kind, cases[first : first + _BATCH], writing, log)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(70)
    os.close(writing)
    position = first
    # Unbuffered, or select would not see what is waiting in the buffer.
    with os.fdopen(reading, "rb", buffering=0) as stream:
        # It reads the intact file first, and may have to compile what reads it.
        if not stream.readline():
            raise SystemExit(f"{kind.name} cannot be read undamaged: {log.read_text()[-2000:]}")
        while position < min(first + _BATCH, len(cases)):
            label = cases[position][0]
            ready, _, _ = select.select([stream], [], [], TIMEOUT_S)
            answer = stream.readline() if ready else b""
            if not answer:
                os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                reason = "hangs" if not ready else f"crashes ({os.waitstatus_to_exitcode(status)})"
                tally.add("damage", kind.name, "failure", f"{label}: {reason} {log.read_text()[-1500:]}")
                return position + 1
            outcome, detail = json.loads(answer)
            tally.add("damage", kind.name, outcome, f"{label}: {detail}")
            position += 1
    os.waitpid(child, 0)
    return position


def _read_cases(kind: Kind, cases: list[tuple[str, bytes]], writing: int, log: Path) -> None:
    """Be the process that reads."""
    from mvkit import files
    from mvkit.errors import MvkitError

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    expected = pickle.dumps(kind.read(kind.path))
    again = pickle.dumps(kind.read(kind.path))
    answers: tuple[str, str]
    os.write(writing, b"ready\n")
    for _, content in cases:
        kind.path.write_bytes(content)
        # Two files of one size within a tick of the clock look alike.
        files._has_own_checksum.cache_clear()
        faulthandler.dump_traceback_later(TIMEOUT_S - 3)
        began = time.monotonic()
        try:
            found = pickle.dumps(kind.read(kind.path))
        except MvkitError as error:
            lines = str(error).strip().splitlines()
            names = kind.path.name in str(error) or kind.path.parent.name in str(error)
            # All errors of a recipe are listed at once, a line each.
            if names and (1 <= len(lines) <= 3 or kind.name == "recipe"):
                answers = ("clean", "")
            else:
                answers = ("failure", f"message: {error}")
        except BaseException as error:
            answers = ("failure", f"traceback: {type(error).__name__}: {error}"[:500])
        else:
            if found in (expected, again) or found == pickle.dumps(None):
                answers = ("right", "")
            elif kind.unchecked:
                answers = ("known", "")
            else:
                answers = ("failure", "other values, silently")
        if time.monotonic() - began > TIMEOUT_S:
            answers = ("failure", "takes too long")
        os.write(writing, json.dumps(answers).encode() + b"\n")


def _arrays(value: Any) -> Any:
    """Return arrays as bytes, so that equal ones are equal when pickled (NaN too)."""
    if isinstance(value, np.ndarray):
        content = value.tolist() if value.dtype.kind in "OU" else value.tobytes()
        return (str(value.dtype), value.shape, content)
    if hasattr(value, "numpy"):
        return (str(value.dtype), tuple(value.shape), value.detach().cpu().numpy().tobytes())
    if hasattr(value, "items"):
        return [(str(key), _arrays(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_arrays(item) for item in value]
    return repr(value) if value is not None and not isinstance(value, str | int | float | bool) else value


_BY_PEOPLE = "people write them, so another valid value is theirs to give"
_FOREIGN = "another program's, without a checksum (a published one is compared with its SHA-256 when fetched)"
_PIXELS = "tables are checked at once, pixels by `mvkit prep --verify`: hours of reading before every start"


def make_kinds(folder: Path, harness: Any) -> list[Kind]:
    """Make an intact file of every kind."""
    import h5py  # noqa: F401

    from mvkit.models.loading import load_model  # noqa: F401

    def run(*words: str, tiny: bool = False) -> None:
        import commands

        before = commands.use_tiny_network if tiny else lambda: None
        ended = harness.launcher.start(list(words), environment, folder, before=before).wait()
        if ended.code:
            raise SystemExit(f"{words}: {ended}")

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    inputs, home = harness.inputs, folder / "home"
    environment = {**harness.environment, "MVKIT_HOME": str(home)}
    os.environ.update(environment)
    for name in ("neural", "h5", "npz", "beton", "weights", "recipe", "pickle", "own"):
        (folder / name).mkdir()
    shutil.copy(inputs / "mine.h5", folder / "neural" / "mine.h5")
    (folder / "converted").mkdir()
    run("fetch", "neural", "--dataset", "neuropixels", "--from", str(next(inputs.glob("*.pkl"))))
    shutil.copy(home / "neural" / "neuropixels.h5", folder / "converted" / "counts.h5")
    data = str(inputs / "mine.h5")
    run("extract", "gabor", "--stimuli", data, "--out", str(folder / "h5" / "f.h5"))
    run("extract", "gabor", "--stimuli", data, "--out", str(folder / "npz" / "f.npz"))
    run("prep", "demo", "--images", str(inputs / "images"), "--out", str(folder / "beton"), "--workers", "1")
    words = ("train", str(inputs / "tiny.yaml"), "--images", str(inputs / "images"), "--device", "cpu")
    run(*words, "--workers", "1", "--out", str(folder / "run"), tiny=True)
    export = folder / "weights" / "w.safetensors"
    run("extract", "shi_mousenet_ir", "--weights", "random", "--export-weights", str(export))
    protocol = ("--splits", "1", "--halves", "2", "--set", "n_components=4", "--jobs", "1")
    run(
        "score",
        "gabor",
        "--dataset",
        data,
        *protocol,
        "--ceiling",
        "holdout",
        "--out",
        str(folder / "scores"),
    )
    (folder / "recipe" / "tiny.yaml").write_text((inputs / "tiny.yaml").read_text())
    source = next(inputs.glob("*.pkl"))
    shutil.copy(source, folder / "pickle" / "p.pkl")
    with gzip.open(folder / "own" / "p.pkl.gz", "wb", compresslevel=1) as file:
        file.write(source.read_bytes())
    return _kinds(folder, home)


def _kinds(folder: Path, home: Path) -> list[Kind]:
    from mvkit.cache import Store
    from mvkit.features import read_features
    from mvkit.fetch.manifest import Manifest
    from mvkit.images.beton import read_sidecar, verify_beton
    from mvkit.images.loader import BetonSource
    from mvkit.images.settings import CentreCrop
    from mvkit.models.checkpoints import read_checkpoint
    from mvkit.neural import convert_pickle, open_dataset
    from mvkit.neural.neural_file import open_neural_file
    from mvkit.pipeline.cached import _read_ceiling
    from mvkit.recipes import load_recipe
    from mvkit.scoring.results import read_scores
    from mvkit.training.recipe import TrainRecipe

    def neural(path: Path) -> Any:
        with open_neural_file(path) as file:
            contents = {name: getattr(file.contents, name) for name in file.contents.__dataclass_fields__}
            return _arrays(contents), _arrays(file.read())

    def dataset(path: Path) -> Any:
        opened = open_dataset(path)
        parts = [
            (one.area, one.specimen, _arrays(one.responses), _arrays(one.unit_ids), _arrays(dict(one.units)))
            for one in opened.recordings
        ]
        return parts, _arrays(opened.stimuli)

    def features(path: Path) -> Any:
        read = read_features(path)
        return _arrays({layer: read[layer] for layer in read}), repr(read.provenance), repr(read.shapes)

    def converted(path: Path) -> Any:
        target = path.with_name("out.h5")
        convert_pickle(path, target, dataset="neuropixels")
        with open_neural_file(target) as file:
            return (
                _arrays(file.read()),
                _arrays(dict(file.contents.unit_columns)),
                _arrays(file.contents.stimuli),
            )

    def scores(path: Path) -> Any:
        read = read_scores(path if path.is_dir() else path.parent)
        return _arrays(dict(read.columns)), repr(read.settings)

    def beton_batches(path: Path) -> Any:
        source = BetonSource(path)
        plan = [np.arange(start, min(start + 20, source.n_images)) for start in range(0, source.n_images, 20)]
        with source.batches(
            plan, [(CentreCrop(resize_px=72, crop_px=64), 64)], seed=0, epoch=0, workers=0
        ) as batches:
            return [[_arrays(view) for view in batch.crops] + [_arrays(batch.label)] for batch in batches]

    entry = sorted((home / "cache").rglob("*.cached"))
    kinds = [
        Kind("neural file (own)", folder / "neural" / "mine.h5", neural),
        Kind("neural dataset", folder / "neural" / "mine.h5", dataset),
        Kind("neural file (counts)", folder / "converted" / "counts.h5", neural),
        Kind("features h5", folder / "h5" / "f.h5", features),
        Kind("features npz", folder / "npz" / "f.npz", features),
        Kind("beton (verify)", folder / "beton" / "train.beton", lambda path: repr(verify_beton(path))),
        Kind("beton (train)", folder / "beton" / "train.beton", beton_batches, _PIXELS),
        Kind(
            "beton's json",
            folder / "beton" / "train.json",
            lambda path: repr(read_sidecar(path.with_suffix(".beton"))),
        ),
        Kind("checkpoint", folder / "run" / "last.pt", lambda path: _arrays(read_checkpoint(path))),
        Kind("weights", folder / "weights" / "w.safetensors", lambda path: _arrays(read_checkpoint(path))),
        Kind(
            "recipe",
            folder / "recipe" / "tiny.yaml",
            lambda path: repr(load_recipe(TrainRecipe, str(path))),
            _BY_PEOPLE,
        ),
        Kind("pickle", folder / "pickle" / "p.pkl", converted, _FOREIGN),
        Kind("pickle.gz", folder / "own" / "p.pkl.gz", converted),
        Kind("scores parquet", folder / "scores" / "scores.parquet", scores),
        Kind("scores json", folder / "scores" / "summary.json", scores),
        Kind("manifest", home / "manifest.json", lambda path: repr(Manifest(home).records())),
    ]
    for path in entry:
        kind, key = path.parent.parent.name, path.stem
        kinds.append(
            Kind(
                f"cache: {kind}",
                path,
                lambda path, kind=kind, key=key: _entry(Store(home / "cache").read(kind, key)),
            )
        )
    for path in sorted(home.rglob("checksums.json")):
        for name in ("scores.parquet", "summary.json", "checksums.json"):
            kinds.append(
                Kind(
                    f"ceiling: {name}",
                    path.with_name(name),
                    lambda path: _ceiling(_read_ceiling(path.parent)),
                )
            )
    return kinds


def _entry(entry: Any) -> Any:
    return None if entry is None else (_arrays(dict(entry.arrays)), repr(entry.about))


def _ceiling(read: Any) -> Any:
    return None if read is None else (_arrays(dict(read.columns)), repr(read.settings))
