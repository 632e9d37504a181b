"""What figures of a model and recordings show: dissimilarities, one unit with its prediction, inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError, unknown_name
from mvkit.machine import choose_device
from mvkit.pipeline.layers import label_model, weights_source
from mvkit.report.figures.inputs import NetworkInputs
from mvkit.report.figures.rdm import RDMPair
from mvkit.report.figures.tuning import UnitResponses

if TYPE_CHECKING:
    from torch import Tensor

    from mvkit.features import FeatureSet
    from mvkit.models import VisionModel
    from mvkit.models.preprocessing import InputOptions
    from mvkit.neural import NeuralDataset, Recording
    from mvkit.neural.neural_file import OpenNeuralFile
    from mvkit.neural.selection import SelectionSettings

#: Images are predicted in so many parts, each from the others.
N_FOLDS = 5


@dataclass(frozen=True)
class ModelLayer:
    """A layer of a model, by name.

    Attributes
    ----------
    model, weights, seed
        As in :func:`mvkit.load_model`.
    layer
        Name of the layer, or a pattern that matches one; needed with a model that has several.
    device
        Where features are extracted, e.g. ``"cuda"``; ``"auto"``: a GPU if there is one.
    """

    model: str
    layer: str | None = None
    weights: str = "released"
    seed: int | None = None
    device: str = "auto"


def compare_rdms(
    source: ModelLayer,
    dataset: str | Path,
    *,
    area: str,
    selection: str | SelectionSettings = "code",
    home: Path | None = None,
) -> RDMPair:
    """Return representational dissimilarities of an area and of a model's layer, for a dataset's images.

    The area's patterns are mean responses over trials of the selected units of all its animals.

    Parameters
    ----------
    source
        The layer.
    dataset, selection
        As in :func:`mvkit.open_dataset`.
    area
        Name of the area.
    home
        mvkit's home directory.

    Raises
    ------
    UsageError
        If a name is unknown, or the model has several layers and none or several are named.
    DataError, CheckpointError
        If recordings or weights are missing or damaged.
    """
    from mvkit.neural import open_dataset
    from mvkit.scoring.protocol import ImageSplit, pool_responses
    from mvkit.scoring.similarity import RSA

    opened = open_dataset(dataset, selection=selection, home=home)
    recordings = opened.in_areas([area]).recordings
    features, label = _features(source, opened, home)
    name = features.layers[0]
    everything = np.arange(opened.n_images)
    layer_rdm = RSA().layer_matrices(name, features[name], [ImageSplit(everything, everything)])[0]
    patterns = _mean_over_trials(pool_responses([recording.responses for recording in recordings]))
    complete = ~np.isnan(patterns).any(axis=0)
    if complete.sum() < 2:
        raise DataError(f"{area}: fewer than two units have a response to every image")
    present = np.ones((1, int(complete.sum())), dtype=np.bool_)
    area_rdm = RSA().population_matrices(patterns[None][:, :, complete], present)[0]
    return RDMPair(
        area_rdm=area_rdm,
        layer_rdm=layer_rdm,
        area=area,
        model=label,
        layer=name,
        dataset=opened.name,
        n_units=int(complete.sum()),
        n_animals=len(recordings),
    )


def read_inputs(
    model: str,
    stimuli: str | Path,
    *,
    weights: str = "released",
    seed: int | None = None,
    inputs: InputOptions | None = None,
    n_images: int = 3,
    home: Path | None = None,
) -> NetworkInputs:
    """Return some images, as they are, under viewing conditions, and as a model's input.

    Parameters
    ----------
    model, weights, seed
        As in :func:`mvkit.load_model`.
    stimuli
        Dataset, neural file or folder of images.
    inputs
        Changes to how images are prepared, among them the viewing conditions.
    n_images
        How many: evenly over all images, the first among them.
    home
        mvkit's home directory.

    Raises
    ------
    UsageError
        If a name is unknown, or an option does not belong to the model.
    DataError, CheckpointError
        If images or weights are missing or damaged.
    """
    from mvkit.features.stimuli import network_inputs, open_stimuli, viewing_of
    from mvkit.models import load_model

    options = {} if inputs is None else inputs.keywords()
    network = load_model(model, weights=weights, seed=seed, home=home, **options)
    opened = open_stimuli(stimuli, home=home)
    total = len(opened.image_ids)
    chosen = [index * total // min(n_images, total) for index in range(min(n_images, total))]
    images = tuple(opened.read(index, index + 1)[0] for index in chosen)
    viewing = viewing_of(network, opened)
    return NetworkInputs(
        model=network.name,
        stimuli=opened.name,
        labels=tuple(str(opened.image_ids[index]) for index in chosen),
        images=images,
        seen=() if viewing is None else tuple(map(viewing, images)),
        inputs=tuple(_picture(network, network_inputs(network, opened, [image])[0]) for image in images),
        viewing="" if viewing is None else viewing.describe(),
    )


def _picture(network: VisionModel, values: Tensor) -> NDArray[np.floating[Any]]:
    """Return an input (channels, height, width) as a picture in [0, 1], (height, width, channels) or grey."""
    steps = network.preprocess
    picture: NDArray[np.floating[Any]] = values.numpy().transpose(1, 2, 0)
    channels = picture.shape[2]
    mean, std = (getattr(steps, name, None) for name in ("mean", "std"))
    if mean is not None and std is not None:
        picture = picture * np.array(std[:channels]) + np.array(mean[:channels])
    else:
        # Of a function of the user's own only the order of its values is known.
        picture = (picture - picture.min()) / (np.ptp(picture) or 1.0)
    picture = np.clip(picture, 0.0, 1.0)
    is_grey = channels != 3 or np.allclose(picture, picture[..., :1], atol=1e-6)
    return picture[..., 0] if is_grey else picture


def read_unit(
    dataset: str | Path,
    *,
    area: str,
    specimen: int | None = None,
    unit_id: int | None = None,
    source: ModelLayer | None = None,
    home: Path | None = None,
) -> UnitResponses:
    """Read the responses of one unit, and predict them from a model's layer.

    The prediction of each image comes from a PLS map (25 components, all units of the recording jointly) that
    was fitted to mean responses to four fifths of the images, without it.

    Parameters
    ----------
    dataset
        As in :func:`mvkit.open_dataset`; every unit of the file can be shown.
    area, specimen, unit_id
        The unit. Without ``unit_id``, the most reliable one of the area (and animal).
    source
        Layer whose prediction is added.
    home
        mvkit's home directory.

    Raises
    ------
    UsageError
        If a name or id is unknown, or several animals have a unit of this id.
    DataError, CheckpointError
        If recordings or weights are missing or damaged.
    """
    from mvkit.neural import open_dataset
    from mvkit.neural.open import open_file

    opened = open_dataset(dataset, selection="none", home=home)
    with open_file(dataset, home=home) as file:
        reliability = _reliabilities(file)
        recording, position = _find_unit(opened, reliability, area, specimen, unit_id)
        key = (area, recording.specimen, int(recording.unit_ids[position]))
        time_s = file.contents.time_s
        course = None if time_s is None else _course(file, key)
    responses = recording.responses[:, :, position]
    prediction, label, name = None, "", ""
    if source is not None:
        features, label = _features(source, opened, home)
        name = features.layers[0]
        prediction = _predict(name, features[name], _mean_over_trials(recording.responses))[:, position]
    return UnitResponses(
        dataset=opened.name,
        area=area,
        specimen=recording.specimen,
        unit_id=key[2],
        units_of_measure=opened.units_of_measure,
        stimuli=opened.stimuli,
        responses=responses,
        reliability=reliability.get(key, float("nan")),
        time_s=time_s,
        course=course,
        prediction=prediction,
        model=label,
        layer=name,
    )


def _features(source: ModelLayer, dataset: NeuralDataset, home: Path | None) -> tuple[FeatureSet, str]:
    """Return the features of one layer, and the model's label in results."""
    from mvkit.features import extract
    from mvkit.features.layers import joined_layers, layers_to_record
    from mvkit.models import load_model

    network = load_model(source.model, weights=source.weights, seed=source.seed, home=home)
    asked = None if source.layer is None else [source.layer]
    joined = joined_layers(network, asked)
    names = [one.name for one in layers_to_record(network, asked) if not one.is_only_joined]
    names += [one.name for one in joined]
    if len(names) != 1:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        given = f"'{source.layer}' matches" if source.layer else f"{source.model} has"
        raise UsageError(
            f"--layer: {given} {len(names)} layers, name one: {shown}\nall: mvkit list layers {source.model}"
        )
    features = extract(network, dataset, asked if joined else names, device=choose_device(source.device))
    if len(features.layers) != 1:
        raise UsageError(f"--layer: {names[0]} runs several times, name one: {', '.join(features.layers)}")
    return features, label_model(network.name, weights_source(network))


