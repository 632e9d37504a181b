"""The protocol in words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mvkit.report.text import described_mapping, protocol_lines
from mvkit.scoring import Scores, ScoreSettings

VALUES = {("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}


def test_the_papers_protocol_is_called_so(scores_of: Callable[..., Scores]) -> None:
    scores = scores_of(VALUES, n_splits=10, n_halves=100)
    first, second, third = protocol_lines(scores)
    assert first.startswith(f"protocol {scores.digest()[:12]}: PLS (25 components), 10 image splits x 100 ")
    assert "spearman-brown-denominator, mean-of-corrected" in first
    assert second == "settings as in the paper"
    assert third == "seeds: splits 0, halvings 0, resampling 0"


def test_what_differs_stands_beside_the_papers_value(scores_of: Callable[..., Scores]) -> None:
    chosen = {
        "n_splits": 2,
        "n_halves": 100,
        "correction": "attenuation",
        "split_seed": 5,
        "n_resamples": 100,
    }
    first, second, third = protocol_lines(scores_of(VALUES, **chosen))
    assert second.endswith(
        ": n_splits 2 (10), correction attenuation (spearman-brown-denominator), split_seed 5 (0)"
    )
    assert "2 image splits" in first
    assert third.startswith("seeds: splits 5,")
    assert "not corrected" in protocol_lines(scores_of(VALUES, correction="none"))[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mapping": "ridge"}, "ridge (alpha 1)"),
        ({"mapping": "ridge", "ridge_alpha": "cv"}, "ridge (alpha by cross-validation)"),
        ({"mapping": "one-to-one"}, "one-to-one"),
        ({"mapping": "rsa", "rsa_comparison": "cosine"}, "RSA (RDMs compared by cosine)"),
    ],
)
def test_a_mapping_is_named_with_its_own_settings(settings: dict[str, object], expected: str) -> None:
    assert described_mapping(ScoreSettings(**settings)) == expected


def test_a_similarity_of_all_images_has_no_splits(scores_of: Callable[..., Scores]) -> None:
    assert ", all images, 10 trial halvings" in protocol_lines(scores_of(VALUES, mapping="rsa"))[0]
    of_test_images = scores_of(VALUES, mapping="rsa", similarity_images="test", n_splits=3)
    assert ", 3 image splits x 10 trial halvings" in protocol_lines(of_test_images)[0]
