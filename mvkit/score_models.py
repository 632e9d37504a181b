"""The models of a scoring run: loaded and checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.errors import UsageError
from mvkit.jsonable import plain, shortened
from mvkit.report.table2 import Table2Comparison, Table2Difference
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from mvkit.models import VisionModel
    from mvkit.models.foreign.options import InputOptions
    from mvkit.models.released import ModelRow
    from mvkit.scoring import Scores, ScoreSettings

#: The selection of units that the paper's Table 2 is over: that of the code published with it.
_SELECTION = "code"
#: Lengths of the published pickles are known in GB with two digits, and not whether these are 10^9 or 2^30.
_SIZE_TOLERANCE = 0.1
#: Settings that are numbers of something.
_COUNTED = {"n_splits": "splits", "n_halves": "halvings", "n_components": "components"}
#: Characters of a setting that are shown.
_LONGEST = 30


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
        Patterns that must match layers of every model; None means each model's default list.
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


def compare_with_table2(name: str, weights: str, scores: Scores) -> Table2Comparison | None:
    """Put the paper's Table 2 value of a model beside its scores, with all that forbids to compare them.

    Parameters
    ----------
    name, weights
        As given to :func:`load_models`.
    scores
        Of that model.

    Returns
    -------
    Table2Comparison
        Or None where the table has no row of the model. A dataset for which the row has no value is set
        beside that for Neuropixels.
    """
    from mvkit.models.released import find_model, is_model, table2_row

    model = find_model(name) if is_model(name) else None
    row = table2_row(model, weights) if model is not None else None
    if model is None or row is None:
        return None
    named = str(scores.context.get("dataset"))
    dataset = named if named in row.percent else "neuropixels"
    best = {str(record["area"]): record for record in scores.best_layers().to_dict("records")}
    everywhere = best.pop(ALL_AREAS)
    scored = [area for area, record in best.items() if record["n_units"]]
    differences = (
        _other_recordings(scores.context, dataset),
        _other_weights(scores.context, weights, model, is_untrained=row.is_untrained),
        _other_selection(scores.context),
        _other_areas(scored),
        *_other_protocol(scores.settings),
        _other_layers(scores.layers, model.architecture.layers),
        *_other_preprocessing(scores.context, model),
    )
    return Table2Comparison(
        row.name,
        dataset,
        row.value(dataset),
        float(everywhere["median"]),
        tuple(difference for difference in differences if difference is not None),
    )


def _other_recordings(context: Mapping[str, object], dataset: str) -> Table2Difference | None:
    """Tell recordings that are not those of the published file from them, by what the neural file says of it.

    The name does not tell: a file made of Allen Institute sessions has it too, and a pickle of the user's.
    """
    from mvkit.fetch.catalogue import RECORDINGS
    from mvkit.files import format_bytes
    from mvkit.neural.reliability_columns import PROVENANCE_KEY

    published = RECORDINGS[dataset]
    named = str(context.get("dataset", "unnamed"))
    if named != dataset:
        words = "the SIMULATED dataset" if named == "simulated" else f"dataset {named}"
        return Table2Difference("dataset", named, dataset, words)
    given = context.get("dataset_provenance")
    provenance = given if isinstance(given, Mapping) else {}
    size = provenance.get("pickle_bytes")
    if size is None and str(provenance.get("source")).endswith(".pkl"):
        # Files converted before the length of the pickle was noted.
        size = provenance.get("source_bytes")
    is_published = (
        "source_sha256" in provenance
        and isinstance(size, int)
        and abs(size - published.approximate_size) <= _SIZE_TOLERANCE * published.approximate_size
    )
    if not is_published:
        here = {"source": provenance.get("source"), "pickle_bytes": size}
        paper = {"source": published.file_name, "pickle_bytes": published.approximate_size}
        words = f"{named} recordings not from the published pickle"
        if isinstance(size, int):
            words += f" ({format_bytes(size)} instead of {format_bytes(published.approximate_size)})"
        return Table2Difference("dataset", here, paper, words)
    if PROVENANCE_KEY in provenance:
        return Table2Difference(
            "dataset", "reliabilities measured anew", "published reliabilities", "reliabilities measured anew"
        )
    return None


def _other_weights(
    context: Mapping[str, object], weights: str, model: ModelRow, *, is_untrained: bool
) -> Table2Difference | None:
    if is_untrained or model.released is None:
        return None
    source = context.get("weights_source")
    if weights == "released" and source == model.released.url:
        return None
    if weights == "random":
        words = "weights random"
    elif weights == "released":
        words = "weights other than the published ones"
    else:
        words = f"weights {Path(weights).name}"
    return Table2Difference("weights", source or weights, model.released.url, words)


def _other_selection(context: Mapping[str, object]) -> Table2Difference | None:
    selection = context.get("selection")
    given = selection if isinstance(selection, Mapping) else {}
    name = str(given.get("name", "unknown"))
    if name != _SELECTION:
        return Table2Difference("selection", name, _SELECTION, f"selection {name}")
    if not given.get("applied", True):
        return Table2Difference("selection", "not applied", _SELECTION, f"selection {name} not applied")
    return None


def _other_areas(scored: Sequence[str]) -> Table2Difference | None:
    from mvkit.neural.recording import AREA_ORDER

    missing = [area for area in AREA_ORDER if area not in scored]
    more = [area for area in scored if area not in AREA_ORDER]
    if not missing and not more:
        return None
    if more:
        words = f"areas {', '.join(more)} too"
    elif len(scored) < len(missing):
        words = f"areas {' and '.join(scored)} only" if scored else "no area with a score"
    else:
        words = f"without {', '.join(missing)}"
    return Table2Difference("areas", list(scored), list(AREA_ORDER), words)


def _other_protocol(settings: ScoreSettings) -> list[Table2Difference]:
    """Name every setting that numbers depend on and that is not the paper's."""
    from mvkit.scoring.settings import DEFAULT_SETTINGS

    here, paper = settings.protocol(), DEFAULT_SETTINGS.protocol()
    return [
        Table2Difference(
            name,
            here[name],
            paper[name],
            f"{_setting(name, here[name])} instead of {shortened(paper[name], _LONGEST)}",
        )
        for name in here
        if here[name] != paper[name]
    ]


def _setting(name: str, value: object) -> str:
    """Write a setting: ``2 splits``, or its name and value."""
    if name in _COUNTED:
        noun = _COUNTED[name]
        return f"{value} {noun.removesuffix('s') if value == 1 else noun}"
    return f"{name} {shortened(value, _LONGEST)}"


def _other_layers(here: Sequence[str], paper: Sequence[str]) -> Table2Difference | None:
    if set(here) == set(paper):
        return None
    taken = [layer for layer in here if layer in paper]
    words = f"{len(taken)} of {len(paper)} layers" if len(taken) == len(here) else "other layers"
    return Table2Difference("layers", list(here), list(paper), words)


def _other_preprocessing(context: Mapping[str, object], model: ModelRow) -> list[Table2Difference]:
    given = context.get("preprocessing")
    here = given if isinstance(given, Mapping) else {}
    paper = plain(model.preprocess.as_dict())
    return [
        Table2Difference(
            "preprocessing",
            {name: here.get(name)},
            {name: paper.get(name)},
            f"{name} {shortened(here.get(name), _LONGEST)} instead of {shortened(paper.get(name), _LONGEST)}",
        )
        for name in dict.fromkeys([*paper, *here])
        if here.get(name) != paper.get(name)
    ]