def _mean_over_trials(responses: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return (n_images, n_units): means that ignore NaN, NaN where all are."""
    has_trial = ~np.isnan(responses)
    counts = has_trial.sum(axis=0)
    totals = np.where(has_trial, responses, 0.0).sum(axis=0, dtype=np.float64)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def _reliabilities(file: OpenNeuralFile) -> dict[tuple[str, int, int], float]:
    """Return (area, animal, unit) -> reliability in the best time bin, of the units that have one."""
    from mvkit.neural.open import unit_facts
    from mvkit.neural.selection import best_reliability

    positions = _positions(file)
    facts = unit_facts(file.contents, np.array(list(positions.values()), dtype=np.int64))
    if facts.reliability is None:
        return {}
    best = best_reliability(facts)
    return {key: float(value) for key, value in zip(positions, best, strict=True) if np.isfinite(value)}


def _positions(file: OpenNeuralFile) -> dict[tuple[str, int, int], int]:
    """Return (area, animal, unit) -> position in the file."""
    columns = file.contents.unit_columns
    ids, animals = (np.asarray(columns[name], dtype=np.float64) for name in ("unit_id", "specimen_id"))
    areas = columns["visual_area"].astype(str)
    return {
        (str(area), int(animal), int(unit)): index
        for index, (area, animal, unit) in enumerate(zip(areas, animals, ids, strict=True))
        if area and np.isfinite(animal) and np.isfinite(unit)
    }


def _find_unit(
    dataset: NeuralDataset,
    reliability: dict[tuple[str, int, int], float],
    area: str,
    specimen: int | None,
    unit_id: int | None,
) -> tuple[Recording, int]:
    """Return the recording of a unit and its position there."""
    if specimen is None:
        recordings = list(dataset.in_areas([area]).recordings)
    else:
        recordings = [dataset.recording(area, specimen)]
    if unit_id is None:
        best = max(
            ((one, index) for one in recordings for index in range(one.n_units)),
            key=lambda item: reliability.get(
                (area, item[0].specimen, int(item[0].unit_ids[item[1]])), -np.inf
            ),
        )
        return best[0], best[1]
    found = [
        (one, int(np.flatnonzero(one.unit_ids == unit_id)[0]))
        for one in recordings
        if unit_id in one.unit_ids
    ]
    if not found:
        ids = [str(unit) for one in recordings for unit in one.unit_ids.tolist()]
        raise unknown_name(f"unit of {area}", str(unit_id), ids)
    if len(found) > 1:
        animals = ", ".join(str(one.specimen) for one, _ in found)
        raise UsageError(
            f"unit {unit_id} of {area}: animals {animals} have one of this id; say which with --animal"
        )
    return found[0]


def _course(file: OpenNeuralFile, key: tuple[str, int, int]) -> NDArray[np.float64]:
    """Return a unit's mean response over trials, (n_bins, n_images)."""
    position = _positions(file)[key]
    values = file.read(slice(None), slice(None), slice(None), slice(position, position + 1))
    return _mean_over_trials(values[:, :, :, 0]).T


def _predict(
    layer: str, features: NDArray[np.floating[Any]], means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Predict every image from a map of all units that was fitted without it; NaN where there is none.

    ``means`` and the result are (n_images, n_units).
    """
    from mvkit.scoring.maps import MAPS
    from mvkit.scoring.protocol import ImageSplit, training_targets
    from mvkit.scoring.settings import ScoreSettings

    order = np.random.RandomState(0).permutation(len(means)).astype(np.int64)
    folds = [np.sort(order[fold::N_FOLDS]) for fold in range(min(N_FOLDS, len(means)))]
    splits = [ImageSplit(np.setdiff1d(order, fold), fold) for fold in folds]
    fewest = min(len(split.train) for split in splits)
    settings = ScoreSettings(n_components=max(1, min(ScoreSettings().most_components, fewest - 1)))
    mapping = MAPS[settings.mapping]
    predicted = np.full(means.shape, np.nan)
    for split, prepared in zip(splits, mapping.prepare(layer, features, splits, settings), strict=True):
        targets, usable = training_targets(means[split.train][None])
        if prepared.reason:
            raise DataError(f"{layer}: {prepared.reason}")
        # Predictions are deviations from the mean over the training images.
        fitted = mapping.predict(targets, prepared, settings)[0] + means[split.train].mean(axis=0)
        predicted[split.test] = np.where(usable[0], fitted, np.nan)
    return predicted
