"""The outcome of a scoring run, in memory and on disk."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.display import drawing, html_table
from mvkit.errors import DataError, UsageError
from mvkit.files import digest_of, plain, replacing, sha256_of, shorten, write_text
from mvkit.paths import expand
from mvkit.scoring.correlation import DROPPED_COLUMNS
from mvkit.scoring.intervals import METHOD, describe_median
from mvkit.scoring.layer_choice import HELD_OUT, PAPER, ChosenUnits, choose_layer, unit_grid, unit_rows
from mvkit.scoring.settings import SIMILARITIES, ScoreSettings

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

Column = NDArray[np.generic]

#: Columns of :meth:`Scores.to_pandas` -> key of the context.
_SOURCES = {"model": "model", "weights": "weights_source", "dataset": "dataset"}
#: What one line about scores has room for.
_MOST_AREAS, _LONGEST_NAME = 12, 80

ALL_AREAS = "all"
BEST_PER_AREA = "(best layer of each area)"
#: ``unit_id`` of the row of a whole population (RSA, CKA).
POPULATION = -1

#: Columns of every table that is written.
SOURCE_COLUMNS = ("model", "weights", "dataset")
#: Columns of scores from the even splits of the images alone, and from the odd ones.
FOLD_COLUMNS = ("score_even_splits", "score_odd_splits")

#: What every table of scores has; and what one with dropped split halves has.
_EXPECTED_COLUMNS = ("layer", "area", "specimen", "unit_id", "score")
_HALVES_COLUMNS = ("halves_used", *DROPPED_COLUMNS.values())

UNITS_CSV = "scores.csv"
UNITS_PARQUET = "scores.parquet"
NETWORKS_PARQUET = "networks.parquet"
SUMMARY_CSV = "summary.csv"
BEST_CSV = "best_layers.csv"
SUMMARY_JSON = "summary.json"

#: Version of the JSON documents; raised when a key changes its meaning or goes.
SCHEMA_VERSION = 1

#: Keys of a context that belong to the model; the others are of the run.
_OF_MODEL = ("model", "weights_source", "weights_id", "preprocessing", "network", "networks")
#: Keys of a context that are part of the protocol.
_OF_PROTOCOL = ("dataset", "selection", "responses_sha256")


@dataclass(frozen=True, repr=False)
class Scores:
    """One row per layer, area, specimen and unit, and what is computed from these rows.

    Attributes
    ----------
    columns
        Arrays of equal length:

        - ``layer``, ``area`` (text), ``specimen``, ``unit_id`` (int64); -1 is a whole population;
        - ``raw_correlation``: mean of r_cross (prediction from half 1 with responses of half 2, test images);
        - ``map_reliability``: mean of SB(r_map), SB(r) = 2r/(1+r);
        - ``response_reliability``: mean of SB(r_target);
        - ``score``: mean of the noise-corrected r_cross / sqrt(SB(r_map) SB(r_target));
        - ``map_correlation``, ``response_correlation``: means of r_map and r_target, not corrected;
        - ``halves_used``, ``halves_dropped``: image splits x trial halves that the score is a mean of, and
          all others; ``dropped_no_trial`` and so on: how many were dropped for each reason;
        - ``reason``: why the score is NaN, a key of :data:`mvkit.scoring.correlation.REASONS`, or "";
        - ``detail``: what there is to say beyond the reason, in words: which image has no trial, or why a
          layer or other animals cannot be mapped; or "".

        All means run over image splits and trial halves at once and ignore NaN.
    layers, areas
        Names in the order given.
    settings
        What was asked for.
    context
        What else the scores depend on: model, dataset, versions.
    by_fold
        float64 (2, number of rows): the score from the even splits of the images alone, and from the odd
        ones, between which :meth:`held_out_layers` chooses; no rows where there is one split only.
    networks
        float64 (n_networks, 1 or 3, number of rows): of several networks pooled as one model
        (:func:`pool_networks`) the scores of each, and those of ``by_fold``; empty for one network.
    """

    columns: Mapping[str, Column]
    layers: tuple[str, ...]
    areas: tuple[str, ...]
    settings: ScoreSettings
    context: Mapping[str, object]
    by_fold: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    networks: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0, 0)))

    def __repr__(self) -> str:
        """Describe the scores in a line or two: model, dataset, layers, and the best median of each area."""
        medians = [f"{area} {self._best_median(area):.3f}" for area in self.areas[:_MOST_AREAS]]
        more = ", ..." if len(self.areas) > _MOST_AREAS else ""
        model = shorten(self._label(), _LONGEST_NAME)
        dataset = shorten(self.context.get("dataset", "recordings"), _LONGEST_NAME)
        layers = "1 layer" if len(self.layers) == 1 else f"{len(self.layers)} layers"
        return (
            f"Scores({model} on {dataset}, {self.settings.mapping}, {layers}, {self._count_rows()}; "
            f"median of the best layer: {', '.join(medians)}{more})"
        )

    def _repr_html_(self) -> str:
        """Return a small table for notebooks: medians of every layer and area."""
        rows = [
            (layer, *(self._median(layer, area) for area in self.areas), self._median(layer, None))
            for layer in self.layers
        ]
        title = (
            f"{self._label()} on {self.context.get('dataset', 'recordings')}: "
            f"median scores by {self.settings.mapping}, {self._count_rows()}"
        )
        note = "intervals: .summary(); layer of each area: .best_layers(); every unit: .table()"
        return html_table(title, ("layer", *self.areas, "all areas"), rows, note=note)

    def _median(self, layer: str, area: str | None) -> float:
        chosen = self.columns["layer"] == layer
        if area is not None:
            chosen = chosen & (self.columns["area"] == area)
        scores = self.columns["score"][chosen].astype(np.float64)
        known = scores[~np.isnan(scores)]
        return float(np.median(known)) if known.size else math.nan

    def _best_median(self, area: str) -> float:
        medians = [self._median(layer, area) for layer in self.layers]
        return max((median for median in medians if not math.isnan(median)), default=math.nan)

    def _count_rows(self) -> str:
        n_rows = len(self.columns["score"]) // max(len(self.layers), 1)
        n_animals = len(np.unique(self.columns["specimen"])) if "specimen" in self.columns else 0
        noun = "populations" if self.settings.mapping in SIMILARITIES else "units"
        return f"{n_rows:,} {noun} of {n_animals} animal{'' if n_animals == 1 else 's'}"

    def protocol(self) -> dict[str, Any]:
        """Return what two results must share to be comparable, as plain JSON values.

        The settings without those of reporting and ceilings, the responses (by their digest), and the
        dataset and the selection of units they come from.
        """
        about = {name: plain(self.context.get(name)) for name in ("dataset", "selection", "responses_sha256")}
        return {**self.settings.protocol(), **about}

    def digest(self) -> str:
        """Return the sha256 (hex) of :meth:`protocol`."""
        return digest_of(self.protocol())

    def table(self) -> pd.DataFrame:
        """Return one row per (layer, area, specimen, unit)."""
        import pandas as pd

        return pd.DataFrame({name: np.array(column) for name, column in self.columns.items()})

    def to_pandas(self) -> pd.DataFrame:
        """Return :meth:`table` with columns ``model``, ``weights`` and ``dataset`` in front.

        Tables of several models can be put below one another.

        Returns
        -------
        DataFrame
            One row per (layer, area, specimen, unit).
        """
        table = self.table()
        for position, (name, key) in enumerate(_SOURCES.items()):
            table.insert(position, name, str(self.context.get(key, "")))
        return table

    def to_xarray(self) -> xr.Dataset:
        """Return scores as layers x units.

        Returns
        -------
        Dataset
            Variables (layer, unit), float64 but for text: ``score`` and the other columns of :meth:`table`.
            Coordinates: ``layer``; ``area``, ``specimen`` and ``unit_id`` on ``unit``. Attributes: model,
            weights, dataset, mapping, and the digest of the protocol.

        Raises
        ------
        DataError
            If two layers do not hold the same units.
        """
        import xarray as xr

        rows = np.concatenate(
            [unit_rows(self.columns, self.layers, area) for area in self.areas]
            or [np.empty((len(self.layers), 0), np.int64)],
            axis=1,
        )
        keys = ("area", "specimen", "unit_id")
        first = rows[0] if len(rows) else np.empty(0, np.int64)
        return xr.Dataset(
            {
                name: (("layer", "unit"), column[rows])
                for name, column in self.columns.items()
                if name not in ("layer", *keys)
            },
            coords={
                "layer": list(self.layers),
                **{name: ("unit", self.columns[name][first]) for name in keys},
            },
            attrs={
                **{name: str(self.context.get(key, "")) for name, key in _SOURCES.items()},
                "mapping": self.settings.mapping,
                "protocol": self.digest(),
            },
        )

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the scores to a folder, from which :func:`read_scores` reads them, see :func:`save_scores`.

        Parameters
        ----------
        folder
            Made if it does not exist; files of earlier scores in it are replaced.

        Returns
        -------
        list of Path
            The files written.
        """
        return save_scores(self, expand(folder))

    def plot(self, ceiling: Scores | None = None, *, choice: str | None = None, style: Any = None) -> Figure:
        """Draw the median of every area with its interval.

        Parameters
        ----------
        ceiling
            Consistency between animals, of the same protocol (:func:`mvkit.ceiling`).
        choice
            How the layer of each area is chosen: ``"paper"`` or ``"held-out"``; None: as the settings say.
        style
            :class:`mvkit.report.figures.FigureStyle`: width in inches, titles.

        Returns
        -------
        Figure
            Of matplotlib; :func:`mvkit.report.figures.save_figure` writes it.
        """
        return drawing("draw_areas")({self._label(): self}, ceiling, choice=choice, style=style)

    def plot_layers(self, ceiling: Scores | None = None, *, style: Any = None) -> Figure:
        """Draw the median of every layer, a panel per area.

        Parameters
        ----------
        ceiling, style
            As for :meth:`plot`.

        Returns
        -------
        Figure
            Of matplotlib.
        """
        return drawing("draw_layers")({self._label(): self}, ceiling, style=style)

    def _label(self) -> str:
        """Return the model's name; a ceiling has none."""
        kind = self.settings.ceiling
        return str(self.context.get("model", "model" if kind == "none" else f"ceiling ({kind})"))

    def summary(self) -> pd.DataFrame:
        """Return one row per layer and area, and one per layer for all areas together.

        Columns: ``layer``, ``area`` (``"all"`` = the units of every area pooled), ``median`` of the scores,
        ``sem`` (standard deviation over units with ddof 1, over the square root of their number), ``low`` and
        ``high`` (confidence interval of the median over animals and units, see
        :func:`~mvkit.scoring.intervals.median_interval`), ``n_units`` and ``n_animals`` that the
        median is over, ``n_nan`` units without a score, ``reason`` for an interval that is NaN, or "".
        """
        return self._summary.copy()

    def best_layers(self) -> pd.DataFrame:
        """Return the layer with the highest median in each area.

        Columns as in :meth:`summary`, and ``choice``: ``"paper"``. The row ``"all"`` pools the units of all
        areas, each unit with the score from the best layer of its own area, to be compared with the paper's
        figure per model (Table 2). Not to be confused with the ``"all"`` rows of :meth:`summary`, where one
        layer serves every area.

        The paper chooses the best layer by the very scores it reports, on the same test images, and so does
        this method: the more layers a model has, the more this favours it. On equal medians the earlier
        layer wins. An area without any score has layer "" and NaN. Intervals do not allow for the choice.
        """
        return self._best_layers.copy()

    def held_out_layers(self) -> pd.DataFrame:
        """Return each area's layer chosen on half of the splits and scored on the others, both ways.

        Columns and rows as in :meth:`best_layers`, with ``choice`` ``"held-out"``: the layer with the
        highest median on the even splits is scored on the odd ones and the other way round, and each unit's
        two scores are averaged. ``layer`` names both where they differ (``"a / b"``). Scores of fewer than
        two splits give NaN with a ``reason``; a single layer needs no choice, and its scores stay.

        Notes
        -----
        Random splits share their images, and all splits share the trials and the units. The choice's
        optimism is therefore removed only in part: what is common to both sets of splits and flatters a
        layer flatters it on both. In simulations of 4 and of 12 equally good layers (12 data sets each, 118
        images, 80 units, true median .39) the paper's choice was .019 and .026 too high, this one .011 and
        .016, with standard errors of .001 to .005: holding out removed about four tenths.
        """
        return self._held_out_layers.copy()

    def headline_layers(self) -> pd.DataFrame:
        """Return :meth:`best_layers` or :meth:`held_out_layers`, as ``settings.layer_choice`` says."""
        return self.held_out_layers() if self.settings.layer_choice == HELD_OUT else self.best_layers()

    def chosen_units(self, choice: str | None = None) -> dict[str, ChosenUnits]:
        """Return, per area, its units with their scores from the layer chosen for it.

        Parameters
        ----------
        choice
            ``"paper"`` or ``"held-out"``; None means ``settings.layer_choice``.

        Raises
        ------
        UsageError
            For another choice.
        """
        name = self.settings.layer_choice if choice is None else choice
        if name not in self._chosen_units:
            self._chosen_units[name] = {
                area: choose_layer(
                    unit_grid(self.columns, self.by_fold, self.layers, area, self.networks), name
                )
                for area in self.areas
            }
        return dict(self._chosen_units[name])

    def in_areas(self, areas: Sequence[str]) -> Scores:
        """Return the scores in some of the areas; :meth:`protocol` stays that of all of them.

        Parameters
        ----------
        areas
            The areas, in the order wanted.
        """
        if tuple(areas) == self.areas:
            return self
        chosen = np.isin(self.columns["area"].astype(str), list(areas))
        return replace(
            self,
            columns={name: column[chosen] for name, column in self.columns.items()},
            areas=tuple(areas),
            by_fold=self.by_fold[:, chosen] if self.by_fold.size else self.by_fold,
            networks=self.networks[:, :, chosen] if len(self.networks) else self.networks,
        )

    def to_json(self) -> dict[str, Any]:
        """Return protocol, context and tables as plain JSON values, see :func:`results_document`."""
        return results_document({str(self.context.get("model", "")): self})

    # Intervals take a while; each table is made when it is first asked for, and once.
    @cached_property
    def _summary(self) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for layer in self.layers:
            of_layer = self.columns["layer"] == layer
            for area in (*self.areas, ALL_AREAS):
                chosen = of_layer if area == ALL_AREAS else of_layer & (self.columns["area"] == area)
                scores = self.columns["score"][chosen].astype(np.float64)
                specimens = self.columns["specimen"][chosen].astype(np.int64)
                areas = self.columns["area"][chosen] if area == ALL_AREAS else None
                of_networks = [self.networks[:, 0, chosen] - scores] if len(self.networks) else []
                row = describe_median(scores, specimens, self.settings, areas=areas, networks=of_networks)
                rows.append({"layer": layer, "area": area, **row})
        return pd.DataFrame(rows)

    @cached_property
    def _chosen_units(self) -> dict[str, dict[str, ChosenUnits]]:
        return {}

    @cached_property
    def _best_layers(self) -> pd.DataFrame:
        return self._choice_table(PAPER)

    @cached_property
    def _held_out_layers(self) -> pd.DataFrame:
        return self._choice_table(HELD_OUT)

    def _choice_table(self, choice: str) -> pd.DataFrame:
        import pandas as pd

        areas = self.chosen_units(choice)
        rows = []
        for area, units in areas.items():
            row = describe_median(
                units.score,
                units.specimen,
                self.settings,
                reason=units.reason,
                networks=units.deviations,
            )
            rows.append({"area": area, "layer": units.layer, "choice": choice, **row})
        # An area without a layer has no part in the row of all areas.
        chosen = {area: units for area, units in areas.items() if units.layer}
        scores = np.concatenate([np.empty(0), *(units.score for units in chosen.values())])
        specimens = np.concatenate([np.empty(0, np.int64), *(units.specimen for units in chosen.values())])
        area_of = np.repeat(np.arange(len(chosen)), [len(units.score) for units in chosen.values()])
        reason = "" if chosen else next((units.reason for units in areas.values()), "")
        deviations = [units.deviations for units in chosen.values() if units.deviations]
        networks = [np.concatenate([part[0] for part in deviations], axis=1)] if deviations else []
        row = describe_median(
            scores, specimens, self.settings, areas=area_of, reason=reason, networks=networks
        )
        rows.append({"area": ALL_AREAS, "layer": BEST_PER_AREA, "choice": choice, **row})
        return pd.DataFrame(rows)


