"""Names, globs and regular expressions over layer names."""

from __future__ import annotations

import pytest

from mvkit.errors import UsageError
from mvkit.models.names import (
    RequestedLayer,
    compose_layers,
    match_layers,
    requested_layers,
    split_joined,
)
from mvkit.models.registry import AREAS, WHOLE_AREAS, JoinedLayer

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


def test_joined_layers_are_told_from_patterns():
    patterns = ["features.*", "early=features.0+decoder:VISp", "re:a=b+", "late = relu[1] + final"]
    single, joined = split_joined(patterns, NAMES)
    assert single == ("features.*", "re:a=b+")
    assert joined == (
        JoinedLayer("early", ("features.0", "decoder:VISp")),
        JoinedLayer("late", ("relu[1]", "final")),
    )
    requested = requested_layers(single[:1], NAMES, joined)
    only_parts = [layer for layer in requested if layer.is_only_joined]
    assert [(layer.name, layer.call) for layer in only_parts] == [
        ("decoder:VISp", None),
        ("relu", 1),
        ("final", None),
    ]


def test_joined_layers_that_a_model_declares_go_by_their_names():
    assert split_joined(["VISl", "VISp4"], AREAS, WHOLE_AREAS) == (
        ("VISp4",),
        (JoinedLayer("VISl", ("VISl4", "VISl2/3", "VISl5")),),
    )
    single, joined = split_joined(["joined"], AREAS, WHOLE_AREAS)
    assert single == ("LGNv",)
    assert [layer.name for layer in joined] == ["VISp", "VISal", "VISpl", "VISli", "VISrl", "VISl", "VISpor"]
    assert sorted(part for layer in joined for part in layer.parts) == sorted(set(AREAS) - {"LGNv"})


def test_a_joined_layer_follows_its_last_part():
    recorded = ["a", "b", "c", "d"]
    layers = [JoinedLayer("x", ("c", "a")), JoinedLayer("y", ("a",))]
    assert list(compose_layers(recorded, ["a", "c", "d"], layers).items()) == [
        ("a", ("a",)),
        ("y", ("a",)),
        ("c", ("c",)),
        ("x", ("c", "a")),
        ("d", ("d",)),
    ]
    with pytest.raises(UsageError, match=r"'z': b gives several outputs; name one: b\[0\], b\[1\]"):
        compose_layers(["b[0]", "b[1]"], (), [JoinedLayer("z", ("b",))])


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["x=features.0+featurs.1"], "unknown layer 'featurs.1'; did you mean 'features.1'"),
        (["x=features.0+features.*"], "'features.\\*' is a pattern"),
        (["x="], "write NAME=a\\+b"),
        (["=relu"], "write NAME=a\\+b"),
        (["relu=final"], "relu is a layer itself"),
        (["x=relu", "x=final"], "'x' is given twice"),
        (["joined"], "declares no joined layers"),
    ],
)
def test_joined_layers_that_mean_nothing_are_refused(patterns, words):
    with pytest.raises(UsageError, match=words):
        split_joined(patterns, NAMES)
