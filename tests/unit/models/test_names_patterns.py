"""Names, globs and regular expressions over layer names."""

from __future__ import annotations

import pytest

from mvkit.errors import UsageError
from mvkit.models.names import RequestedLayer, match_layers, requested_layers

NAMES = ("features.0", "features.1", "features.10", "VISp2/3", "decoder:VISp", "relu", "final")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("features.1", ["features.1"]),
        ("features.*", ["features.0", "features.1", "features.10"]),
        ("features.?", ["features.0", "features.1"]),
        ("VISp*", ["VISp2/3"]),
        ("decoder:VISp", ["decoder:VISp"]),
        ("re:features\\.1.*", ["features.1", "features.10"]),
        ("re:features", None),
        (["final", "features.0"], ["features.0", "final"]),
        (["features.1", "features.*"], ["features.0", "features.1", "features.10"]),
        ("*", list(NAMES)),
    ],
)
def test_patterns_keep_the_models_order_without_duplicates(patterns, expected):
    if expected is None:
        with pytest.raises(UsageError):
            match_layers(patterns, NAMES)
    else:
        assert list(match_layers(patterns, NAMES)) == expected


def test_suffixes_name_a_call_and_a_part():
    assert requested_layers("relu[1]", NAMES) == (RequestedLayer("relu", call=1),)
    assert requested_layers("relu:key", NAMES) == (RequestedLayer("relu", part="key"),)
    assert requested_layers("relu[0]:2:mean", NAMES) == (RequestedLayer("relu", call=0, part="2:mean"),)
    assert requested_layers("fea*[2]", NAMES) == tuple(RequestedLayer(name, call=2) for name in NAMES[:3])


def test_a_trailing_index_means_a_call_where_the_layer_exists_and_a_glob_class_elsewhere():
    assert requested_layers("features.1[0]", NAMES) == (RequestedLayer("features.1", call=0),)
    assert requested_layers("features.[01]", NAMES) == (
        RequestedLayer("features.0"),
        RequestedLayer("features.1"),
    )


def test_a_layer_that_is_named_stays_named_when_a_glob_also_matches_it():
    named = {layer.name: layer.is_named for layer in requested_layers(["*", "relu"], NAMES)}
    assert named["relu"]
    assert not named["final"]


def test_an_unknown_layer_is_refused_with_a_suggestion_and_the_valid_names():
    with pytest.raises(UsageError) as caught:
        match_layers(["relu", "featurs.1"], NAMES)
    message = str(caught.value)
    assert "unknown layer 'featurs.1'; did you mean 'features.1'?" in message
    assert all(name in message for name in NAMES)


@pytest.mark.parametrize("patterns", ["re:(", [], "re:", ""])
def test_patterns_that_say_nothing_are_refused(patterns):
    with pytest.raises(UsageError, match=r"regular expression|no layers|unknown layer"):
        match_layers(patterns, NAMES)
