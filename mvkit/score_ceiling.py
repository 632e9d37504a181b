"""Ceilings of a scoring run: measured once, kept under mvkit's home, and earlier scores to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.errors import UsageError
from mvkit.jsonable import shortened
from mvkit.paths import ceilings_dir
from mvkit.resources import Resources, worker_number
from mvkit.score_dataset import dataset_context

if TYPE_CHECKING:
    from pandas import DataFrame

    from mvkit.neural import NeuralDataset, Recording
    from mvkit.scoring import Scores, ScoreSettings

Progress = Callable[[int, int], None]

#: Characters of a value that an error shows.
_LONGEST = 40


def measured_ceiling(
    dataset: NeuralDataset,
    recordings: Sequence[Recording],
    settings: ScoreSettings,
    *,
    resources: Resources,
    progress: Progress | None = None,
) -> tuple[Scores, bool]:
    """Measure the ceiling that settings ask for, or read it from mvkit's home.

    Parameters
    ----------
    dataset
        Where the recordings come from.
    recordings
        Those of the areas wanted.
    settings
        ``ceiling`` is ``"holdout"`` or ``"pairwise"``.
    resources
        Worker processes; mvkit's home, unless nothing is to be kept.
    progress
        Called with (done, total) fits.

    Returns
    -------
    ceiling
        See :func:`mvkit.scoring.ceilings.measure_ceiling`.
    was_kept
        Whether it had been measured before.
    """
    from mvkit.scoring.ceiling_cache import cached_ceiling
    from mvkit.scoring.ceilings import measure_ceiling

    n_jobs, context = worker_number(resources), dataset_context(dataset)
    if not resources.cache:
        measured = measure_ceiling(recordings, settings, n_jobs=n_jobs, progress=progress, context=context)
        return measured, False
    place = ceilings_dir(resources.home)
    return cached_ceiling(recordings, settings, place, n_jobs=n_jobs, progress=progress, context=context)


def fractions_by_choice(scores: Scores, ceiling: Scores) -> DataFrame:
    """Return scores as fractions of a ceiling by both choices of layers, told apart by a column.

    See :func:`mvkit.scoring.comparison.fraction_of_ceiling`.
    """
    import pandas

    from mvkit.scoring.comparison import fraction_of_ceiling
    from mvkit.scoring.layer_choice import CHOICES

    return pandas.concat(
        [fraction_of_ceiling(scores, ceiling, choice=choice) for choice in CHOICES], ignore_index=True
    )


def read_earlier(folders: Sequence[Path]) -> dict[str, Scores]:
    """Read saved scores to compare with.

    Parameters
    ----------
    folders
        Folders that ``mvkit score --out`` wrote, one per model.

    Returns
    -------
    dict
        Folder as given -> scores.

    Raises
    ------
    UsageError
        If a folder is given twice.
    DataError
        If one holds no scores, or damaged ones.
    """
    from mvkit.scoring import read_scores

    earlier: dict[str, Scores] = {}
    places = set()
    for folder in folders:
        if folder.resolve() in places:
            raise UsageError(f"--against {folder}: given twice")
        places.add(folder.resolve())
        earlier[str(folder)] = read_scores(folder)
    return earlier


def refuse_other_protocols(
    earlier: Mapping[str, Scores],
    dataset: NeuralDataset,
    recordings: Sequence[Recording],
    settings: ScoreSettings,
) -> None:
    """Refuse saved scores whose protocol is not the one that scores of these recordings will have.

    Parameters
    ----------
    earlier
        Folder -> saved scores.
    dataset, recordings, settings
        What is about to be scored.

    Raises
    ------
    UsageError
        For the first such scores, naming every field that differs.
    """
    import numpy as np

    from mvkit.scoring import Scores
    from mvkit.scoring.comparison import protocol_differences
    from mvkit.scoring.protocol import recordings_digest

    if not earlier:
        return
    context = {**dataset_context(dataset), "responses_sha256": recordings_digest(recordings)}
    areas = tuple(dict.fromkeys(recording.area for recording in recordings))
    here = Scores({"score": np.empty(0)}, (), areas, settings, context)
    for label, scores in earlier.items():
        differences = protocol_differences(scores, here)
        if scores.areas != areas:
            # Says more than the digest of the responses, which differs too.
            differences["areas"] = ",".join(scores.areas), ",".join(areas)
        if differences:
            fields = "; ".join(
                f"{name}: {shortened(there, _LONGEST)} there, {shortened(now, _LONGEST)} here"
                for name, (there, now) in differences.items()
            )
            raise UsageError(
                f"--against {label}: saved with another protocol, which must not be compared\n{fields}"
            )
