"""The protocol in words: what was done, what differs from the paper, digest and seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit.jsonable import shortened
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.settings import DEFAULT_SETTINGS

if TYPE_CHECKING:
    from mvkit.scoring import Scores, ScoreSettings

#: Hex digits of a digest that are shown; enough to tell protocols apart by eye.
DIGITS = 12

#: Characters of a setting that are shown.
_LONGEST = 30


def protocol_lines(scores: Scores) -> tuple[str, ...]:
    """Say by which protocol scores were made.

    Returns
    -------
    tuple of str
        Digest, mapping, splits, halvings and correction; what differs from the paper's protocol; seeds.
    """
    settings = scores.settings
    return (
        f"protocol {scores.digest()[:DIGITS]}: {described_mapping(settings)}, {_amount(settings)}, "
        f"{_correction(settings)}",
        _differences(settings),
        f"seeds: splits {settings.split_seed}, halvings {settings.halves_seed}, "
        f"resampling {settings.resampling_seed}",
    )


def described_mapping(settings: ScoreSettings) -> str:
    """Name the mapping with the settings that belong to it."""
    details = {
        "pls": f"{settings.n_components} components",
        "ridge": "alpha by cross-validation"
        if settings.ridge_alpha == "cv"
        else f"alpha {settings.ridge_alpha:g}",
        "lasso": f"penalty {settings.penalty:g}",
        "elasticnet": f"penalty {settings.penalty:g}, l1 ratio {settings.l1_ratio:g}",
        "rsa": f"RDMs compared by {settings.rsa_comparison}",
        "cka": "debiased" if settings.cka_debiased else "biased",
    }
    title = MAPPINGS[settings.mapping].title
    return f"{title} ({details[settings.mapping]})" if settings.mapping in details else title


def _amount(settings: ScoreSettings) -> str:
    halvings = f"{settings.n_halves} trial halvings"
    if settings.compares_all_images:
        return f"all images, {halvings}"
    return f"{settings.n_splits} image splits x {halvings}"


def _correction(settings: ScoreSettings) -> str:
    if settings.correction == "none":
        return "not corrected for noise"
    return f"corrected for noise ({settings.correction}, {settings.estimator})"


def _differences(settings: ScoreSettings) -> str:
    """Name every setting that numbers depend on and that differs from the paper's."""
    here, paper = settings.protocol(), DEFAULT_SETTINGS.protocol()
    changed = [
        f"{name} {shortened(here[name], _LONGEST)} ({shortened(paper[name], _LONGEST)})"
        for name in here
        if here[name] != paper[name]
    ]
    if not changed:
        return "settings as in the paper"
    return f"settings that differ from the paper's (in brackets): {', '.join(changed)}"
