"""Thresholds that decide which units and specimens are scored, and named sets of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mvkit.errors import UsageError
from mvkit.naming import unknown_name

CITATION = "Nayebi et al. 2023, PLOS Comput. Biol. 19(10):e1011506"


class SelectionSettings(BaseModel):
    """Thresholds of the selection; None switches one off.

    The defaults are those of the code that accompanies the paper (goldens
    README, section 5; checked value by value in ``tests/parity``).

    Attributes
    ----------
    min_reliability
        Time-resolved files: a unit needs this split-half reliability in its
        best time bin (Spearman-Brown corrected; NaN bins are ignored).
    min_mean_reliability
        Files without a time axis: a unit needs this ``reliability_mean``.
    min_median_reliability
        Time-resolved files: bins count as responsive when the median
        reliability of a specimen's kept units reaches this. A specimen without
        such a bin is dropped, and responses are averaged over the longest run
        of consecutive such bins (the first one on ties).
    run_p
        A unit needs a p value of running modulation above this, or none.
    min_units
        A specimen needs this many kept units in the area: ``"q3"`` or
        ``"median"`` of the specimens' counts, rounded up, or a number.
    time_window_s
        Time-resolved files: average over the bins whose centres lie in this
        closed interval (seconds after onset) and not over the responsive run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_reliability: float | None = 0.5
    min_mean_reliability: float | None = 0.75
    min_median_reliability: float | None = 0.3
    run_p: float | None = Field(default=0.05, ge=0, le=1)
    min_units: Literal["q3", "median"] | int | None = "q3"
    time_window_s: tuple[float, float] | None = None

    @field_validator("min_units")
    @classmethod
    def _not_negative(cls, value: str | int | None) -> str | int | None:
        if isinstance(value, int) and value < 0:
            raise ValueError("must be 0 or more")
        return value

    @field_validator("time_window_s")
    @classmethod
    def _in_order(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] <= value[1]:
            raise ValueError("the first time must not be after the second")
        return value


#: Named selections. ``code``: defaults of the published code. ``paper``: the same steps with
#: a unit threshold of 0.3 for both kinds of recording, as given to us and not checked against the
#: paper's text. It may be a misreading: the only 0.3 in the published code is the median criterion,
#: which ``code`` has too. ``none``: every unit, averaged over every time bin.
PRESETS = {
    "code": SelectionSettings(),
    "paper": SelectionSettings(min_reliability=0.3, min_mean_reliability=0.3),
    "none": SelectionSettings(
        min_reliability=None,
        min_mean_reliability=None,
        min_median_reliability=None,
        run_p=None,
        min_units=None,
    ),
}

PRESET_SOURCES = {
    "code": f"defaults of the code published with {CITATION}",
    "paper": (
        f"{CITATION}: reliability of at least 0.3 for every unit; not checked against the paper's text, and "
        "perhaps a misreading of the median criterion"
    ),
    "none": "every unit of the file",
    "custom": "settings given by the user",
}


def resolve_selection(selection: str | SelectionSettings) -> tuple[str, SelectionSettings]:
    """Return the name and the settings of a selection.

    Parameters
    ----------
    selection
        ``"code"``, ``"paper"``, ``"none"``, or settings.

    Returns
    -------
    tuple
        Name (``"custom"`` for settings that equal no preset) and settings.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    if isinstance(selection, str):
        if selection not in PRESETS:
            raise unknown_name("selection", selection, PRESETS)
        return selection, PRESETS[selection]
    names = [name for name, preset in PRESETS.items() if preset == selection]
    return (names or ["custom"])[0], selection


def selection_with(preset: str = "code", **changes: object) -> SelectionSettings:
    """Return a preset with some thresholds changed.

    Parameters
    ----------
    preset
        ``"code"``, ``"paper"`` or ``"none"``.
    **changes
        Fields of :class:`SelectionSettings`.

    Raises
    ------
    UsageError
        If the preset or a field is unknown, or a value is out of range.
    """
    settings = resolve_selection(preset)[1].model_dump()
    for name in changes:
        if name not in settings:
            raise unknown_name("selection setting", name, settings)
    try:
        return SelectionSettings.model_validate({**settings, **changes})
    except ValidationError as error:
        problems = [f"selection: {'.'.join(map(str, e['loc'][:1]))}: {e['msg']}" for e in error.errors()]
        raise UsageError("\n".join(dict.fromkeys(problems))) from error
