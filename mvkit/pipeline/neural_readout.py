"""Networks trained on recordings: their images and responses, and how well they predict each unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mvkit.distributed import all_gather, is_main_process
from mvkit.errors import DataError, UsageError
from mvkit.files import replacing
from mvkit.images.loader import MemorySource
from mvkit.neural import Recording, open_dataset
from mvkit.objectives.neural_readout import NeuralReadoutObjective
from mvkit.pipeline.request import choose_recordings
from mvkit.scoring.correlation import ExclusionReason
from mvkit.scoring.measures import score_all_trials
from mvkit.scoring.protocol import ImageSplit, image_splits
from mvkit.scoring.settings import ScoreSettings
from mvkit.training.evaluation import EvaluationContext, Evaluator, RunImages, preserve_state
from mvkit.training.recipe import NeuralData, UnitPredictions

if TYPE_CHECKING:
    from pandas import DataFrame

Array = NDArray[np.float64]
#: Table of units in the folder of a run.
UNITS = "units.csv"
#: Columns of the table -> measure, on test images.
_MEASURES: Mapping[str, Any] = {
    "to_average": "to-average",
    "single_trial": "single-trial",
    "feve": "feve",
}


@dataclass(frozen=True)
class NeuralSplit:
    """Recordings whose training images a network is trained on.

    Attributes
    ----------
    recordings
        Of the chosen areas; predicted units are theirs, in this order.
    split
        Positions of training and test images.
    train, test
        The images. The responses are means over all trials; test images come without them (all NaN).
    """

    recordings: tuple[Recording, ...]
    split: ImageSplit
    train: MemorySource
    test: MemorySource


def open_neural_split(settings: NeuralData, *, home: Path | None = None) -> NeuralSplit:
    """Open recordings and split their images as ``mvkit score`` does.

    Parameters
    ----------
    settings
        Recordings and split, of a recipe.
    home
        mvkit's home directory, where datasets lie.

    Raises
    ------
    DataError
        If the recordings are not there or damaged, or a unit has no response to any training image.
    UsageError
        If a dataset or an area is unknown, or there are too few images to split.
    """
    dataset = open_dataset(settings.dataset, selection=settings.selection, home=home)
    recordings = choose_recordings(dataset, settings.areas)
    (split,) = image_splits(
        dataset.n_images, n_splits=1, train_fraction=settings.train_fraction, seed=settings.split_seed
    )
    means = np.concatenate([_mean_responses(recording, split.train) for recording in recordings], axis=1)
    about = f"{dataset.name}: split {settings.split_seed}"
    return NeuralSplit(
        recordings,
        split,
        MemorySource(
            dataset.stimuli[split.train],
            means,
            description=f"{about}, {len(split.train)} training images of {dataset.n_images}, "
            f"{means.shape[1]:,} units",
        ),
        MemorySource(
            dataset.stimuli[split.test],
            np.full((len(split.test), means.shape[1]), np.nan, dtype=np.float32),
            description=f"{about}, {len(split.test)} test images",
        ),
    )


def _mean_responses(recording: Recording, images: NDArray[np.int64]) -> NDArray[np.float32]:
    """Average some images' responses over trials, float32 (n_images, n_units); NaN without a valid trial."""
    responses = recording.responses[:, images].astype(np.float64)
    count = np.sum(~np.isnan(responses), axis=0)
    silent = np.flatnonzero(count.sum(axis=0) == 0)
    if len(silent):
        shown = ", ".join(map(str, recording.unit_ids[silent[:12]]))
        raise DataError(
            f"{recording.label}: {len(silent)} units have no response to any training image: {shown}\n"
            "leave them out of the neural file, or choose another split: data.neural.split_seed"
        )
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float32] = (np.nansum(responses, axis=0) / count).astype(np.float32)
    return means


