"""What is asked of a session: bins, refusals, one name for one request."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from mvkit.allen.request import SessionRequest
from mvkit.errors import UsageError


def test_the_default_has_the_bins_of_the_published_recordings() -> None:
    request = SessionRequest()
    assert request.n_bins == 25
    # The doubles nearest to 0.00, 0.01, ..., as a reader of the paper would write them.
    assert request.edges_s.tolist() == [float(f"0.{edge:02d}") for edge in range(26)]
    assert np.allclose(request.centres_s, np.arange(0.005, 0.25, 0.01), atol=1e-12)
    assert request.holds_counts


def test_bins_before_onset_and_of_fractions_of_a_millisecond() -> None:
    request = SessionRequest(window_ms=(-50, 50), bin_ms=12.5)
    assert request.edges_s.tolist() == [-0.05, -0.0375, -0.025, -0.0125, 0.0, 0.0125, 0.025, 0.0375, 0.05]
    assert SessionRequest(window_ms=(0, 1), bin_ms=0.1).n_bins == 10
    assert not request.holds_counts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stimulus": "natural_scene"}, "did you mean 'natural_scenes'"),
        ({"areas": ()}, "at least one"),
        ({"areas": ("VISp", "VISp")}, "each once"),
        ({"bin_ms": 0.0}, "above 0"),
        ({"bin_ms": math.nan}, "above 0"),
        ({"window_ms": (0.0, 245.0)}, "whole number of bins"),
        ({"window_ms": (250.0, 0.0)}, "after the start"),
        ({"window_ms": (0.0, math.inf)}, "after the start"),
        ({"max_isi_violations": math.nan}, "NaN"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SessionRequest(**changes)


def test_a_request_is_plain_data() -> None:
    request = SessionRequest(areas=("CA1", "VISp"), bin_ms=5, max_isi_violations=math.inf)
    assert json.loads(json.dumps(request.to_json())) == request.to_json()
    assert request.to_json() == {
        "stimulus": "natural_scenes",
        "areas": ["VISp", "CA1"],
        "bin_ms": 5.0,
        "window_ms": [0.0, 250.0],
        "max_isi_violations": "inf",
        "max_amplitude_cutoff": 0.1,
        "min_presence_ratio": 0.95,
    }


def test_requests_that_take_the_same_have_one_digest() -> None:
    default = SessionRequest().digest
    assert SessionRequest(areas=tuple(reversed(SessionRequest().areas))).digest == default
    assert SessionRequest(max_isi_violations=0.5, bin_ms=10).digest == default
    others = [
        SessionRequest(areas=("VISp",)),
        SessionRequest(bin_ms=5),
        SessionRequest(window_ms=(0, 200)),
        SessionRequest(min_presence_ratio=0.9),
    ]
    assert len({default, *(request.digest for request in others)}) == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "neuropixel"}, "did you mean 'neuropixels'"),
        ({"areas": ("VISpp",)}, "unknown area 'VISpp'; did you mean 'VISp'"),
    ],
)
def test_unknown_names_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SessionRequest(**changes)
