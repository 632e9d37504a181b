"""The models of a scoring run: loaded and checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.errors import UsageError

if TYPE_CHECKING:
    from mvkit.models import VisionModel
    from mvkit.models.foreign.options import InputOptions
    from mvkit.scoring import Scores


def load_models(
    names: Sequence[str],
    *,
    layers: Sequence[str] | None = None,
    weights: str = "released",
    seed: int | None = None,
    home: Path | None = None,
    inputs: InputOptions | None = None,
) -> dict[str, VisionModel]:
    """Load every model of a run and check the layers asked for, before gigabytes are read.

    Parameters
    ----------
    names
        Models as the user names them; see :func:`mvkit.load_model`.
    layers
        Patterns that must match layers of every model; None means each model's published layers.
    weights, seed, home
        As in :func:`mvkit.load_model`, for every model.
    inputs
        Preprocessing of models from elsewhere, for every model.

    Returns
    -------
    dict
        Name -> model, in the order given.

    Raises
    ------
    UsageError
        No model, an unknown one, the same one twice (also under two names), a pattern that matches no
        layer of some model, or no layers for a model that has no published ones.
    CheckpointError
        Weights that are missing or do not fit.
    """
    from mvkit.features.tapping import layers_to_record
    from mvkit.models import load_model

    if not names:
        raise UsageError("no MODEL to score: name at least one")
    _refuse_twins(names)
    models = {}
    for name in names:
        model = load_model(
            name, weights=weights, seed=seed, home=home, **(inputs.keywords() if inputs else {})
        )
        try:
            layers_to_record(model, layers)
        except UsageError as error:
            raise error if len(names) == 1 else UsageError(f"{name}: {error}") from None
        models[name] = model
    return models


def _refuse_twins(names: Sequence[str]) -> None:
    """Refuse two names of one model: the network's short and long name, a run and its checkpoint."""
    from mvkit.models import find_model
    from mvkit.models.foreign.names import parse_foreign
    from mvkit.models.trained import is_place, trained_file

    first: dict[object, str] = {}
    for name in names:
        foreign = parse_foreign(name)
        identity: object = (
            foreign.identity
            if foreign is not None
            else trained_file(name).resolve()
            if is_place(name)
            else find_model(name).architecture.name
        )
        if identity in first:
            twin = first[identity]
            same = "is given twice" if twin == name else f"is the same model as {twin}"
            raise UsageError(f"model {name} {same}: give each model once")
        first[identity] = name


def value_in_paper(name: str, weights: str, scores: Scores) -> float | None:
    """Return the paper's value for a model, where scores measure what the paper did: PLS on its recordings.

    Parameters
    ----------
    name, weights
        As given to :func:`load_models`.
    scores
        Of that model.
    """
    from mvkit.models import find_model
    from mvkit.models.released import is_model, paper_value

    same = scores.context.get("dataset") == "neuropixels" and scores.settings.mapping == "pls"
    return paper_value(find_model(name), weights) if same and is_model(name) else None