def predict_units(encoder: nn.Module, objective: nn.Module, images: RunImages) -> dict[str, Array]:
    """Predict the responses to training and test images; all processes call this together.

    Returns
    -------
    dict
        "train" and "val" (the test images) -> float64 (n_images, n_units), in units of measure of the
        recordings.

    Raises
    ------
    UsageError
        If the objective is another one.
    """
    if not isinstance(objective, NeuralReadoutObjective):
        raise UsageError("predictions of units need the objective neural_readout")
    predictions = {}
    with preserve_state(encoder, objective):
        for part in ("train", "val"):
            indices = np.arange(images.n_images(part), dtype=np.int64)
            with images.batches(part, indices) as batches:
                rows = [all_gather(objective.predict(encoder, batch)) for batch in batches]
            predictions[part] = torch.cat(rows).cpu().double().numpy()
    return predictions


def unit_table(predictions: Mapping[str, Array], neural: NeuralSplit) -> DataFrame:
    """Measure how well each unit is predicted.

    Parameters
    ----------
    predictions
        See :func:`predict_units`.
    neural
        The recordings.

    Returns
    -------
    DataFrame
        One row per unit: ``area``, ``specimen``, ``unit_id``; on test images ``to_average``, ``single_trial``
        and ``feve`` (:mod:`mvkit.scoring.measures`); ``to_average_train`` on training images; ``reason``, why
        ``to_average`` is NaN, a key of :data:`mvkit.scoring.correlation.REASONS`, or "".
    """
    import pandas

    split, first, parts = neural.split, 0, []
    for recording in neural.recordings:
        units = slice(first, first + recording.n_units)
        first += recording.n_units
        of_recording = {part: values[:, units] for part, values in predictions.items()}
        columns: dict[str, Any] = {
            "area": recording.area,
            "specimen": recording.specimen,
            "unit_id": recording.unit_ids,
        }
        for name, measure in _MEASURES.items():
            columns[name], excluded = _measure(of_recording["val"], recording, split, measure)
            if name == "to_average":
                reasons = [ExclusionReason(code) for code in excluded]
        of_train = ImageSplit(split.train, split.train)
        columns["to_average_train"], _ = _measure(of_recording["train"], recording, of_train, "to-average")
        columns["reason"] = ["" if why is ExclusionReason.NONE else why.code for why in reasons]
        parts.append(pandas.DataFrame(columns))
    return pandas.concat(parts, ignore_index=True)


def _measure(
    predictions: Array, recording: Recording, split: ImageSplit, measure: Any
) -> tuple[Array, NDArray[np.uint8]]:
    """Score predictions as those of a map would be, without one: values and exclusions, each (n_units,)."""
    responses = recording.responses[:, split.train].astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = np.nansum(responses, axis=0) / np.sum(~np.isnan(responses), axis=0)
    # A map predicts responses less their mean over the training images.
    relative = predictions - means.mean(axis=0)
    (scores,) = score_all_trials(
        recording.responses,
        [split],
        [[SimpleNamespace(reason="")]],
        lambda targets, prepared, settings: relative[None],
        ScoreSettings(n_splits=1, measure=measure),
    )
    return scores.scores[0, 0], scores.exclusions[0, 0]


class UnitPredictionsEvaluator(Evaluator):
    """Medians over units of how well a network's own readout predicts them, on training and test images.

    ``headline``, by which the best epoch is chosen, is of training images: test images choose nothing.

    Parameters
    ----------
    settings
        How often.
    name
        Name in the log.
    neural
        The recordings.
    """

    headline = "train"

    def __init__(self, settings: UnitPredictions, *, name: str, neural: NeuralSplit) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._neural = neural

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``train`` and ``test`` (correlation to average), ``test_single_trial`` and ``test_feve``."""
        table = unit_table(predict_units(context.encoder, context.objective, context.images), self._neural)
        medians = table[["to_average_train", *_MEASURES]].median().tolist()
        return dict(zip(("train", "test", "test_single_trial", "test_feve"), medians, strict=True))


def write_unit_table(
    folder: Path, encoder: nn.Module, objective: nn.Module, images: RunImages, neural: NeuralSplit
) -> None:
    """Write :func:`unit_table` of a trained network to ``units.csv``; all processes call this together."""
    table = unit_table(predict_units(encoder, objective, images), neural)
    if is_main_process():
        with replacing(folder / UNITS) as temporary:
            table.to_csv(temporary, index=False)
