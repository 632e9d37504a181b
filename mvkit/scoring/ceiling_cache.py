"""Ceilings kept on disk: they depend on recordings and settings, not on a model."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from mvkit.atomic import write_text
from mvkit.errors import DataError
from mvkit.jsonable import digest_of
from mvkit.scoring.ceilings import measure_ceiling
from mvkit.scoring.protocol import recordings_digest
from mvkit.scoring.results import Scores, read_scores, save_scores
from mvkit.scoring.run import Progress
from mvkit.scoring.settings import REPORTING, RecordingLike, ScoreSettings
from mvkit.store.entries import mark_used

log = logging.getLogger(__name__)

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
