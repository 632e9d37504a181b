"""Scores, coordinates of layers and ceilings that are cached, and found again by what they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit import machine
from mvkit.cache import Store, mark_used, probes_agree
from mvkit.errors import DataError
from mvkit.files import digest_of, plain, write_text
from mvkit.machine import installed_versions
from mvkit.scoring.ceilings import measure_ceiling
from mvkit.scoring.gram import LayerCoordinates
from mvkit.scoring.protocol import recordings_digest
from mvkit.scoring.results import Scores, read_scores, save_scores
from mvkit.scoring.run import LayerSource, Progress, UnitScores
from mvkit.scoring.settings import REPORTING, RecordingLike, ScoreSettings

log = logging.getLogger(__name__)

SCORES_KIND = "scores"
#: Maps whose numbers another library computes.
_FITTED_BY_SKLEARN = ("lasso", "elasticnet")
_BY_FOLD, _PROBE, _COLUMN = "by_fold", "probe", "column:"


class Identified(Protocol):
    """What stands for a layer's features."""

    @property
    def key(self) -> str:
        """Digest of everything that the features depend on."""

    @property
    def fingerprint(self) -> NDArray[np.float64]:
        """float64 (n,): what the layer gives for the first batch, in a few numbers."""


def sources_digest() -> str:
    """Return the sha256 (hex) of the sources that scores come from, so that edited code makes new ones."""
    return machine.sources_digest("rng.py", "scoring")


class StoredScores:
    """Scores in a store, found again by what they depend on.

    Parameters
    ----------
    store
        Where they lie.
    layers
        Layer -> its key. What is cached of a layer is believed only while its fingerprint agrees.
    settings
        The protocol; how scores are shown, and the ceiling, do not matter.
    """

    def __init__(self, store: Store, layers: Mapping[str, Identified], settings: ScoreSettings) -> None:
        self._store = store
        self._layers = layers
        sklearn = ("scikit-learn",) if settings.mapping in _FITTED_BY_SKLEARN else ()
        self._common = {
            "protocol": settings.protocol(),
            "sources": sources_digest(),
            "versions": installed_versions("numpy", "scipy", "numba", *sklearn),
        }
        # Responses are large, and every layer asks for their digest.
        self._digests: dict[int, tuple[RecordingLike, str]] = {}
        self._warned: set[str] = set()

    def key(self, layer: str, recording: RecordingLike) -> str:
        """Return under what the scores of a layer and a recording are kept: sha256 (hex)."""
        known = self._digests.get(id(recording))
        if known is None:
            known = self._digests[id(recording)] = recording, recordings_digest([recording])
        return digest_of({**self._common, "layer": self._layers[layer].key, "recording": known[1]})

    def read(self, layer: str, recording: RecordingLike) -> UnitScores | None:
        """Return what is kept, or None if there is nothing, or nothing that can be believed."""
        kept = read_kept(self._store, self.key(layer, recording))
        if kept is None:
            return None
        if not probes_agree(kept.probe, self._layers[layer].fingerprint):
            # Once for all its recordings: whoever edits a network's code sees it of every layer.
            if layer not in self._warned:
                self._warned.add(layer)
                log.warning(
                    "layer '%s': the first images give other features than when its scores were cached; "
                    "they are measured anew",
                    layer,
                )
            return None
        return kept.scores

    def write(self, layer: str, recording: RecordingLike, found: UnitScores) -> None:
        """Keep what was measured."""
        columns = {
            f"{_COLUMN}{name}": values.astype(np.str_) if values.dtype == object else values
            for name, values in found.columns.items()
        }
        arrays = {**columns, _BY_FOLD: found.by_fold, _PROBE: self._layers[layer].fingerprint}
        about = {"columns": list(found.columns), "layer": layer, "area": recording.area}
        self._store.write(
            SCORES_KIND, self.key(layer, recording), arrays, {**about, "specimen": int(recording.specimen)}
        )


