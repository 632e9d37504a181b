"""Two-way comparison: animals predicted from a model, and the model from animals.

A model can predict every unit and yet be unlike a brain, because it holds much else besides. Therefore its
features are predicted from the units of an animal too, by the same protocol: the trials of the animal are
halved, those of the features need not be, as they have no noise. What counts is whether the model is as near
to an animal, both ways, as the other animals are (the criterion of the NeuroAI Turing test: Feather, Khosla,
Murty and Nayebi 2025, arXiv:2502.16238).

Per area, with ``s(x -> y)`` the median score over the units (features) of y that are predicted from x, and
animals a, b::

    model   a:  (s(model -> a) + s(a -> model)) / 2
    animals a:  mean over b of (s(b -> a) + s(a -> b)) / 2

and the verdict is about the mean over animals of their difference, with Student's interval over animals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.files import plain
from mvkit.scoring.ceilings import PairSize, draw_pair, score_pair
from mvkit.scoring.correlation import mean_ignoring_nan
from mvkit.scoring.maps import MAPPINGS, DrawnFeatures, JoinedFeatures
from mvkit.scoring.parallel import run_jobs_by_index, single_threaded
from mvkit.scoring.protocol import ImageSplit, splits_of
from mvkit.scoring.run import Progress, unit_scores
from mvkit.scoring.settings import RecordingLike, ScoreSettings

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

#: Features of a layer that are predicted from animals, drawn at random; all, if there are fewer.
N_FEATURES = 500
#: An interval over fewer animals says nothing.
FEWEST_ANIMALS = 3

NEARER, AS_NEAR, FURTHER = "nearer than", "as near as", "further than"


@dataclass(frozen=True)
class TwoWayArea:
    """One area.

    Attributes
    ----------
    area, layer
        The area, and the layer of the model that was chosen for it.
    animals
        int64 (n_animals,): numbers of the animals.
    from_model
        float64 (n_animals,): median score of the animal's units, predicted from the model.
    to_model
        float64 (n_animals,): median score of the model's features, predicted from the animal.
    between
        float64 (n_animals, n_animals): median score of the units of the row's animal, predicted from the
        column's; NaN on the diagonal.
    reason
        Why something is missing, or "".
    """

    area: str
    layer: str
    animals: NDArray[np.int64]
    from_model: Array
    to_model: Array
    between: Array
    reason: str = ""

    @property
    def model(self) -> Array:
        """Nearness of the model to each animal, both ways, float64 (n_animals,)."""
        return (self.from_model + self.to_model) / 2

    @property
    def others(self) -> Array:
        """Nearness of the other animals to each, both ways, float64 (n_animals,)."""
        return mean_ignoring_nan((self.between + self.between.T) / 2, axis=1)

    def difference(self, confidence: float) -> tuple[float, float, float]:
        """Return the mean over animals of model less others, and the ends of its interval; NaN if unknown."""
        from scipy.stats import t

        differences = self.model - self.others
        differences = differences[~np.isnan(differences)]
        if not differences.size:
            return np.nan, np.nan, np.nan
        mean = float(differences.mean())
        if differences.size < FEWEST_ANIMALS:
            return mean, np.nan, np.nan
        error = float(differences.std(ddof=1) / np.sqrt(differences.size))
        half = float(t.ppf((1 + confidence) / 2, differences.size - 1)) * error
        return mean, mean - half, mean + half

    def verdict(self, confidence: float) -> str:
        """Say whether the model is as near to an animal as other animals are."""
        _, low, high = self.difference(confidence)
        if np.isnan(low):
            return f"not determined: {self.reason or f'fewer than {FEWEST_ANIMALS} animals'}"
        position = NEARER if low > 0 else FURTHER if high < 0 else AS_NEAR
        return f"{position} another animal"


@dataclass(frozen=True)
class TwoWay:
    """A two-way comparison of one model.

    Attributes
    ----------
    areas
        One per area.
    settings
        The protocol.
    """

    areas: tuple[TwoWayArea, ...]
    settings: ScoreSettings

    def table(self) -> pd.DataFrame:
        """Return one row per area.

        Columns: ``area``, ``layer``, ``n_animals``; means over animals ``from_model``, ``to_model``,
        ``between`` (other animals, both ways); ``difference`` (model less other animals) with ``low`` and
        ``high``; ``verdict``.
        """
        import pandas as pd

        rows = []
        for area in self.areas:
            difference, low, high = area.difference(self.settings.confidence)
            rows.append(
                {
                    "area": area.area,
                    "layer": area.layer,
                    "n_animals": len(area.animals),
                    "from_model": float(mean_ignoring_nan(area.from_model, axis=0)),
                    "to_model": float(mean_ignoring_nan(area.to_model, axis=0)),
                    "between": float(mean_ignoring_nan(area.others, axis=0)),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "verdict": area.verdict(self.settings.confidence),
                }
            )
        return pd.DataFrame(rows)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows as plain JSON values (NaN becomes None)."""
        return [plain(row) for row in self.table().to_dict(orient="records")]


