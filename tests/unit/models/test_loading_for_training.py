"""Networks at the start of training, and the short names under which recipes know them."""

from __future__ import annotations

import pytest
import torch

from mvkit.errors import CheckpointError, UsageError
from mvkit.models.loading import build, build_for_training
from mvkit.models.registry import (
    ARCHITECTURES,
    BASELINES,
    RELEASED,
    SHORT_NAMES,
    ConnectomeNet,
    MirrorNet,
    PlainNet,
    StreamNet,
    find_model,
    has_readout,
    with_classes,
)

#: Short name, images, width of the output with 7 classes: sums over the maps' sizes in the goldens' README.
WIDTHS = [
    ("single_stream_classifier", 7),
    ("single_stream_encoder", 256 * 6 * 6),
    ("dual_stream_encoder", 2 * 256 * 6 * 6),
    ("alexnet_classifier", 7),
    ("alexnet_encoder", 4096),
    ("resnet18_classifier", 7),
    ("resnet18_encoder", 512),
    ("shi_mousenet_vispor5_classifier", 7),
    ("shi_mousenet_vispor5_encoder", 28 * 32 * 32),
]


def test_short_names_stand_for_rows_and_hide_no_other_name():
    assert set(SHORT_NAMES.values()) <= set(ARCHITECTURES)
    assert not set(SHORT_NAMES) & {*ARCHITECTURES, *RELEASED, *BASELINES}
    for short, long in SHORT_NAMES.items():
        row = find_model(short)
        assert (row.name, row.architecture) == (short, ARCHITECTURES[long])


@pytest.mark.parametrize("short", SHORT_NAMES)
def test_last_word_of_a_short_name_says_how_the_network_ends(short):
    blueprint = find_model(short).architecture.blueprint
    ending = short.rsplit("_", 1)[1]
    assert has_readout(blueprint) == (ending == "classifier")
    assert isinstance(blueprint, MirrorNet) == (ending in ("autoencoder", "hourglass"))
    if isinstance(blueprint, MirrorNet):
        assert blueprint.hidden == (128 if ending == "autoencoder" else None)


def test_variants_are_those_of_table_2():
    """Batch norm and edges of the variants that the reference fitted to neural data."""
    for short in SHORT_NAMES:
        net = find_model(short).architecture.blueprint
        if isinstance(net, MirrorNet):
            net = net.encoder
        if isinstance(net, StreamNet):
            assert (net.norm, net.skip, net.read_from) == (True, "3x3", net.outputs), short
        elif isinstance(net, PlainNet):
            assert net.norm_features == short.endswith("_encoder"), short


@pytest.mark.parametrize(("name", "width"), WIDTHS)
def test_width_of_the_output(name, width):
    model = build_for_training(name, n_classes=7, seed=0)
    assert model.training
    assert model.name == name
    assert model.weights_id == "random:seed=0"
    assert model.layers == find_model(name).architecture.layers
    assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, width)


@pytest.mark.parametrize("name", [short for short in SHORT_NAMES if short.endswith("_classifier")])
def test_only_the_readout_changes_with_the_number_of_classes(name):
    row = find_model(name).architecture
    with torch.device("meta"):
        published = build(row.blueprint).state_dict()
        resized = build(with_classes(row, 7).blueprint).state_dict()
    assert list(resized) == list(published)
    changed = {key for key in published if published[key].shape != resized[key].shape}
    assert len(changed) == 2
    for key in changed:
        assert published[key].shape == (1000, *published[key].shape[1:])
        assert resized[key].shape == (7, *published[key].shape[1:])


def test_headless_networks_and_none_stay_as_they_are():
    encoder, classifier = (
        find_model(name).architecture for name in ("dual_stream_encoder", "vgg16_classifier")
    )
    assert with_classes(encoder, 7) == encoder
    assert with_classes(classifier, None) == classifier
    with pytest.raises(UsageError, match="at least 1 class, got 0"):
        with_classes(classifier, 0)


