"""Scores, coordinates of layers and ceilings in the cache, found again by everything they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit import machine
from mvkit.cache import Store, fingerprints_agree, mark_used
from mvkit.errors import DataError, UsageError
from mvkit.files import digest_of, make_folder, plain, temporary_beside, write_text
from mvkit.machine import installed_versions
from mvkit.scoring.ceilings import measure_ceiling
from mvkit.scoring.gram import LayerCoordinates
from mvkit.scoring.protocol import recordings_digest
from mvkit.scoring.results import Scores, read_scores, save_scores
from mvkit.scoring.run import LayerSource, Progress, UnitScores
from mvkit.scoring.settings import REPORTING, RecordingLike, ScoreSettings

log = logging.getLogger(__name__)

SCORES_KIND, COORDINATES_KIND = "scores", "coordinates"
#: Maps whose numbers scikit-learn computes.
_FITTED_BY_SKLEARN = ("lasso", "elasticnet")
#: Names of arrays in an entry.
_BY_FOLD, _FINGERPRINT, _COLUMN = "by_fold", "fingerprint", "column:"


class CacheKey(Protocol):
    """The key of a layer, see :class:`mvkit.cache.LayerKey`."""

    @property
    def key(self) -> str:
        """Digest of everything that the features depend on."""

    @property
    def fingerprint(self) -> NDArray[np.float64]:
        """float64 (n,): the layer's features of the first batch, in a few numbers."""


def sources_digest() -> str:
    """Return the sha256 (hex) of the sources that scores come from, so that edited code makes new ones."""
    return machine.sources_digest("rng.py", "scoring")


class DiskScoreCache:
    """Scores in a store, by layer and recording.

    Parameters
    ----------
    store
        The folder.
    layers
        Layer -> its key. What is cached of a layer is used only while its fingerprint agrees.
    settings
        The protocol; how scores are shown, and the ceiling, do not matter.
    fit_device
        Device of torch on which fits are made, or None. Scores of a device and of the processor differ by
        rounding and are not found in each other's place.
    """

    def __init__(
        self,
        store: Store,
        layers: Mapping[str, CacheKey],
        settings: ScoreSettings,
        fit_device: str | None = None,
    ) -> None:
        self._store = store
        self._layers = layers
        sklearn = ("scikit-learn",) if settings.mapping in _FITTED_BY_SKLEARN else ()
        self._common: dict[str, object] = {
            "protocol": settings.protocol(),
            "sources": sources_digest(),
            "versions": installed_versions("numpy", "scipy", "numba", *sklearn),
        }
        if fit_device is not None:
            from mvkit.scoring.pls_torch import describe_device

            device = {"name": describe_device(fit_device), "versions": installed_versions("torch")}
            self._common["fit_device"] = device
        # Responses are large, and every layer asks for their digest.
        self._digests: dict[int, tuple[RecordingLike, str]] = {}
        self._warned: set[str] = set()

    def key(self, layer: str, recording: RecordingLike) -> str:
        """Return the key of the scores of a layer and a recording: sha256 (hex)."""
        if id(recording) not in self._digests:
            # The recording too, or another one might get its id.
            self._digests[id(recording)] = recording, recordings_digest([recording])
        digest = self._digests[id(recording)][1]
        return digest_of({**self._common, "layer": self._layers[layer].key, "recording": digest})

    def read(self, layer: str, recording: RecordingLike) -> UnitScores | None:
        """Return cached scores, to the last bit; None if there are none, or none that can be trusted."""
        key = self.key(layer, recording)
        entry = self._store.read(SCORES_KIND, key)
        if entry is None:
            return None
        try:
            arrays = {name: entry.arrays[f"{_COLUMN}{name}"] for name in entry.about["columns"]}
            by_fold, fingerprint = entry.arrays[_BY_FOLD], entry.arrays[_FINGERPRINT]
        except (KeyError, TypeError) as error:
            path = self._store.path(SCORES_KIND, key)
            log.warning("%s: incomplete, the scores are measured anew (%s)", path, error)
            return None
        if not fingerprints_agree(fingerprint, self._layers[layer].fingerprint):
            # Once for all its recordings: whoever edits a network's code sees it of every layer.
            if layer not in self._warned:
                self._warned.add(layer)
                log.warning(
                    "layer '%s': the first images give other features than when its scores were cached; "
                    "they are measured anew",
                    layer,
                )
            return None
        columns = {
            name: values.astype(object) if values.dtype.kind == "U" else values
            for name, values in arrays.items()
        }
        return UnitScores(columns, by_fold)

    def write(self, layer: str, recording: RecordingLike, found: UnitScores) -> None:
        """Put scores into the cache."""
        columns = {
            f"{_COLUMN}{name}": values.astype(np.str_) if values.dtype == object else values
            for name, values in found.columns.items()
        }
        arrays = {**columns, _BY_FOLD: found.by_fold, _FINGERPRINT: self._layers[layer].fingerprint}
        about: dict[str, object] = {"columns": list(found.columns), "layer": layer}
        about |= {"area": recording.area, "specimen": int(recording.specimen)}
        self._store.write(SCORES_KIND, self.key(layer, recording), arrays, about)