def draw_features(features: Any, settings: ScoreSettings) -> NDArray[np.float64]:
    """Draw the features of a layer that are predicted from animals.

    Parameters
    ----------
    features
        (n_images, n_features), in memory or on disk.
    settings
        ``halves_seed`` seeds the draw.

    Returns
    -------
    ndarray
        float64 (n_images, at most :data:`N_FEATURES`), in their order.
    """
    order = np.random.RandomState(settings.halves_seed).permutation(features.shape[1])
    drawn = DrawnFeatures(JoinedFeatures([features]), np.sort(order[:N_FEATURES]))
    return np.asarray(drawn, dtype=np.float64)


def compare_two_ways(
    recordings: Sequence[RecordingLike],
    layers: Mapping[str, tuple[str, NDArray[np.floating], Mapping[int, float]]],
    settings: ScoreSettings,
    *,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> TwoWay:
    """Compare a model with the animals of every area both ways.

    Parameters
    ----------
    recordings
        Responses to the same images in the same order.
    layers
        Area -> name of the layer chosen for it; its features (n_images, n_features), see
        :func:`draw_features`; and the median score of every animal predicted from them.
    settings
        The protocol of all predictions.
    n_jobs
        Worker processes; -1 = one per core. Results do not depend on it, to the last bit.
    progress
        Called with (done, total) predictions.

    Returns
    -------
    TwoWay
        One row per area of ``layers``.

    Raises
    ------
    UsageError
        For a similarity, which is the same both ways, or a measure other than the corrected one.
    """
    if not MAPPINGS[settings.mapping].per_unit:
        raise UsageError(f"{settings.mapping} is the same both ways: use a map, such as pls")
    if settings.measure != "corrected":
        raise UsageError(f"two ways are compared by corrected scores, not by measure {settings.measure}")
    splits = splits_of(recordings[0].responses.shape[1], settings)
    animals: dict[str, list[RecordingLike]] = {area: [] for area in layers}
    for recording in recordings:
        if recording.area in animals:
            animals[recording.area].append(recording)
    jobs: list[tuple[str, int | None, int]] = []  # area, target (None: the model), source
    for area, members in animals.items():
        jobs += [(area, target, source) for target, source in permutations(range(len(members)), 2)]
        jobs += [(area, None, source) for source in range(len(members))]

    def arguments(number: int) -> tuple[object, ...]:
        area, target, source = jobs[number]
        # Two equal trials: features have no noise.
        features = np.repeat(np.asarray(layers[area][1])[None], 2, axis=0)
        responses = features if target is None else animals[area][target].responses
        return responses, animals[area][source].responses, splits, settings

    found = run_jobs_by_index(
        _median_score,
        range(len(jobs)),
        arguments,
        n_jobs=n_jobs,
        warm_up=MAPPINGS[settings.mapping].warm_up,
        progress=progress,
    )
    by_job = {job: found[number] for number, job in enumerate(jobs)}
    return TwoWay(
        tuple(_collect(area, layers[area], members, by_job) for area, members in animals.items()), settings
    )


def _median_score(
    target: NDArray[np.floating],
    source: NDArray[np.floating],
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
) -> tuple[float, str]:
    """Return the median score of the units of the target, predicted from the source, and why it is NaN."""
    n_units = source.shape[2]
    size = PairSize(target.shape[0], source.shape[0], target.shape[1], n_units, n_units)
    with single_threaded():
        pair = score_pair(target, source, draw_pair(size, settings), splits, settings)
    scores = unit_scores(pair.halves, pair.reason, settings).columns["score"].astype(np.float64)
    known = scores[~np.isnan(scores)]
    return (float(np.median(known)), "") if known.size else (np.nan, pair.reason or "no unit has a score")


def _collect(
    area: str,
    layer: tuple[str, NDArray[np.floating], Mapping[int, float]],
    members: Sequence[RecordingLike],
    by_job: Mapping[tuple[str, int | None, int], tuple[float, str]],
) -> TwoWayArea:
    name, _, from_model = layer
    n = len(members)
    between = np.full((n, n), np.nan)
    for target, source in permutations(range(n), 2):
        between[target, source] = by_job[area, target, source][0]
    reasons = [reason for (of, _, _), (_, reason) in by_job.items() if of == area and reason]
    return TwoWayArea(
        area,
        name,
        np.array([member.specimen for member in members], dtype=np.int64),
        np.array([from_model.get(member.specimen, np.nan) for member in members]),
        np.array([by_job[area, None, source][0] for source in range(n)]),
        between,
        reasons[0] if reasons else "",
    )