def test_weights_follow_from_the_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = build_for_training("single_stream_encoder", n_classes=None, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again = build_for_training("single_stream_encoder", n_classes=10, seed=3).state_dict()
    other = build_for_training("single_stream_encoder", n_classes=None, seed=4).state_dict()
    key = "model_layers.input_VISp.0.weight"
    assert all(torch.equal(again[each], value) for each, value in first.items())
    assert not torch.equal(other[key], first[key])


def test_masks_of_mousenet_follow_from_the_seed():
    nets = [build_for_training("shi_mousenet_encoder", n_classes=None, seed=seed) for seed in (1, 1, 2)]
    masks = [net.get_parameter("Convs.input_LGNv.mask") for net in nets]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not masks[0].requires_grad


def test_trained_weights_to_go_on_from(tmp_path):
    net = build_for_training("single_stream_encoder", n_classes=None, seed=1)
    path = tmp_path / "weights.pt"
    torch.save({"model": net.state_dict()}, path)
    found = build_for_training("single_stream_encoder", n_classes=None, seed=2, weights=path)
    assert found.training
    assert all(torch.equal(found.state_dict()[key], value) for key, value in net.state_dict().items())
    with pytest.raises(CheckpointError, match="run: mvkit fetch checkpoints dual_stream_ir"):
        build_for_training("dual_stream_encoder", n_classes=None, seed=0, weights="released", home=tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        build_for_training("dual_stream_encoder", n_classes=None, seed=0, weights=tmp_path / "none.pt")


def test_trained_readout_keeps_its_number_of_classes(tmp_path):
    net = build_for_training("single_stream_classifier", n_classes=7, seed=1)
    path = tmp_path / "weights.pt"
    torch.save({"model": net.state_dict()}, path)
    found = build_for_training("single_stream_classifier", n_classes=7, seed=2, weights=path)
    assert all(torch.equal(found.state_dict()[key], value) for key, value in net.state_dict().items())
    with pytest.raises(CheckpointError, match="of another shape"):
        build_for_training("single_stream_classifier", n_classes=8, seed=2, weights=path)


def test_what_cannot_be_trained():
    with pytest.raises(UsageError, match="'gabor' has no weights to train"):
        build_for_training("gabor", n_classes=None, seed=0)
    with pytest.raises(UsageError, match="did you mean 'dual_stream_encoder'"):
        build_for_training("dual_stream_encodr", n_classes=None, seed=0)


def test_readout_of_mousenet_from_vispor5_sees_the_whole_map():
    blueprint = find_model("shi_mousenet_vispor5").architecture.blueprint
    assert blueprint == ConnectomeNet(("VISpor5",), None, 1000)


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("single_stream_hourglass", "single_stream_encoder"),
        ("dual_stream_autoencoder", "dual_stream_classifier"),
    ],
)
def test_a_mirror_network_starts_from_a_trained_encoder(architecture, encoder, tmp_path):
    trained = build_for_training(encoder, n_classes=3, seed=5)
    with torch.no_grad():
        # Statistics of batch norms are part of the start too.
        trained.train()(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    path = tmp_path / "encoder.pt"
    torch.save(trained.state_dict(), path)
    options = {"n_classes": 3, "seed": 0}
    start = build_for_training(architecture, weights=path, encoder=encoder, **options)
    fresh = build_for_training(architecture, **options).state_dict()
    expected = {
        name: value for name, value in trained.state_dict().items() if not name.startswith("classifier.")
    }
    assert set(expected) < set(fresh)
    for name, value in start.state_dict().items():
        assert torch.equal(value, expected.get(name, fresh[name])), name
    assert any(not torch.equal(fresh[name], value) for name, value in expected.items())
    # The encoder half computes what the encoder does.
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded = start.eval()(images)["encoder_output"]
        headless = trained.eval()
        if hasattr(headless, "classifier"):
            headless.classifier = torch.nn.Flatten()
        torch.testing.assert_close(encoded, headless(images).flatten(1))


@pytest.mark.parametrize(
    ("architecture", "encoder", "words"),
    [
        (
            "dual_stream_hourglass",
            "single_stream_encoder",
            "these are: dual_stream_ir, dual_stream_encoder, ",
        ),
        ("dual_stream_hourglass", "alexnet_bn_ir", "is not the encoder of 'dual_stream_hourglass'"),
        ("dual_stream_encoder", "dual_stream_ir", "is no autoencoder or depth network"),
        ("dual_stream_hourglass", "dual_stream_irr", "did you mean 'dual_stream_ir'"),
    ],
)
def test_an_encoder_of_another_network_is_refused(architecture, encoder, words):
    with pytest.raises(UsageError, match=words):
        build_for_training(architecture, n_classes=None, seed=0, encoder=encoder)