def pool_networks(models: Mapping[str, Scores], name: str) -> Scores:
    """Pool several networks, such as training runs that differ in their seed, as one model.

    A unit's score is the mean over networks, NaN where any of them has none. One layer is chosen for an area
    for all networks, by these means. Intervals, tests and fractions of the ceiling then treat the networks,
    too, as a sample: they are about networks trained like these, see
    :func:`mvkit.scoring.intervals.median_interval`.

    Parameters
    ----------
    models
        Name of a network -> its scores, of the same layers, units and protocol; at least two.
    name
        Name of the pooled model.

    Returns
    -------
    Scores
        Of the pooled model; ``networks``, float64 (n_networks, 1 or 3, n_rows), has those of each network.

    Raises
    ------
    UsageError
        If there are fewer than two, or they differ in layers, units or protocol.
    """
    first_name, first = next(iter(models.items()))
    if len(models) < 2:
        raise UsageError(f"pooling as '{name}' needs two networks or more, got {first_name} alone")
    keys = ("layer", "area", "specimen", "unit_id")
    for other_name, other in models.items():
        if other.layers != first.layers:
            raise UsageError(
                f"{first_name} and {other_name} cannot be pooled: their layers differ "
                f"({', '.join(first.layers)} and {', '.join(other.layers)})"
            )
        if other.digest() != first.digest() or not all(
            np.array_equal(other.columns[key], first.columns[key]) for key in keys
        ):
            raise UsageError(f"{first_name} and {other_name} cannot be pooled: other units or protocol")
    columns: dict[str, Column] = {}
    for key, values in first.columns.items():
        stack = np.stack([scores.columns[key] for scores in models.values()])
        if key in keys:
            columns[key] = values
        elif stack.dtype.kind == "f":
            columns[key] = stack.mean(axis=0)
        elif stack.dtype.kind in "iu":
            columns[key] = stack.sum(axis=0)
        else:
            columns[key] = np.array(
                [next((one for one in row if one), "") for row in stack.T.tolist()], dtype=object
            )
    networks = np.stack([np.stack([s.columns["score"], *s.by_fold]) for s in models.values()])
    shared = {key: value for key, value in first.context.items() if key not in _OF_MODEL}
    sources = {label: str(scores.context.get("weights_source", "")) for label, scores in models.items()}
    return Scores(
        columns,
        first.layers,
        first.areas,
        first.settings,
        {
            **shared,
            "model": name,
            "weights_source": f"{len(models)} networks: {', '.join(models)}",
            "preprocessing": first.context.get("preprocessing"),
            "networks": [{"name": label, "weights": source} for label, source in sources.items()],
        },
        networks[:, 1:].mean(axis=0) if networks.shape[1] > 1 else np.empty((0, 0)),
        networks.astype(np.float64),
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain JSON values."""
    return [
        {str(name): plain(value) for name, value in row.items()} for row in frame.to_dict(orient="records")
    ]


def results_document(
    models: Mapping[str, Scores],
    *,
    tables: bool = True,
    also: Mapping[str, Mapping[str, object]] | None = None,
) -> dict[str, Any]:
    """Return results of one protocol as plain JSON values (NaN: None).

    Parameters
    ----------
    models
        Name of a model -> its scores, at least one.
    tables
        Whether to give the tables ``summary`` and ``best_layers`` (both choices) of each model.
    also
        Name of a model -> further entries for it.

    Returns
    -------
    dict
        ``schema_version``; ``digest`` and ``protocol`` (all that the numbers depend on besides the model,
        with dataset, selection and the digest of the responses); ``reporting`` (settings that they do not
        depend on: choice of layers, intervals, ceiling); ``intervals`` (how they are made, in words);
        ``areas``; ``context`` (versions, origin of the dataset, areas that were skipped); ``models``: a list
        with ``name``, ``weights``, ``layers``, ``context`` (preprocessing, fingerprint of the weights) and
        the tables.
    """
    first = next(iter(models.values()))
    protocol = first.protocol()
    shared = {
        name: value
        for name, value in first.context.items()
        if name not in (*_OF_MODEL, *_OF_PROTOCOL)
        and all(plain(other.context.get(name)) == plain(value) for other in models.values())
    }
    entries = []
    for name, scores in models.items():
        own = {
            key: plain(value)
            for key, value in scores.context.items()
            if key not in shared and key not in _OF_PROTOCOL
        }
        entry = {
            "name": name,
            "weights": str(scores.context.get("weights_source", "")),
            "layers": list(scores.layers),
            "context": own,
            **(also or {}).get(name, {}),
        }
        if tables:
            entry["summary"] = records(scores.summary())
            entry["best_layers"] = records(both_choices(scores))
        entries.append(entry)
    settings = first.settings.model_dump(mode="json")
    return {
        "schema_version": SCHEMA_VERSION,
        "digest": first.digest(),
        "protocol": protocol,
        "reporting": {name: value for name, value in settings.items() if name not in protocol},
        "intervals": METHOD,
        "areas": list(first.areas),
        "context": plain(shared),
        "models": entries,
    }


def both_choices(scores: Scores) -> pd.DataFrame:
    """Return :meth:`Scores.best_layers` and :meth:`Scores.held_out_layers` in one table."""
    import pandas as pd

    return pd.concat([scores.best_layers(), scores.held_out_layers()], ignore_index=True)


def save_scores(scores: Scores, out_dir: Path) -> list[Path]:
    """Write the scores of one model to a folder, see :func:`save_models`.

    Parameters
    ----------
    scores
        The scores.
    out_dir
        The folder, made if it is not there.

    Returns
    -------
    list of Path
        The files.
    """
    return save_models({str(scores.context.get("model", "")): scores}, out_dir)


def save_models(
    models: Mapping[str, Scores],
    out_dir: Path,
    *,
    document: Mapping[str, object] | None = None,
    layers_chosen: bool = True,
) -> list[Path]:
    """Write the scores of models of one protocol to a folder, each file whole or not at all.

    Every table holds all models and starts with the columns ``model``, ``weights`` (where they come from) and
    ``dataset``: ``scores.csv`` and ``scores.parquet`` one row per layer, area, specimen and unit,
    ``summary.csv`` layers x areas, ``best_layers.csv`` the layer per area by either choice,
    ``networks.parquet`` the scores of each of several networks that were pooled as one model, if there are
    any. ``summary.json`` is :func:`results_document` without tables. It is written last, so that its presence
    means the others are complete. All columns: :data:`mvkit.report.columns.TABLES`.

    Parameters
    ----------
    models
        Name of a model -> its scores.
    out_dir
        Folder, made if it does not exist.
    document
        Contents of ``summary.json``, if there is more to say.
    layers_chosen
        Whether to write ``best_layers.csv``; a ceiling has no layers to choose from.

    Returns
    -------
    list of Path
        The files written.
    """
    units = _stack(models, _unit_table)
    frames = {UNITS_CSV: units, SUMMARY_CSV: _stack(models, Scores.summary)}
    if layers_chosen:
        frames[BEST_CSV] = _stack(models, both_choices)
    for name, frame in frames.items():
        with replacing(out_dir / name) as temporary:
            frame.to_csv(temporary, index=False)
    parquets = {UNITS_PARQUET: units}
    pooled = {name: scores for name, scores in models.items() if len(scores.networks)}
    if pooled:
        parquets[NETWORKS_PARQUET] = _stack(pooled, _network_table)
    for name, frame in parquets.items():
        # Opened here: pyarrow cannot open a folder whose name is no UTF-8.
        with replacing(out_dir / name) as temporary, temporary.open("wb") as file:
            frame.to_parquet(file, index=False)
    content = dict(results_document(models, tables=False) if document is None else document)
    # Parquet would not notice a changed byte.
    checksums = {name: sha256_of(out_dir / name) for name in parquets}
    content["checksums"] = {**checksums, SUMMARY_JSON: digest_of(content)}
    write_text(out_dir / SUMMARY_JSON, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return [out_dir / name for name in (*frames, *parquets, SUMMARY_JSON)]


def with_source(frame: pd.DataFrame, model: str, context: Mapping[str, object]) -> pd.DataFrame:
    """Return a table with columns ``model``, ``weights`` and ``dataset`` in front; "" = not known."""
    values = {
        "model": model,
        "weights": str(context.get("weights_source", "")),
        "dataset": str(context.get("dataset", "")),
    }
    return frame.assign(**values)[[*values, *frame.columns]]


def _stack(models: Mapping[str, Scores], table: Callable[[Scores], pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    frames = [with_source(table(scores), name, scores.context) for name, scores in models.items()]
    return pd.concat(frames, ignore_index=True)


def _unit_table(scores: Scores) -> pd.DataFrame:
    """Return one row per layer, area, specimen and unit with its scores by fold; the score after the keys."""
    table = scores.table()
    first = ["layer", "area", "specimen", "unit_id", "score"]
    table = table[[*first, *(name for name in table.columns if name not in first)]]
    for name, values in zip(FOLD_COLUMNS, scores.by_fold, strict=False):
        table[name] = values
    return table


def _network_table(scores: Scores) -> pd.DataFrame:
    """Return the rows of :func:`_unit_table` for each network, with its position in the list."""
    import pandas as pd

    keys = scores.table()[["layer", "area", "specimen", "unit_id"]]
    names = ("score", *FOLD_COLUMNS)
    frames = []
    for index, values in enumerate(scores.networks):
        columns = dict(zip(names, values, strict=False))
        frames.append(keys.assign(network=index, **columns))
    return pd.concat(frames, ignore_index=True)


def read_scores(out_dir: Path) -> Scores:
    """Read back the scores of one model.

    Parameters
    ----------
    out_dir
        A folder of :func:`save_models` that holds one model, or ``FOLDER/MODEL`` for one of several.

    Parameters
    ----------
    out_dir
        The folder.

    Returns
    -------
    Scores
        As they were saved.

    Raises
    ------
    DataError
        As :func:`read_models`, and if the folder holds several models.
    """
    models = read_models(out_dir)
    if len(models) > 1:
        raise DataError(
            f"{out_dir} holds {len(models)} models: {', '.join(models)}\n"
            f"name one: {out_dir / next(iter(models))}"
        )
    return next(iter(models.values()))


def read_models(out_dir: Path) -> dict[str, Scores]:
    """Read back what :func:`save_models` wrote.

    Parameters
    ----------
    out_dir
        The folder, or ``FOLDER/MODEL`` for one of its models.

    Returns
    -------
    dict
        Name of a model -> its scores.

    Raises
    ------
    DataError
        If there are no results, no such model, or files are missing, damaged or do not fit together.
    """
    folder = out_dir = expand(out_dir)
    if not out_dir.resolve().is_dir():
        above = (parent for parent in out_dir.parents if (parent / UNITS_PARQUET).is_file())
        folder = next(above, out_dir)
    chosen = str(out_dir.relative_to(folder)) if folder != out_dir else ""
    if not folder.resolve().is_dir():
        raise DataError(f"{out_dir}: no such folder; give one that 'mvkit score --out' wrote")
    for name in (SUMMARY_JSON, UNITS_PARQUET):
        if not (folder.resolve() / name).is_file():
            raise DataError(f"{out_dir}: no {name} here; is this a folder written by 'mvkit score --out'?")
    try:
        document = json.loads((folder.resolve() / SUMMARY_JSON).read_text(encoding="utf-8"))
        version = document.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"version {version} of summary.json, and this mvkit reads {SCHEMA_VERSION}")
        for name, expected in document.pop("checksums", {}).items():
            found = digest_of(document) if name == SUMMARY_JSON else sha256_of(folder.resolve() / name)
            if found != expected:
                raise ValueError(f"{name} has changed since it was written")
        entries = {str(entry["name"]): entry for entry in document["models"]}
        table = _read_parquet(folder.resolve() / UNITS_PARQUET)
        has_networks = any("networks" in entry["context"] for entry in entries.values())
        networks = _read_parquet(folder.resolve() / NETWORKS_PARQUET) if has_networks else None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise _damage_error(folder, error) from error
    if chosen:
        names = {folder_name(name): name for name in entries} | {name: name for name in entries}
        if chosen not in names:
            raise DataError(f"{folder} has no model '{chosen}'; it has: {', '.join(entries)}")
        entries = {names[chosen]: entries[names[chosen]]}
    try:
        return {name: _scores_of(document, entry, table, networks) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise _damage_error(folder, error) from error


def _damage_error(folder: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{folder}: damaged scores ({reason[:160]})")


def folder_name(name: str) -> str:
    """Return a model's name with letters, digits, ``-``, ``_`` and ``.`` only, for names of files."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._") or "model"


def _scores_of(
    document: Mapping[str, Any], entry: Mapping[str, Any], table: pd.DataFrame, networks: pd.DataFrame | None
) -> Scores:
    import pandas as pd

    name = str(entry["name"])
    rows = table[table["model"] == name].drop(columns=list(SOURCE_COLUMNS))
    if rows.empty:
        raise ValueError(f"{UNITS_PARQUET} has no rows of {name}")
    expected = (*_EXPECTED_COLUMNS, *(_HALVES_COLUMNS if "halves_dropped" in rows else ()))
    if missing := [column for column in expected if column not in rows]:
        raise ValueError(f"{UNITS_PARQUET} lacks {', '.join(missing)}")
    protocol = document["protocol"]
    settings = {key: value for key, value in protocol.items() if key in ScoreSettings.model_fields}
    folds = [column for column in FOLD_COLUMNS if column in rows]
    by_fold = np.array([rows.pop(column).to_numpy(dtype=np.float64) for column in folds])
    by_network = np.empty((0, 0, 0))
    if networks is not None and "networks" in entry["context"]:
        of_model = networks[networks["model"] == name]
        parts = [part for _, part in of_model.groupby("network", sort=True)]
        columns = [column for column in ("score", *FOLD_COLUMNS) if column in of_model]
        by_network = np.array([part[columns].to_numpy(dtype=np.float64).T for part in parts])
        if by_network.shape[-1] != len(rows):
            raise ValueError(f"{NETWORKS_PARQUET} has other rows than {UNITS_PARQUET}")
    return Scores(
        columns={
            str(column): values.to_numpy()
            if pd.api.types.is_numeric_dtype(values)
            else np.array(values.tolist(), dtype=object)
            for column, values in rows.items()
        },
        by_fold=by_fold if folds else np.empty((0, 0)),
        layers=tuple(entry["layers"]),
        areas=tuple(document["areas"]),
        settings=ScoreSettings(**settings, **document["reporting"]),
        context={
            **document["context"],
            **{key: protocol[key] for key in _OF_PROTOCOL if protocol[key] is not None},
            **entry["context"],
        },
        networks=by_network,
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    with path.open("rb") as file:
        return pd.read_parquet(file)
