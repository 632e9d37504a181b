"""The tables of names, and that looking at them costs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mvkit.errors import UsageError
from mvkit.models.preprocessing import GREY_64, IMAGENET_64
from mvkit.models.registry import (
    ARCHITECTURES,
    BASELINES,
    RELEASED,
    TABLE2,
    find_model,
    list_models,
    table2_row,
)

# The five files of the paper's repository (its README, "Available Pre-trained Models").
PUBLISHED = [
    "alexnet_bn_ir",
    "dual_stream_ir",
    "six_stream_simclr",
    "shi_mousenet_ir",
    "shi_mousenet_vispor5_ir",
]


def test_released_names_and_files():
    assert list(RELEASED) == PUBLISHED
    assert [row.file_name for row in RELEASED.values()] == [f"{name}.pt" for name in PUBLISHED]
    assert all(row.name == name for name, row in RELEASED.items())
    assert all(row.citation for row in RELEASED.values())


def test_list_models_holds_every_name_once():
    names = list_models()
    assert len(names) == len(set(names))
    assert set(names) == {*RELEASED, *ARCHITECTURES, *BASELINES}


@pytest.mark.parametrize("name", list_models())
def test_every_name_is_found_under_itself_with_its_preprocessing(name):
    row = find_model(name)
    assert row.name == name
    assert row.preprocess == (GREY_64 if name in BASELINES else IMAGENET_64)


@pytest.mark.parametrize("released", list(RELEASED.values()), ids=list(RELEASED))
def test_long_names_of_the_reference_are_aliases(released):
    row = find_model(released.architecture)
    assert row.released == released
    assert row.architecture == find_model(released.name).architecture
    assert row.architecture.layers == released.layers


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("alexnet_bn_irr", "alexnet_bn_ir"), ("gabour", "gabor"), ("Six_Stream_SimCLR", "six_stream_simclr")],
)
def test_misspelt_names_get_a_suggestion(typed, meant):
    with pytest.raises(UsageError, match=f"unknown model '{typed}'; did you mean '{meant}'"):
        find_model(typed)


@pytest.mark.parametrize("name", list_models())
def test_default_layers_are_tap_points_of_modules_that_exist(shapes_only, name):
    row, model = find_model(name), shapes_only(name)
    points = model.tap_points()
    assert row.architecture.layers
    assert set(row.architecture.layers) <= set(points)
    paths = dict(model.named_modules())
    assert all(path in paths for path in points.values())
    assert len(set(points.values())) == len(points), "two layer names stand for one module"


def test_table_2_holds_the_papers_values():
    # Paper, Table 2, Neuropixels / calcium, as issue 12 quotes it.
    assert {
        name: (row.percent["neuropixels"], row.percent.get("calcium")) for name, row in TABLE2.items()
    } == {
        "alexnet_bn_ir": (41.33, 31.60),
        "dual_stream_ir": (40.07, 30.64),
        "six_stream_simclr": (38.92, 29.19),
        "shi_mousenet_ir": (35.96, 30.06),
        "shi_mousenet_vispor5_ir": (36.89, 28.80),
        "untrained single stream": (32.76, None),
        "untrained dual stream": (33.58, None),
        "untrained six stream": (33.74, None),
        "VGG16 at 224 px": (26.03, 20.40),
    }
    assert TABLE2["alexnet_bn_ir"].value("calcium") == 0.316


@pytest.mark.parametrize(
    ("model", "weights", "name"),
    [
        ("alexnet_bn_ir", "released", "alexnet_bn_ir"),
        ("alexnet_encoder", "random", "alexnet_bn_ir"),
        ("simplified_mousenet_dual_stream_visp_3x3_ir", "released", "dual_stream_ir"),
        ("dual_stream_ir", "random", "untrained dual stream"),
        ("dual_stream_ir", "mine.pt", "dual_stream_ir"),
        ("simplified_mousenet_single_stream", "random", "untrained single stream"),
        ("six_stream_simclr", "random", "untrained six stream"),
        # Without batch norm and with 1x1 edges: not the untrained network of the table.
        ("simplified_mousenet_six_stream", "random", None),
        ("alexnet_classifier", "random", None),
        ("vgg16_classifier", "random", None),
        ("pixels", "released", None),
    ],
)
def test_models_have_the_row_of_their_weights(model, weights, name):
    row = table2_row(find_model(model), weights)
    assert (None if row is None else row.name) == name


def test_tables_and_names_load_neither_torch_nor_numpy():
    code = (
        "import sys, mvkit, mvkit.models, mvkit.models.registry, mvkit.models.preprocessing; "
        "assert len(mvkit.list_models()) > 40; print({'torch', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_module_has_no_other_attributes():
    import mvkit.models

    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        mvkit.models.load_modle  # noqa: B018
