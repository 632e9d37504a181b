"""Recording layers: values, calls, parts, hooks, early ends."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from mvkit.errors import UsageError
from mvkit.features import extract, extract_to_file, read_features
from mvkit.features.hooks import record_calls
from mvkit.features.layers import LayerTap, layers_to_record, tap, tappable_layers
from mvkit.models import load_model
from mvkit.models.loading import build_for_training
from mvkit.models.names import requested_layers
from mvkit.models.registry import ARCHITECTURES


def hook_count(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_a_value_is_that_before_a_later_in_place_operation(chain, inputs):
    values = tap(chain, inputs, ["features.0", "features.1"])
    before = torch.nn.functional.conv2d(inputs, chain.features[0].weight, chain.features[0].bias)
    assert (before < 0).any()
    torch.testing.assert_close(values["features.0"], before.detach(), rtol=0, atol=0)
    torch.testing.assert_close(values["features.1"], before.detach().clamp(min=0), rtol=0, atol=0)


def test_an_in_place_change_outside_of_modules_does_not_leak(inputs):
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.copy = nn.Identity()

        def forward(self, images):
            hidden = self.copy(images.clone())
            hidden.mul_(2)
            return hidden.sum((1, 2, 3))

    values = tap(Doubling(), inputs, ["copy", "final"])
    torch.testing.assert_close(values["copy"], inputs, rtol=0, atol=0)
    torch.testing.assert_close(values["final"], 2 * inputs.sum((1, 2, 3)))


def test_all_layers_equal_those_of_separate_hand_written_hooks(chain, inputs):
    together = tap(chain, inputs, "*")
    assert list(together) == ["features", "features.0", "features.1", "features.2", "head", "final"]
    for name, path in tappable_layers(chain).items():
        seen: list[torch.Tensor] = []
        handle = chain.get_submodule(path).register_forward_hook(
            lambda module, arguments, output, seen=seen: seen.append(output.detach().clone())
        )
        chain(inputs)
        handle.remove()
        torch.testing.assert_close(together[name], seen[0], rtol=0, atol=0)


def test_all_layers_take_one_pass(chain, inputs):
    tap(chain, inputs, "*")
    assert chain.n_passes == 1


def test_the_users_own_hook_runs_before_the_value_is_taken(chain, inputs):
    chain.features[2].register_forward_hook(lambda module, arguments, output: output * 0 + 7)
    assert (tap(chain, inputs, "features.2")["features.2"] == 7).all()


def test_hooks_are_gone_after_success_an_early_end_and_an_error(chain, inputs):
    tap(chain, inputs, ["features.0", "head"])
    record_calls(chain, inputs, {"features.0": 1})
    assert hook_count(chain) == 0
    with pytest.raises(RuntimeError, match="channels"):
        tap(chain, inputs[:, :2], "head")
    assert hook_count(chain) == 0


def test_the_pass_ends_with_the_last_wanted_layer(prepared, inputs, module_calls):
    calls = module_calls(prepared)
    LayerTap(prepared, requested_layers(["conv", "VISp2/3"], prepared.tap_points()))(inputs)
    assert calls["features.2"] == 1
    assert calls["head"] == 0


def test_what_is_recorded_does_not_depend_on_the_early_end(prepared, inputs):
    short = tap(prepared, inputs, ["conv", "VISp2/3"])
    full = tap(prepared, inputs, ["conv", "VISp2/3", "final"])
    for name, value in short.items():
        torch.testing.assert_close(value, full[name], rtol=0, atol=0)


def test_an_unknown_network_runs_to_its_end_once_and_is_cut_short_from_then_on(chain, inputs, module_calls):
    calls = module_calls(chain)
    recorder = LayerTap(chain, requested_layers("features.0", tappable_layers(chain)))
    for _ in range(3):
        recorder(inputs)
    assert calls["features.0"] == 3
    assert calls["head"] == 1


def test_a_try_inside_forward_does_not_swallow_the_early_end(inputs):
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Identity(), nn.Identity()

        def forward(self, images):
            try:
                hidden = self.inner(images)
            except Exception:  # noqa: BLE001 - broad on purpose, as found in the wild
                hidden = images * 0
            return self.outer(hidden)

    ran: list[str] = []
    model = Careful()
    model.outer.register_forward_pre_hook(lambda module, arguments: ran.append("outer"))
    record_calls(model, inputs, {"inner": 1})
    assert ran == []


def test_a_layer_that_runs_twice_gives_each_call_by_index(branching):
    rows = torch.randn(4, 2, generator=torch.Generator().manual_seed(3))
    first = torch.relu(branching.first(rows)).detach()
    second = torch.relu(branching.second(-first)).detach()
    values = tap(branching, rows, "relu")
    assert list(values) == ["relu[0]", "relu[1]"]
    torch.testing.assert_close(values["relu[0]"], first, rtol=0, atol=0)
    torch.testing.assert_close(values["relu[1]"], second, rtol=0, atol=0)
    one = tap(branching, rows, "relu[1]")
    assert list(one) == ["relu[1]"]
    torch.testing.assert_close(one["relu[1]"], second, rtol=0, atol=0)


def test_joined_layers_may_have_calls_and_parts_of_outputs(branching, tmp_path):
    rows = torch.arange(8.0).reshape(4, 1, 1, 2)
    layers = ["both=relu[1]+pair:2", "names:mean"]
    features = extract(branching, rows, layers)
    single = extract(branching, rows, ["relu[1]", "pair:2", "names:mean"])
    assert list(features) == ["both", "names:mean"]
    np.testing.assert_array_equal(features["both"], np.hstack([single["relu[1]"], single["pair:2"]]))
    np.testing.assert_array_equal(features["names:mean"], single["names:mean"])
    assert features.shapes["both"] == (6,)
    extract_to_file(branching, rows, tmp_path / "features.h5", layers)
    np.testing.assert_array_equal(read_features(tmp_path / "features.h5")["both"], features["both"])
    with h5py.File(tmp_path / "features.h5") as file:
        assert list(file["layers/both"].attrs["parts"]) == ["relu[1]", "pair:2"]
    with pytest.raises(UsageError, match=r"relu gives several outputs; name one: relu\[0\], relu\[1\]"):
        extract(branching, rows, "both=relu+first")


def test_asking_for_the_first_call_ends_the_pass_there(branching, module_calls):
    calls = module_calls(branching)
    tap(branching, torch.ones(2, 2), "relu[0]")
    assert (calls["first"], calls["second"]) == (1, 0)


def test_tuples_and_dicts_give_their_parts_by_name(branching):
    rows = torch.randn(4, 2, generator=torch.Generator().manual_seed(3))
    values = tap(branching, rows, ["pair", "names", "final"])
    assert list(values) == ["pair:0", "pair:2", "names:mean", "names:inner:0", "final"]
    output = values["final"]
    torch.testing.assert_close(values["pair:0"], output + 1, rtol=0, atol=0)
    torch.testing.assert_close(values["pair:2"], output + 2, rtol=0, atol=0)
    torch.testing.assert_close(values["names:mean"], output.mean(1), rtol=0, atol=0)
    torch.testing.assert_close(values["names:inner:0"], output * 3, rtol=0, atol=0)
    assert list(tap(branching, rows, "names:mean")) == ["names:mean"]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("spare", "layer 'spare' exists but the forward pass never calls it"),
        ("word", "returns no tensor"),
        ("summed", "not one row for each of 4 image"),
        ("nothing", "is empty, of shape"),
        ("relu[2]", "runs 2 time"),
        ("names:median", "has no part 'median'; it returns mean, inner:0"),
        ("final:x", "has no part 'x'; it returns a single tensor"),
        ("banks", "unknown layer 'banks'"),
    ],
)
def test_a_layer_without_features_is_refused_with_the_reason(branching, pattern, reason):
    with pytest.raises(UsageError, match=reason.replace("[", "\\[")):
        tap(branching, torch.ones(4, 2), pattern)
    assert hook_count(branching) == 0


def test_layers_that_only_a_glob_brings_in_are_left_out_with_a_warning(branching, caplog):
    with caplog.at_level(logging.WARNING):
        values = tap(branching, torch.ones(4, 2), "s*")
    assert list(values) == ["second"]
    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["spare", "summed"]
    with pytest.raises(UsageError, match="anything to record"):
        tap(branching, torch.ones(4, 2), "sp*")


def test_a_network_that_changes_its_path_between_batches_is_refused():
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, rows):
            for _ in range(int(rows[0, 0])):
                rows = self.inner(rows)
            return rows

    model = Moody()
    recorder = LayerTap(model, requested_layers(["inner"], tappable_layers(model)))
    recorder(torch.full((2, 1), 3.0))
    with pytest.raises(UsageError, match="different paths"):
        recorder(torch.full((2, 1), 2.0))


def test_own_tap_points_are_used_and_others_get_paths_and_the_output(chain, prepared, branching):
    assert tappable_layers(prepared) == prepared.tap_points()
    assert tappable_layers(chain)["final"] == ""
    assert "banks" not in tappable_layers(branching)
    assert "banks.0" in tappable_layers(branching)


def test_values_share_no_memory_with_the_network(inputs):
    model = nn.Sequential(nn.Identity())
    value = tap(model, inputs, "0")["0"]
    value += 1
    assert not torch.equal(value, inputs)
    assert not value.requires_grad


def test_published_stands_for_the_published_list_and_none_for_the_default_one(prepared, pictures):
    # Of most models the two lists are one.
    assert prepared.layers == ("VISp2/3", "conv")
    assert [layer.name for layer in layers_to_record(prepared, "published")] == ["conv", "VISp2/3"]
    prepared.published_layers = ("relu", "VISp2/3")
    assert [layer.name for layer in layers_to_record(prepared, None)] == ["conv", "VISp2/3"]
    assert [layer.name for layer in layers_to_record(prepared, ["published"])] == ["relu", "VISp2/3"]
    assert [layer.name for layer in layers_to_record(prepared, ["fin*", "published"])] == [
        "relu",
        "VISp2/3",
        "final",
    ]
    published = extract(prepared, pictures, layers="published")
    named = extract(prepared, pictures, layers=["relu", "VISp2/3"])
    assert list(published) == list(named)
    for name in named:
        np.testing.assert_array_equal(published[name], named[name])


def test_published_layers_of_a_network_without_a_list_are_refused(chain, inputs):
    with pytest.raises(UsageError, match="has no published list of layers"):
        tap(chain, inputs, "published")


def test_the_reference_taps_vgg16_ir_off_its_pools():
    with torch.device("meta"):
        model = load_model("vgg16_encoder", weights="random")
        trained = build_for_training("vgg16_encoder", n_classes=None, seed=0)
    kinds = {
        layer.name: type(model.get_submodule(layer.name)).__name__
        for layer in layers_to_record(model, "published")
    }
    assert kinds == {
        "features.4": "BatchNorm2d",
        "features.9": "ReLU",
        "features.16": "ReLU",
        "features.23": "MaxPool2d",
        "features.30": "Conv2d",
        "classifier.1": "ReLU",
        "classifier.4": "ReLU",
    }
    assert layers_to_record(trained, "published") == layers_to_record(model, "published")
    default = [layer.name for layer in layers_to_record(model, None)]
    assert default == [
        "features.6",
        "features.13",
        "features.23",
        "features.33",
        "features.43",
        "classifier.1",
        "classifier.4",
    ]
    assert all(type(model.get_submodule(name)).__name__ == "MaxPool2d" for name in default[:5])
    others = [row.name for row in ARCHITECTURES.values() if row.published_layers]
    assert others == ["vgg16_ir_64x64"]
