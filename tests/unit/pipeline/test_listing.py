"""What there is to choose from equals what the models, recipes and files have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mvkit
from mvkit.errors import UsageError
from mvkit.models.loading import build
from mvkit.models.registry import ARCHITECTURES, BASELINES, RELEASED, SHORT_NAMES, find_model
from mvkit.neural import Recording, write_neural_file
from mvkit.neural.simulated import write_simulated
from mvkit.paths import checkpoint_path, neural_path
from mvkit.pipeline.listing import (
    PARAMETERS,
    describe_architecture,
    list_datasets,
    list_layers,
    list_models,
    list_recipes,
)
from mvkit.recipes import packaged_recipes


def test_every_name_is_listed_once() -> None:
    names = [row.name for row in list_models()]
    assert len(names) == len(set(names))
    assert set(names) == {*RELEASED, *SHORT_NAMES, *ARCHITECTURES, *BASELINES}
    assert set(mvkit.list_models()) <= set(names)


def test_rows_say_what_the_models_are(tmp_path: Path) -> None:
    checkpoint_path("alexnet_bn_ir", tmp_path).parent.mkdir(parents=True)
    checkpoint_path("alexnet_bn_ir", tmp_path).touch()
    rows = {row.name: row for row in list_models(home=tmp_path)}
    row = rows["alexnet_bn_ir"]
    assert (row.group, row.description) == ("released", "AlexNet, BN")
    assert (row.objective, row.input_px, row.n_layers) == ("instance recognition", 64, 7)
    assert (row.n_parameters, row.weights, row.checkpoint) == (57_022_528, "here", "alexnet_bn_ir")
    assert (rows["alexnet_encoder"].weights, rows["alexnet_encoder"].objective) == ("here", "")
    assert (rows["six_stream_simclr"].weights, rows["six_stream_simclr"].objective) == ("to fetch", "SimCLR")
    assert (rows["resnet18_encoder"].weights, rows["resnet18_encoder"].checkpoint) == ("none published", "")
    assert (rows["gabor"].weights, rows["gabor"].input_px, rows["gabor"].n_parameters) == (
        "none needed",
        64,
        0,
    )
    for name, row in rows.items():
        assert row.n_layers == len(find_model(name).architecture.layers)


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("alexnet_two_64x64", "first 2 layers of AlexNet, 1,000 classes"),
        ("alexnet_six_64x64", "first 6 layers of AlexNet, 1,000 classes"),
        ("vgg16_ir_64x64", "VGG16, BN"),
        ("convolutional_core", "3 convolutions, BN"),
        ("resnet101_64x64_input", "ResNet-101, 1,000 classes"),
        (
            "simplified_mousenet_six_stream_vispor_only_visp_3x3",
            "six streams, VISpor only, 1,000 classes",
        ),
        ("simplified_mousenet_dual_stream", "two streams, 1x1 edges, 1,000 classes"),
        ("simplified_mousenet_ae_single_stream", "one stream, autoencoder"),
        ("shi_mousenet_vispor5_ir", "MouseNet, VISpor5 only"),
        ("shi_mousenet_vispor5_pool_4", "MouseNet, VISpor5 only at 4 x 4, 1,000 classes"),
        ("shi_mousenet_lgnv_bn", "MouseNet, LGNv with BN and ReLU, 1,000 classes"),
    ],
)
def test_descriptions(name: str, description: str) -> None:
    assert describe_architecture(ARCHITECTURES[name]) == description


def test_numbers_of_parameters_are_those_of_the_networks() -> None:
    counted = {}
    for name, row in {**ARCHITECTURES, **BASELINES}.items():
        with torch.device("meta"):
            counted[name] = sum(parameter.numel() for parameter in build(row.blueprint).parameters())
    assert dict(PARAMETERS) == counted


def test_patterns_are_globs_or_parts_of_names() -> None:
    assert [row.name for row in list_models("ALEXNET_[ce]*")] == ["alexnet_encoder", "alexnet_classifier"]
    assert [row.name for row in list_models("hourglass")] == [
        "single_stream_hourglass",
        "dual_stream_hourglass",
        "six_stream_hourglass",
    ]
    with pytest.raises(UsageError, match=r"no model matches 'gabr'; did you mean 'gabor'\?\nall: mvkit list"):
        list_models("gabr")


def test_layers_need_no_checkpoint_and_are_those_of_the_model(tmp_path: Path) -> None:
    listing = list_layers("alexnet_bn_ir", home=tmp_path)
    model = mvkit.load_model("alexnet_bn_ir", weights="random")
    rows = {row.name: row for row in listing.layers}
    assert list(rows) == list(model.tap_points())
    assert tuple(name for name, row in rows.items() if row.is_default) == model.layers
    # Widths of this network at 64 px: goldens README, section 2.
    widths = [3136, 1728, 3456, 2304, 256, 4096, 4096]
    assert [row.n_features for row in listing.layers if row.is_published] == widths
    document = listing.to_json()
    assert (document["model"], document["description"]) == ("alexnet_bn_ir", "images at 64 px")
    layer = next(row for row in document["layers"] if row["name"] == "features.3")
    assert (layer["shape"], layer["bytes_per_image"]) == ([64, 7, 7], 3136 * 4)
    assert listing.left_out == {}
    assert listing.joined == {}


def test_joined_layers_of_mousenet_are_listed(tmp_path: Path) -> None:
    document = list_layers("shi_mousenet", ["LGNv"], home=tmp_path).to_json()
    areas = ["VISp", "VISal", "VISpl", "VISli", "VISrl", "VISl", "VISpor"]
    # The reference's MODEL_LAYER_CONCATS, scheme "1", where LGNv stands for itself.
    assert document["joined"] == {area: [f"{area}4", f"{area}2/3", f"{area}5"] for area in areas}


def test_layers_of_other_kinds_of_models(tmp_path: Path) -> None:
    assert [row.name for row in list_layers("pixels").layers if row.is_default] == ["pixels"]
    published = {row.name for row in list_layers("vgg16_encoder").layers if row.is_published}
    assert published == {f"features.{n}" for n in (4, 9, 16, 23, 30)} | {"classifier.1", "classifier.4"}
    larger = list_layers("alexnet_encoder", ["features.3"], input_size=104)
    assert [row.shape for row in larger.layers] == [(64, 12, 12)]
    resnet = list_layers("torchvision:resnet18", ["layer1.*", "fc"])
    assert {row.name: row.shape for row in resnet.layers}["fc"] == (1000,)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Conv2d(3, 2, 4, 4), nn.ReLU())\n"
    )
    own = list_layers(f"{tmp_path / 'nets.py'}:make", input_size=8)
    assert {row.name: row.shape for row in own.layers}["1"] == (2, 2, 2)
    with pytest.raises(UsageError, match="did you mean 'gabor'"):
        list_layers("gabr")


def test_every_recipe_is_listed_with_a_line_that_fits() -> None:
    rows = list_recipes()
    assert {Path(row.path) for row in rows} == set(packaged_recipes().values())
    named = {(row.command, row.name): row for row in rows}
    assert len(named) == len(rows)
    row = named["mvkit train", "dual_stream_simclr"]
    assert (row.description, row.in_table2) == ("Dual stream, SimCLR", True)
    assert not named["mvkit train", "demo"].in_table2
    assert {name for command, name in named if command == "mvkit score --recipe"} >= {
        "paper",
        "honest",
        "quick",
    }
    assert {name for command, name in named if command == "mvkit prep"} >= {"imagenet_64", "cifar10"}
    for row in rows:
        assert 10 < len(row.description) <= 84, row
        assert "mvkit" not in row.description and not row.description.endswith("."), row
    assert sum(row.in_table2 for row in rows) == 48
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        list_recipes("quik")


def test_datasets_are_counted_where_they_are_here(tmp_path: Path) -> None:
    rows = {row.name: row for row in list_datasets(home=tmp_path)}
    assert list(rows) == ["neuropixels", "calcium", "simulated"]
    fetchable = rows["neuropixels"]
    assert (fetchable.is_here, fetchable.n_units, fetchable.n_bytes) == (False, None, 9_800_000_000)
    assert fetchable.command == "mvkit fetch neural --dataset neuropixels"

    target = neural_path("calcium", tmp_path)
    target.parent.mkdir(parents=True)
    recordings = [
        Recording(
            area=area, specimen=specimen, unit_ids=[10 * specimen, 10 * specimen + 1], responses=responses
        )
        for area, specimen, responses in (
            ("VISl", 1, torch.rand(3, 4, 2).numpy()),
            ("VISp", 1, torch.rand(3, 4, 2).numpy()),
            ("VISp", 2, torch.rand(3, 4, 2).numpy()),
        )
    ]
    import numpy as np

    write_neural_file(target, recordings, stimuli=np.zeros((4, 8, 8), np.uint8), units_of_measure="dF/F")
    (row,) = list_datasets("calc", home=tmp_path)
    assert (row.is_here, row.areas, row.n_units, row.n_animals) == (True, ("VISp", "VISl"), 6, 2)
    assert (row.n_bytes, row.path) == (target.stat().st_size, str(target))

    write_simulated(neural_path("simulated", tmp_path))
    (here,) = list_datasets("simulated", home=tmp_path)
    without = rows["simulated"]
    assert (here.areas, here.n_units, here.n_animals) == (without.areas, without.n_units, without.n_animals)
    assert here.n_bytes <= without.n_bytes
