"""Tables and conclusions of docs/science/simulation.md as text, for benchmarks/simulation_study.py."""

from __future__ import annotations

import pandas as pd
from study_estimators import PUBLISHED
from study_figure import HONEST
from study_intervals import outside

#: Trials and units of the tables that show one setting.
SHOWN = (20, 40)
SHORT = {
    "spearman-brown-denominator": "SB denominator",
    "spearman-brown-ratio": "SB ratio",
    "attenuation": "attenuation",
    "none": "none",
}


def shown_only(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the setting that is shown; the largest number of units if it was not simulated."""
    n_trials, n_units = SHOWN
    chosen = table[(table["n_trials"] == n_trials) & (table["n_units"] == n_units)]
    return chosen if len(chosen) else table[table["n_units"] == table["n_units"].max()]


def table_blocks(tables: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Return every table as markdown by the name of its block."""
    bias = shown_only(tables["bias"])
    dropping = shown_only(tables["dropping"]).drop(columns=["n_trials", "n_units"])
    perfect = shown_only(tables["perfect"]).drop(columns=["n_trials", "n_units"])
    coverage = tables["coverage"].copy()
    coverage["setting"] = [
        f"{shape}, {units} units, animals {share:.0%}"
        for shape, units, share in zip(
            coverage["shape"], coverage["n_units"], coverage["animal_share"], strict=True
        )
    ]
    tests = tables["tests"]
    power = tests.pivot_table(index="n_animals", columns="difference", values="resolved").reset_index()
    power.columns = pd.Index(["animals", *(f"difference {difference:g}" for difference in power.columns[1:])])
    power.insert(1, "coverage", tests[tests["difference"] == 0.0]["coverage"].to_numpy())
    return {
        "unit scores": _by_combination(bias, "unit_median_bias", "unit_sd"),
        "mean unit bias": _by_combination(bias, "unit_bias", None),
        "median scores": _by_combination(bias, "median_bias", "median_sd"),
        "trials and units": _by_setting(tables["bias"]),
        "dropping": markdown(dropping),
        "perfect model": markdown(perfect),
        "ceilings": markdown(tables["ceilings"]),
        "coverage": markdown(_wide(coverage, "setting", "n_animals", "coverage", " animals")),
        "fractions": markdown(tables["fractions"][["n_animals", "n_units", "coverage", "width"]]),
        "tests": markdown(power),
        "full path": markdown(tables["full"]),
    }


def markdown(table: pd.DataFrame) -> str:
    """Write a table with three decimals; what ends in 0 loses nothing."""
    lines = [
        "| " + " | ".join(str(name).replace("_", " ") for name in table.columns) + " |",
        "|" + "---|" * len(table.columns),
    ]
    lines += [
        "| " + " | ".join(_cell(value) for value in row) + " |" for row in table.itertuples(index=False)
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3f}"
    return str(value)


def _wide(table: pd.DataFrame, rows: str, columns: str, values: str, suffix: str) -> pd.DataFrame:
    wide = table.pivot_table(index=rows, columns=columns, values=values, sort=False).reset_index()
    wide.columns = pd.Index([rows, *(f"{name}{suffix}" for name in wide.columns[1:])])
    return wide


def _by_combination(bias: pd.DataFrame, error: str, deviation: str | None) -> str:
    """A row per correction and estimator, a column per reliability: bias, and its standard deviation."""
    rows = []
    for (correction, estimator), part in bias.groupby(["correction", "estimator"], sort=False):
        row: dict[str, object] = {"correction": SHORT[str(correction)], "estimator": estimator}
        for entry in part.to_dict(orient="records"):
            text = f"{entry[error]:+.3f}" + (f" ± {entry[deviation]:.3f}" if deviation else "")
            row[f"reliability {entry['reliability']:g}"] = text
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def _by_setting(bias: pd.DataFrame) -> str:
    """The published and the honest median for every number of trials and units."""
    rows = []
    chosen = bias[
        [pair in (PUBLISHED, HONEST) for pair in zip(bias["estimator"], bias["correction"], strict=True)]
    ]
    for (estimator, n_units, n_trials), part in chosen.groupby(["estimator", "n_units", "n_trials"]):
        name = "published" if estimator == PUBLISHED[0] else "honest"
        row: dict[str, object] = {"protocol": name, "units": n_units, "trials": n_trials}
        for entry in part.to_dict(orient="records"):
            text = f"{entry['median_bias']:+.3f} ± {entry['median_sd']:.3f}"
            row[f"reliability {entry['reliability']:g}"] = text
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def conclusions(tables: dict[str, pd.DataFrame]) -> str:
    """Say in plain sentences, with the numbers of the tables, what follows."""
    found = [*_about_estimators(tables), *_about_intervals(tables)]
    return "\n".join(f"{number}. {text}" for number, text in enumerate(found, start=1))


def _about_estimators(tables: dict[str, pd.DataFrame]) -> list[str]:
    bias = shown_only(tables["bias"])
    by_pair = bias.set_index(["estimator", "correction"])
    high, middle, weak = (by_pair[by_pair["reliability"] == reliability] for reliability in (0.7, 0.5, 0.3))
    honest, published = middle.loc[HONEST], middle.loc[PUBLISHED]
    high_honest, high_published = high.loc[HONEST], high.loc[PUBLISHED]
    weak_honest, weak_published = weak.loc[HONEST], weak.loc[PUBLISHED]
    closest = weak["median_bias"].abs().idxmin()
    dropping = shown_only(tables["dropping"]).set_index("reliability").loc[0.3]
    ceilings = tables["ceilings"].set_index("reliability").loc[0.7]
    return [
        "The honest measure is nearly right for a unit: at reliability 0.5 and 0.7 its median error is "
        f"{honest['unit_median_bias']:+.3f} and {high_honest['unit_median_bias']:+.3f}, that of the "
        f"published measure {published['unit_median_bias']:+.3f} and "
        f"{high_published['unit_median_bias']:+.3f}. "
        f"For the median over {SHOWN[1]} units the advantage begins higher: at 0.5 the biases are "
        f"{honest['median_bias']:+.3f} and {published['median_bias']:+.3f}, at 0.7 "
        f"{high_honest['median_bias']:+.3f} and {high_published['median_bias']:+.3f}.",
        "The price of the honest measure is variance: at reliability 0.5 the standard deviation of a unit's "
        f"score is {honest['unit_sd']:.2f} (published: {published['unit_sd']:.2f}), that of the median "
        f"{honest['median_sd']:.3f} (published: {published['median_sd']:.3f}).",
        "Lower, no combination can be trusted: at reliability 0.3 a unit's score has a standard deviation "
        f"of {weak_honest['unit_sd']:.2f} (published: {weak_published['unit_sd']:.2f}), the median a bias "
        f"of {weak_honest['median_bias']:+.3f} (published: {weak_published['median_bias']:+.3f}; least: "
        f"`{closest[0]}` with `{closest[1]}`). Select units by their reliability.",
        f"Averaging corrected halvings drops {dropping['halvings_dropped']:.0%} of the halvings at "
        "reliability 0.3; with `attenuation` the median error of a unit is then "
        f"{dropping['error_if_dropped']:+.3f}. Averaging first leaves "
        f"{dropping['error_if_averaged_first']:+.3f}, but {dropping['units_not_corrected']:.0%} of the units "
        "get no score. (The difference holds the effect of dropping and that of averaging quotients.)",
        "Animals that are linear functions of one another have a ceiling of 1 without noise; "
        f"at reliability 0.7 the honest ceiling is {ceilings['honest']:.2f}, the published one "
        f"{ceilings['published']:.2f}.",
    ]


def _about_intervals(tables: dict[str, pd.DataFrame]) -> list[str]:
    coverage, fractions = tables["coverage"], tables["fractions"]
    none = tables["tests"].query("difference == 0")
    power = tables["tests"].query("difference == 0.05").set_index("n_animals")["resolved"]
    full = tables["full"].set_index("protocol")
    honest, published = full.loc["honest"], full.loc["published"]
    settings = (coverage, fractions, none)
    beyond = sum(len(outside(table)) for table in settings)
    return [
        f"Intervals of medians hold the truth in {_range(coverage['coverage'])} of the data sets of a "
        f"setting, of fractions of the ceiling in {_range(fractions['coverage'])}, of paired differences in "
        f"{_range(none['coverage'])}; {beyond} of {sum(map(len, settings))} settings lie outside 93 to 97 %.",
        "Where two models do not differ, a difference is called resolved in "
        f"{_range(none['resolved'])} of the data sets; a difference of 0.05 is resolved in "
        + ", ".join(f"{share:.0%} with {number} animals" for number, share in power.items())
        + ".",
        f"On the whole path the honest intervals hold the truth in {honest['coverage']:.1%} of the data "
        f"sets, the published ones in {published['coverage']:.1%}, because that measure is biased by "
        f"{published['bias']:+.3f} there: an interval says nothing about bias.",
    ]


def _range(shares: pd.Series) -> str:
    return f"{shares.min():.1%} to {shares.max():.1%}"
