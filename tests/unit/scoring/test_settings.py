"""Settings and their errors."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from mvkit.errors import UsageError
from mvkit.scoring import ScoreSettings, resolve_settings
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.settings import SIMILARITIES, Mapping


def test_defaults_are_the_papers_protocol() -> None:
    settings = ScoreSettings()
    assert (settings.n_components, settings.n_splits, settings.n_halves) == (25, 10, 100)
    assert (settings.train_fraction, settings.pls_stopping, settings.parity) == (0.5, "reference", False)


def test_settings_do_not_change_and_take_no_strangers() -> None:
    with pytest.raises(ValidationError):
        ScoreSettings(n_split=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        ScoreSettings().n_splits = 3  # type: ignore[misc]


def test_options_become_settings() -> None:
    assert resolve_settings(n_splits=2, parity=True) == ScoreSettings(n_splits=2, parity=True)


def test_unknown_option_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown scoring option 'n_split'; did you mean 'n_splits'"):
        resolve_settings(n_split=2)


def test_every_wrong_value_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_settings(n_splits=0, train_fraction=1.0, mapping="magic")
    for part in ("n_splits", "train_fraction", "mapping", "got 0", "got 'magic'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("mapping", ["rsa", "cka"])
def test_similarities_take_no_kind_of_correlation(mapping: str) -> None:
    with pytest.raises(UsageError, match=f"correlation: .*'{mapping}' has none .*got 'spearman'"):
        resolve_settings(mapping=mapping, correlation="spearman")
    assert resolve_settings(mapping="ridge", correlation="spearman").correlation == "spearman"


def test_settings_know_which_mappings_are_similarities() -> None:
    assert set(SIMILARITIES) == {name for name, row in MAPPINGS.items() if not row.per_unit}
    assert set(get_args(Mapping)) == set(MAPPINGS)
