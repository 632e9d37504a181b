"""The outcome of a scoring run, in memory and on disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.display import drawing, html_table
from mvkit.errors import DataError
from mvkit.files import digest_of, plain, replacing, shorten, write_text
from mvkit.scoring.intervals import METHOD, Draws, describe_median
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

#: Columns of every table that is written -> key of the context.
SOURCE_COLUMNS = {"model": "model", "weights": "weights_source", "dataset": "dataset"}

UNITS_CSV = "scores.csv"
UNITS_PARQUET = "scores.parquet"
FOLDS_PARQUET = "folds.parquet"
SUMMARY_CSV = "summary.csv"
BEST_CSV = "best_layers.csv"
HELD_OUT_CSV = "held_out_layers.csv"
SUMMARY_JSON = "summary.json"


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
    """

    columns: Mapping[str, Column]
    layers: tuple[str, ...]
    areas: tuple[str, ...]
    settings: ScoreSettings
    context: Mapping[str, object]
    by_fold: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

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
        return save_scores(self, Path(folder))

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
        return {
            area: choose_layer(unit_grid(self.columns, self.by_fold, self.layers, area), name)
            for area in self.areas
        }

    def to_json(self) -> dict[str, Any]:
        """Return settings, protocol, context, summary and both choices as plain JSON values (NaN: None)."""
        settings = self.settings
        return {
            "settings": settings.model_dump(mode="json"),
            "protocol": self.protocol(),
            "digest": self.digest(),
            "context": {name: plain(value) for name, value in self.context.items()},
            "layers": list(self.layers),
            "areas": list(self.areas),
            "layer_choice": settings.layer_choice,
            "intervals": {
                "method": METHOD,
                "confidence": settings.confidence,
                "n_resamples": settings.n_resamples,
                "seed": settings.resampling_seed,
            },
            "best_layers": records(self._best_layers),
            "held_out_layers": records(self._held_out_layers),
            "summary": records(self._summary),
        }

    # Intervals take a while; each table is made when it is first asked for, and once.
    @cached_property
    def _summary(self) -> pd.DataFrame:
        import pandas as pd

        rows = []
        draws = Draws(self.settings)
        for layer in self.layers:
            of_layer = self.columns["layer"] == layer
            for area in (*self.areas, ALL_AREAS):
                chosen = of_layer if area == ALL_AREAS else of_layer & (self.columns["area"] == area)
                scores = self.columns["score"][chosen].astype(np.float64)
                specimens = self.columns["specimen"][chosen].astype(np.int64)
                areas = self.columns["area"][chosen] if area == ALL_AREAS else None
                row = describe_median(scores, specimens, self.settings, areas=areas, draws=draws)
                rows.append({"layer": layer, "area": area, **row})
        return pd.DataFrame(rows)

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
            row = describe_median(units.score, units.specimen, self.settings, reason=units.reason)
            rows.append({"area": area, "layer": units.layer, "choice": choice, **row})
        # An area without a layer has no part in the row of all areas.
        chosen = {area: units for area, units in areas.items() if units.layer}
        scores = np.concatenate([np.empty(0), *(units.score for units in chosen.values())])
        specimens = np.concatenate([np.empty(0, np.int64), *(units.specimen for units in chosen.values())])
        area_of = np.repeat(np.arange(len(chosen)), [len(units.score) for units in chosen.values()])
        reason = "" if chosen else next((units.reason for units in areas.values()), "")
        row = describe_median(scores, specimens, self.settings, areas=area_of, reason=reason)
        rows.append({"area": ALL_AREAS, "layer": BEST_PER_AREA, "choice": choice, **row})
        return pd.DataFrame(rows)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain JSON values."""
    return [
        {str(name): plain(value) for name, value in row.items()} for row in frame.to_dict(orient="records")
    ]


def save_scores(scores: Scores, out_dir: Path, also: Mapping[str, object] | None = None) -> list[Path]:
    """Write scores to a directory, each file whole or not at all.

    ``scores.csv`` and ``scores.parquet`` hold one row per unit, ``folds.parquet`` the same rows' scores from
    even and from odd image splits, ``summary.csv`` layers x areas, ``best_layers.csv`` and
    ``held_out_layers.csv`` the layer per area by either choice, ``summary.json`` settings, protocol and its
    digest, seeds, versions and all three tables. Every table starts with the columns ``model``, ``weights``
    (where they come from) and ``dataset``. ``summary.json`` is written last, so that its presence means
    the others are complete.

    Parameters
    ----------
    scores
        The scores.
    out_dir
        Folder, made if it does not exist.
    also
        Further entries of ``summary.json``, as plain JSON values.

    Returns
    -------
    list of Path
        The files written.
    """
    table = scores.table()
    frames: dict[str, pd.DataFrame] = {
        UNITS_CSV: table,
        SUMMARY_CSV: scores.summary(),
        BEST_CSV: scores.best_layers(),
        HELD_OUT_CSV: scores.held_out_layers(),
    }
    for name, frame in frames.items():
        with replacing(out_dir / name) as temporary:
            with_source(frame, scores.context).to_csv(temporary, index=False)
    for name, frame in {UNITS_PARQUET: table, FOLDS_PARQUET: _by_fold(scores)}.items():
        # Opened here: pyarrow cannot open a folder whose name is no UTF-8.
        with replacing(out_dir / name) as temporary, temporary.open("wb") as file:
            with_source(frame, scores.context).to_parquet(file, index=False)
    summary = {**scores.to_json(), **(also or {})}
    write_text(out_dir / SUMMARY_JSON, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return [out_dir / name for name in (*frames, UNITS_PARQUET, FOLDS_PARQUET, SUMMARY_JSON)]


def with_source(frame: pd.DataFrame, context: Mapping[str, object]) -> pd.DataFrame:
    """Return a table with columns ``model``, ``weights`` and ``dataset`` in front; "" of what is not known.

    ``model`` is the name in all results (with the seed of random weights), ``weights`` where they come from.
    """
    values = {column: str(context.get(key, "")) for column, key in SOURCE_COLUMNS.items()}
    return frame.assign(**values)[[*values, *frame.columns]]


def _by_fold(scores: Scores) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({f"fold_{fold}": values for fold, values in enumerate(scores.by_fold)})


def read_scores(out_dir: Path) -> Scores:
    """Read back what :func:`save_scores` wrote.

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
        If ``summary.json``, ``scores.parquet`` or ``folds.parquet`` is missing, damaged, or they do not fit
        together.
    """
    import pandas as pd

    for name in (SUMMARY_JSON, UNITS_PARQUET, FOLDS_PARQUET):
        if not (out_dir / name).is_file():
            raise DataError(f"{out_dir}: no {name} here; is this a folder written by 'mvkit score --out'?")
    try:
        summary = json.loads((out_dir / SUMMARY_JSON).read_text(encoding="utf-8"))
        settings = ScoreSettings(**summary["settings"])
        layers, areas = tuple(summary["layers"]), tuple(summary["areas"])
        context = summary["context"]
        table, folds = (_read_parquet(out_dir / name) for name in (UNITS_PARQUET, FOLDS_PARQUET))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{out_dir}: damaged scores ({error})") from error
    if folds.shape[1] and len(folds) != len(table):
        raise DataError(
            f"{out_dir}: damaged scores ({UNITS_PARQUET} has {len(table)} rows, {FOLDS_PARQUET} {len(folds)})"
        )
    return Scores(
        columns={
            str(name): table[name].to_numpy()
            if pd.api.types.is_numeric_dtype(table[name])
            else np.array(table[name].tolist(), dtype=object)
            for name in table.columns
        },
        by_fold=np.ascontiguousarray(folds.to_numpy(dtype=np.float64).T),
        layers=layers,
        areas=areas,
        settings=settings,
        context=context,
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    with path.open("rb") as file:
        return pd.read_parquet(file).drop(columns=list(SOURCE_COLUMNS), errors="ignore")