class CoordinatesCache:
    """Principal coordinates of layers in a store.

    Parameters
    ----------
    store
        The folder.
    layers
        Layer -> its key. What is cached of a layer is used only while its fingerprint agrees.
    """

    def __init__(self, store: Store, layers: Mapping[str, CacheKey]) -> None:
        self._store = store
        self._layers = layers
        self._common = {"sources": sources_digest(), "versions": installed_versions("numpy", "scipy")}

    def key(self, name: str) -> str:
        """Return the key of a layer's coordinates: sha256 (hex)."""
        return digest_of({**self._common, "layer": self._layers[name].key})

    def read(self, name: str) -> LayerCoordinates | None:
        """Return a layer's coordinates, to the last bit; None if there are none that can be trusted."""
        key = self.key(name)
        entry = self._store.read(COORDINATES_KIND, key)
        if entry is None:
            return None
        values = {**entry.arrays, **entry.about, "name": name}
        try:
            fingerprint = values[_FINGERPRINT]
            cached = LayerCoordinates(**{one.name: values[one.name] for one in fields(LayerCoordinates)})
        except (KeyError, TypeError) as error:
            path = self._store.path(COORDINATES_KIND, key)
            log.warning("%s: incomplete, the coordinates are made anew (%s)", path, error)
            return None
        if not fingerprints_agree(fingerprint, self._layers[name].fingerprint):
            log.info("layer '%s': the first images give other features than were cached", name)
            return None
        return cached

    def write(self, made: LayerCoordinates) -> None:
        """Put a layer's coordinates into the cache."""
        values = {field.name: getattr(made, field.name) for field in fields(LayerCoordinates)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        about = {name: plain(value) for name, value in values.items() if name not in arrays}
        arrays[_FINGERPRINT] = self._layers[made.name].fingerprint
        self._store.write(COORDINATES_KIND, self.key(made.name), arrays, about)


@dataclass(frozen=True)
class _ReadOnDemand(Mapping[str, Any]):
    """Cached coordinates, or features; each is read when it is asked for, as all may exceed memory."""

    names: tuple[str, ...]
    ready: frozenset[str]
    kept: CoordinatesCache
    features: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name not in self.ready:
            return self.features[name]
        found = self.kept.read(name)
        if found is None:
            raise DataError(f"layer '{name}': its cached coordinates were removed meanwhile; start again")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def with_cached_coordinates(source: LayerSource, kept: CoordinatesCache) -> LayerSource:
    """Return layers that give cached coordinates where there are some, and cache new ones.

    Parameters
    ----------
    source
        Layers that give features.
    kept
        The cache.
    """

    @contextmanager
    def either(names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        ready = [name for name in names if kept.read(name) is not None]
        missing = [name for name in names if name not in ready]
        opened: AbstractContextManager[Any] = source.open(missing) if missing else nullcontext({})
        with opened as features:
            yield _ReadOnDemand(tuple(names), frozenset(ready), kept, features)

    return replace(source, open=either, save=kept.write)


#: To be raised whenever the numbers or columns of a ceiling change: cached ones are then measured anew.
EDITION = 2
#: File beside the others that holds their sha256: parquet would not notice a changed byte.
CHECKSUMS = "checksums.json"
#: What belongs to the ceiling itself, whatever the context of whoever asks for it.
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
    say how scores are shown do not matter. A damaged one is measured anew and replaced. Several processes may
    use one folder at once: a ceiling's folder appears whole or not at all, and the first one stays. A folder
    that cannot be written costs a warning, not the ceiling.

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
    was_cached
        Whether it was read.

    Raises
    ------
    UsageError, DataError, FitError
        As :func:`~mvkit.scoring.ceilings.measure_ceiling`.
    """
    path = folder / ceiling_key(recordings_digest(recordings), settings)
    cached = _read_ceiling(path)
    if cached is not None:
        mark_used(path)
        # In the order of a fresh one, so that files are the same too.
        others = {name: value for name, value in (context or {}).items() if name not in OWN}
        about = {**others, **{name: cached.context[name] for name in OWN if name in cached.context}}
        return replace(cached, settings=settings, context=about), True
    measured = measure_ceiling(recordings, settings, n_jobs=n_jobs, progress=progress, context=context)
    try:
        _write_ceiling(measured, path)
    except (OSError, UsageError) as error:
        log.warning("%s: the ceiling could not be cached (%s)", path, error)
    return measured, False


def is_ceiling_cached(recordings: Sequence[RecordingLike], settings: ScoreSettings, folder: Path) -> bool:
    """Tell whether :func:`cached_ceiling` would read a ceiling; arguments are the same."""
    return _read_ceiling(folder / ceiling_key(recordings_digest(recordings), settings)) is not None


def ceiling_key(digest: str, settings: ScoreSettings) -> str:
    """Return the name of a ceiling's folder from :func:`recordings_digest` and settings."""
    return digest_of(
        {"edition": EDITION, "recordings": digest, "settings": settings.protocol(without=REPORTING)}
    )


def _read_ceiling(path: Path) -> Scores | None:
    """Read a ceiling if it is there and whole."""
    if not path.exists():
        return None
    damage = _damage(path)
    if not damage:
        try:
            return read_scores(path)
        except DataError as error:
            damage = str(error)
    log.warning("%s: damaged, the ceiling is measured anew (%s)", path, damage)
    return None


def _write_ceiling(scores: Scores, path: Path) -> None:
    """Write a ceiling to a temporary folder and move it, unless a whole one has appeared meanwhile."""
    make_folder(path.parent)
    temporary, damaged = temporary_beside(path), temporary_beside(path)
    try:
        files = save_scores(scores, temporary)
        sums = {file.name: _sha256(file) for file in files}
        write_text(temporary / CHECKSUMS, json.dumps(sums, indent=2) + "\n")
        if _damage(path):
            if path.exists():
                path.rename(damaged)
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
                log.debug("%s: another process was first", path)
    finally:
        for leftover in (temporary, damaged):
            if leftover.is_file():
                leftover.unlink()
            else:
                shutil.rmtree(leftover, ignore_errors=True)


def _damage(path: Path) -> str:
    """Return what is wrong with the files of a ceiling, or ""."""
    try:
        sums = json.loads((path / CHECKSUMS).read_text(encoding="utf-8"))
        wrong = [name for name, expected in sums.items() if _sha256(path / name) != expected]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return str(error)
    return f"changed since written: {', '.join(wrong)}" if wrong else ""


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
