"""Networks at the start of training."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mvkit.errors import UsageError
from mvkit.models.base import VisionModel
from mvkit.models.blueprints import Baseline
from mvkit.models.checkpoint import fill_weights, read_checkpoint
from mvkit.models.loading import build_empty, build_random, load_model
from mvkit.models.readouts import with_classes
from mvkit.models.released import ModelRow, find_model
from mvkit.models.trained import describe_trained, is_trained, refuse_other_network, trained_file


def build_for_training(
    architecture: str,
    *,
    n_classes: int | None,
    seed: int,
    weights: str | os.PathLike[str] = "random",
    home: Path | None = None,
) -> VisionModel:
    """Build a network as training starts from it.

    Parameters
    ----------
    architecture
        A name that :func:`mvkit.load_model` knows: short (``dual_stream_encoder``),
        released, or the reference's long one.
    n_classes
        Width of the read-out, where the network has one; None: as published (1000).
        Headless networks ignore it.
    seed
        Of random weights (and of MouseNet's masks). Torch's global generators are left as they were.
    weights
        "random", "released", or the path of a checkpoint or of a training run's folder.
    home
        Directory of mvkit's files, for "released".

    Returns
    -------
    VisionModel
        In training mode, on the CPU, float32; ``name``, ``layers``, ``preprocess`` (as the weights were
        trained) and ``weights_id`` are set as by ``load_model``.

    Raises
    ------
    UsageError
        If the name is unknown, or stands for a fixed transformation without
        weights; or if trained weights are asked for with another number of classes than they have.
    CheckpointError
        If there is no such checkpoint, or it cannot be read or does not fit.
    """
    row = find_model(architecture)
    if isinstance(row.architecture.blueprint, Baseline):
        raise UsageError(f"'{architecture}' has no weights to train; name a network, see mvkit.list_models()")
    row = replace(row, architecture=with_classes(row.architecture, n_classes))
    if weights == "random":
        model = build_random(row.architecture, seed)
        model.preprocess = row.preprocess
        model.weights_id = f"random:seed={seed}"
    elif weights == "released":
        if row.architecture != find_model(architecture).architecture:
            raise UsageError(f"'{architecture}' was released with its own read-out, not {n_classes} classes")
        return load_model(architecture, home=home).train()
    else:
        model = _with_trained_weights(row, weights)
    model.name = row.name
    model.published_layers = row.architecture.published_layers
    model.layers = row.architecture.layers
    return model.train()


def _with_trained_weights(row: ModelRow, weights: str | os.PathLike[str]) -> VisionModel:
    path = trained_file(weights)
    contents = read_checkpoint(path)
    model = build_empty(row.architecture)
    model.preprocess = row.preprocess
    if is_trained(contents):
        trained = describe_trained(contents, path)
        refuse_other_network(trained, row)
        model.preprocess = trained.preprocess
    model.weights_id = fill_weights(model, contents, path)
    return model
