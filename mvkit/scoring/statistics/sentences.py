"""Differences between models in plain words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvkit.scoring.statistics.comparison import PairDifference

_LEAST_P = 0.001


def sentence(pair: PairDifference) -> str:
    """Say what is known of a difference.

    For instance ``"A and B, VISp: difference .012 [-.010, .034], not resolved by these data (p = .31,
    5 animals)"``; ``p`` is the one corrected for the number of pairs.
    """
    where = "all areas" if pair.area == "all" else pair.area
    names = f"{pair.first} and {pair.second}, {where}"
    if math.isnan(pair.difference):
        return f"{names}: no difference can be given ({pair.reason})"
    value = f"{names}: difference {short(pair.difference)}"
    if pair.reason:
        return f"{value}, no interval ({pair.reason})"
    value += f" [{short(pair.low)}, {short(pair.high)}]"
    evidence = f"(p {_p_text(pair.p_holm)}, {pair.n_animals} animals)"
    if not pair.resolved:
        return f"{value}, not resolved by these data {evidence}"
    better = pair.first if pair.difference > 0 else pair.second
    return f"{value}, {better} predicts better {evidence}"


def short(value: float) -> str:
    """Write three decimals without the zero before the point: ``.012``, ``-.010``, ``1.250``."""
    text = f"{value:.3f}"
    if float(text) == 0.0:
        return ".000"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _p_text(p: float) -> str:
    if p < _LEAST_P:
        return f"< {short(_LEAST_P)}"
    # Three decimals near the levels of tests, two elsewhere.
    text = f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"
    return f"= {text.replace('0.', '.', 1) if text.startswith('0.') else text}"