@dataclass(frozen=True)
class Kept:
    """Scores as they were kept, and what their layer gave for the first image then."""

    scores: UnitScores
    probe: NDArray[np.float64]


def read_kept(store: Store, key: str) -> Kept | None:
    """Read scores, to the last bit what was kept; None if there are none or they are damaged (logged)."""
    entry = store.read(SCORES_KIND, key)
    if entry is None:
        return None
    try:
        arrays = {name: entry.arrays[f"{_COLUMN}{name}"] for name in entry.about["columns"]}
        by_fold, probe = entry.arrays[_BY_FOLD], entry.arrays[_PROBE]
    except (KeyError, TypeError) as error:
        log.warning("%s: incomplete, the scores are measured anew (%s)", store.path(SCORES_KIND, key), error)
        return None
    columns = {
        name: values.astype(object) if values.dtype.kind == "U" else values for name, values in arrays.items()
    }
    return Kept(UnitScores(columns, by_fold), probe)


COORDINATES_KIND = "coordinates"
_KEPT_COORDINATES_PROBE = "probe"


class KeptCoordinates:
    """Coordinates in a store.

    Parameters
    ----------
    store
        Where they lie.
    layers
        Layer -> its key. What is cached of a layer is believed only while its fingerprint agrees.
    """

    def __init__(self, store: Store, layers: Mapping[str, Identified]) -> None:
        self._store = store
        self._layers = layers
        self._common = {"sources": sources_digest(), "versions": installed_versions("numpy", "scipy")}

    def key(self, name: str) -> str:
        """Return under what a layer's coordinates are kept: sha256 (hex)."""
        return digest_of({**self._common, "layer": self._layers[name].key})

    def read(self, name: str) -> LayerCoordinates | None:
        """Return a layer's coordinates to the last bit, or None if there are none that can be believed."""
        key = self.key(name)
        entry = self._store.read(COORDINATES_KIND, key)
        if entry is None:
            return None
        try:
            probe = entry.arrays[_KEPT_COORDINATES_PROBE]
            values = {**entry.arrays, **entry.about, "name": name}
            kept = LayerCoordinates(**{field.name: values[field.name] for field in fields(LayerCoordinates)})
        except (KeyError, TypeError) as error:
            path = self._store.path(COORDINATES_KIND, key)
            log.warning("%s: incomplete, the coordinates are made anew (%s)", path, error)
            return None
        if not probes_agree(probe, self._layers[name].fingerprint):
            log.info("layer '%s': the first images give other features than were cached", name)
            return None
        return kept

    def write(self, made: LayerCoordinates) -> None:
        """Keep a layer's coordinates."""
        values = {field.name: getattr(made, field.name) for field in fields(LayerCoordinates)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        about = {name: plain(value) for name, value in values.items() if name not in arrays}
        probe = self._layers[made.name].fingerprint
        self._store.write(
            COORDINATES_KIND, self.key(made.name), {**arrays, _KEPT_COORDINATES_PROBE: probe}, about
        )


def with_kept_coordinates(source: LayerSource, kept: KeptCoordinates) -> LayerSource:
    """Return layers that give coordinates where some are kept, and have new ones kept.

    Parameters
    ----------
    source
        Layers that give features.
    kept
        Where coordinates are looked for, and kept.
    """

    @contextmanager
    def either(names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        earlier = {name: kept.read(name) for name in names}
        ready = {name: found for name, found in earlier.items() if found is not None}
        missing = [name for name in names if name not in ready]
        opened: AbstractContextManager[Any] = source.open(missing) if missing else nullcontext({})
        with opened as features:
            # Not put into one dictionary: features may be read from disk when they are asked for.
            yield ChainMap(ready, features)

    return replace(source, open=either, save=kept.write)


#: To be raised whenever the numbers that a ceiling holds change: what was kept before is measured anew.
EDITION = 1
#: File beside the others that holds their sha256: parquet would not notice a changed byte.
CHECKSUMS = "checksums.json"
#: What a ceiling's context says of itself, whoever asks for it.
OWN = ("responses_sha256", "versions")


def cached_ceiling(
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings,
    folder: Path,
    *,
    n_jobs: int = 1,
    progress: Progress | None = None,
    context: Mapping[str, object] | None = None,
) -> tuple[Scores, bool]:
    """Read a ceiling from a folder of ceilings, or measure it and put it there.

    A ceiling is found again by recordings (areas, animals, units, responses) and settings; those that only
    say how scores are shown do not matter. What is damaged, or belongs to something else, is measured anew
    and replaced. Several processes may use one folder at once: a ceiling's folder appears whole or not at
    all, and the first one stays. A folder that cannot be written costs a warning, not the ceiling.

    Parameters
    ----------
    recordings, settings, n_jobs, progress, context
        As for :func:`~mvkit.scoring.ceilings.measure_ceiling`.
    folder
        Folder of ceilings; each gets a folder of its own in it.

    Returns
    -------
    ceiling
        The ceiling, with the settings and the context given here.
    was_kept
        Whether it was read.

    Raises
    ------
    UsageError, DataError, FitError
        As :func:`~mvkit.scoring.ceilings.measure_ceiling`.
    """
    place = folder / ceiling_key(recordings_digest(recordings), settings)
    kept = _read(place)
    if kept is not None:
        mark_used(place)
        # In the order of a fresh one, so that files are the same too.
        others = {name: value for name, value in (context or {}).items() if name not in OWN}
        about = {**others, **{name: kept.context[name] for name in OWN if name in kept.context}}
        columns, by_fold = kept.columns, kept.by_fold
        return Scores(columns, kept.layers, kept.areas, settings, about, by_fold), True
    measured = measure_ceiling(recordings, settings, n_jobs=n_jobs, progress=progress, context=context)
    try:
        _keep(measured, place)
    except OSError as error:
        log.warning("%s: the ceiling could not be kept (%s)", place, error)
    return measured, False


def is_kept(recordings: Sequence[RecordingLike], settings: ScoreSettings, folder: Path) -> bool:
    """Tell whether :func:`cached_ceiling` would read a ceiling; arguments are the same."""
    return _read(folder / ceiling_key(recordings_digest(recordings), settings)) is not None


def ceiling_key(digest: str, settings: ScoreSettings) -> str:
    """Return the name of a ceiling's folder from :func:`recordings_digest` and settings."""
    return digest_of(
        {"edition": EDITION, "recordings": digest, "settings": settings.protocol(without=REPORTING)}
    )


def _keep(scores: Scores, place: Path) -> None:
    """Write a ceiling beside its place and move it there, unless a whole one has appeared meanwhile."""
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f"{place.name}.tmp-{mark}")
    damaged = place.with_name(f"{place.name}.old-{mark}")
    try:
        files = save_scores(scores, temporary)
        sums = {file.name: _sha256(file) for file in files}
        write_text(temporary / CHECKSUMS, json.dumps(sums, indent=2) + "\n")
        if _fault(place):
            if place.exists():
                place.rename(damaged)
            _move(temporary, place)
    finally:
        for leftover in (temporary, damaged):
            if leftover.is_file():
                leftover.unlink()
            else:
                shutil.rmtree(leftover, ignore_errors=True)


def _move(temporary: Path, place: Path) -> None:
    try:
        temporary.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        log.debug("%s: another process was first", place)


def _read(place: Path) -> Scores | None:
    """Read a ceiling if it is there and whole."""
    if not place.exists():
        return None
    fault = _fault(place)
    if not fault:
        try:
            return read_scores(place)
        except DataError as error:
            fault = str(error)
    log.warning("%s: damaged, the ceiling is measured anew (%s)", place, fault)
    return None


def _fault(place: Path) -> str:
    """Say what is wrong with the files of a ceiling, or ""."""
    try:
        sums = json.loads((place / CHECKSUMS).read_text(encoding="utf-8"))
        wrong = [name for name, expected in sums.items() if _sha256(place / name) != expected]
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return f"changed since written: {', '.join(wrong)}" if wrong else ""


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
