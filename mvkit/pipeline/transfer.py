"""``mvkit score MODEL --task FOLDER``: linear readouts of layers on images with labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.files import list_image_folder, name_text, replacing
from mvkit.pipeline.request import ScoreRequest, load_models, resolve_recipe

if TYPE_CHECKING:
    from mvkit.features.stimuli import FolderStimuli
    from mvkit.scoring.run import Progress
    from mvkit.scoring.transfer import TransferSettings

#: Table of labels in the folder of a task.
LABELS_CSV = "labels.csv"
#: Its first column.
IMAGE_COLUMN = "image"
#: Name of the only task of a folder of classes.
CLASS = "class"

SCORES_CSV = "transfer.csv"


@dataclass(frozen=True)
class LabelledImages:
    """Images of a folder with what is to be read out of them.

    Attributes
    ----------
    stimuli
        The images.
    labels
        Task -> (n_images,): text or float64.
    """

    stimuli: FolderStimuli
    labels: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class TransferScore:
    """Score of the readout of one layer.

    Attributes
    ----------
    model, layer, task
        What was read out of what.
    measure
        ``"accuracy"`` or ``"correlation"``.
    score, sd
        Mean and standard deviation (ddof 1) over parts of the images.
    chance
        Score without any features.
    n_images
        Images.
    folds
        Score of each part.
    """

    model: str
    layer: str
    task: str
    measure: str
    score: float
    sd: float
    chance: float
    n_images: int
    folds: tuple[float, ...]


def open_labelled_images(folder: Path) -> LabelledImages:
    """Find the images of a folder and their labels.

    Parameters
    ----------
    folder
        With a table ``labels.csv``: column ``image`` (paths in the folder) and a column per task, of names or
        of numbers. Else with a folder of images per class.

    Raises
    ------
    DataError
        If there is neither; an image is missing or listed twice; or a label is missing or not a number.
    """
    if not folder.is_dir():
        raise DataError(f"--task {folder}: no such folder")
    table = folder / LABELS_CSV
    if table.is_file():
        files, labels = _read_labels(table)
    else:
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
        if not classes:
            raise DataError(f"{folder}: neither {LABELS_CSV} nor a folder of images per class")
        images = {path: list_image_folder(path) for path in classes}
        files = [file for listed in images.values() for file in listed]
        names = [name_text(path.name) for path, listed in images.items() for _ in listed]
        labels = {CLASS: np.array(names)}
    # Not before the task is known to be one: it imports torch.
    from mvkit.features.stimuli import FolderStimuli

    return LabelledImages(FolderStimuli(tuple(files), name_text(folder.resolve().name)), labels)


def _read_labels(table: Path) -> tuple[list[Path], dict[str, NDArray[Any]]]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or IMAGE_COLUMN not in rows[0] or len(rows[0]) < 2:
        raise DataError(f"{table}: needs a column '{IMAGE_COLUMN}', one column per task, and a row per image")
    files, seen = [], set()
    for line, row in enumerate(rows, start=2):
        path = table.parent / str(row[IMAGE_COLUMN])
        if None in row or None in row.values():
            raise DataError(f"{table}:{line}: {len(rows[0])} values expected")
        if not path.is_file():
            raise DataError(f"{table}:{line}: no such image: {path}")
        if path in seen:
            raise DataError(f"{table}:{line}: the image is listed twice: {path}")
        seen.add(path)
        files.append(path)
    labels = {}
    for task in rows[0]:
        if task == IMAGE_COLUMN:
            continue
        values = [str(row[task]).strip() for row in rows]
        if "" in values:
            raise DataError(f"{table}:{values.index('') + 2}: no label in column '{task}'")
        labels[task] = _as_numbers(values, table, task)
    return files, labels


def _as_numbers(values: list[str], table: Path, task: str) -> NDArray[Any]:
    """Return float64 if every label is a number, else text."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return np.array(values)
    if not np.isfinite(numbers).all():
        line = int(np.flatnonzero(~np.isfinite(numbers))[0]) + 2
        raise DataError(f"{table}:{line}: column '{task}': {values[line - 2]} is not a finite number")
    return numbers


def run_transfer(
    request: ScoreRequest,
    folder: Path,
    settings: TransferSettings,
    *,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> list[TransferScore]:
    """Read labels out of every layer of every model of a request.

    Parameters
    ----------
    request
        Models, layers, weights and resources; there are no recordings.
    folder
        The task, see :func:`open_labelled_images`.
    settings
        Components, parts, seed.
    progress
        Label -> context manager that gives what is called with (layers done, layers).

    Raises
    ------
    DataError
        As :func:`open_labelled_images`.
    UsageError
        As :func:`mvkit.scoring.transfer.transfer_scores`, before any image is shown to a network.
    CheckpointError
        Weights that are missing or do not fit.
    """
    from mvkit.machine import choose_device
    from mvkit.pipeline.layers import label_model, layer_features, open_network_layers, weights_source
    from mvkit.scoring.gram import layer_coordinates
    from mvkit.scoring.parallel import single_threaded
    from mvkit.scoring.transfer import check_labels

    recipe = resolve_recipe(request)
    task = open_labelled_images(folder)
    for labels in task.labels.values():
        check_labels(labels, settings)
    resources = replace(
        request.resources,
        device=str(choose_device(request.resources.device)),
        batch_size=recipe.machine.batch_size or request.resources.batch_size,
        scratch=recipe.machine.scratch or request.resources.scratch,
        cache=False,
    )
    models = load_models(
        request.models,
        layers=request.layers,
        weights=request.weights,
        seed=request.seed,
        home=resources.home,
        inputs=recipe.input.options(),
    )
    scores: list[TransferScore] = []
    for given, model in models.items():
        label = label_model(given, weights_source(model))
        source = open_network_layers(model, task.stimuli, request.layers, resources).source
        layers = source.names
        with layer_features(source, layers) as features, progress(label) as report:
            for done, layer in enumerate(layers):
                with single_threaded():
                    coordinates = layer_coordinates(layer, features[layer]).coordinates
                scores += [
                    _score(coordinates, labels, settings, (label, layer, column))
                    for column, labels in task.labels.items()
                ]
                report(done + 1, len(layers))
    return scores


def _score(
    features: NDArray[np.float64],
    labels: NDArray[Any],
    settings: TransferSettings,
    names: tuple[str, str, str],
) -> TransferScore:
    from mvkit.scoring.transfer import chance_level, is_category, transfer_scores

    folds = transfer_scores(features, labels, settings)
    return TransferScore(
        *names,
        measure="accuracy" if is_category(labels) else "correlation",
        score=float(folds.mean()),
        sd=float(folds.std(ddof=1)),
        chance=chance_level(labels),
        n_images=labels.size,
        folds=tuple(folds.tolist()),
    )


def transfer_document(
    folder: Path, settings: TransferSettings, scores: list[TransferScore]
) -> dict[str, Any]:
    """Return scores of a task as plain JSON values."""
    return {"task": str(folder), "settings": asdict(settings), "scores": [asdict(score) for score in scores]}


def save_transfer(scores: list[TransferScore], out_dir: Path) -> list[Path]:
    """Write ``transfer.csv``, one row per model, layer and task.

    Parameters
    ----------
    scores
        The rows.
    out_dir
        Folder, made if it does not exist.
    """
    path = out_dir / SCORES_CSV
    rows = [{**asdict(score), "folds": json.dumps(score.folds)} for score in scores]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [path]
