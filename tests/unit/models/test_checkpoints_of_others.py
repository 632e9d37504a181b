"""Checkpoints as other programs write them: weights beside objects, under many names, without the head."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import json
import logging
import operator
import os
import pickle
import pickletools
import random
import re
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mvkit
from mvkit.errors import CheckpointError, UsageError
from mvkit.features import extract, list_layers
from mvkit.models.checkpoints import find_weights, fit_state, read_checkpoint
from mvkit.models.exporting import export_weights
from mvkit.models.loading import build_for_training
from mvkit.models.names import split_key

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)


class Small(nn.Module):
    """What tiny.py makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))


SOURCE = """
import torch
from torch import nn
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3); self.bn = nn.BatchNorm2d(4); self.fc = nn.Linear(4, 2)
    def forward(self, x): return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))
class Headless(Small):
    def __init__(self):
        super().__init__(); self.fc = nn.Identity()
class Sneaky(Small):
    def forward(self, x):
        return nn.functional.linear(self.bn(self.conv(x)).mean((2, 3)), self.fc.weight)
class Masked(nn.Module):
    def __init__(self):
        super().__init__(); self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
        self.register_buffer("scale", torch.ones(2))
    def forward(self, x): return self.conv(x)
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    """Name of a network of the user's."""
    (tmp_path / "tiny.py").write_text(SOURCE)
    return f"{tmp_path / 'tiny.py'}:Small"


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(Small().state_dict())


def prefixed(prefix: str, seed: int = 0) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state(seed).items()}


def holds(path: Path | str, net: str, seed: int = 0) -> bool:
    """Tell whether a file gives a network the weights of a seed."""
    network = mvkit.load_model(net, weights=path).get_submodule("network")
    return all(torch.equal(value, state(seed)[key]) for key, value in network.state_dict().items())


class Kind(enum.Enum):
    BIG = 1


class AttributeDict(dict):  # type: ignore[type-arg]
    """As Lightning's."""


class Config:
    """As an experiment's own."""

    def __init__(self) -> None:
        self.lr, self.tags = 0.1, {"a", "b"}


class Callback:
    """With a state of its own, and slots."""

    __slots__ = ("best", "path")

    def __init__(self) -> None:
        self.best, self.path = 1.0, Path("x")


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, data=Path("/data")),
    "attributes": AttributeDict(lr=0.1),
    "config": Config(),
    "slots": Callback(),
    "path": Path("/x"),
    "date": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "delta": datetime.timedelta(1),
    "defaultdict": collections.defaultdict(list, {"loss": [1.0]}),
    "nested": collections.defaultdict(dict, {3: collections.Counter("aab")}),
    "deque": collections.deque([1, 2]),
    "version": torch.__version__,
    "enum": {Kind.BIG: Kind.BIG, (1, 2): 3},
    "numpy": [np.arange(3), np.float64(1), np.random.RandomState(0).get_state()],
    "torch": [torch.float16, torch.device("cuda:0"), torch.Size([1]), torch.get_rng_state(), torch.strided],
    "random": random.getstate(),
    "function": os.path.join,
    "class": collections.OrderedDict,
    "pattern": re.compile("a+"),
    "bytes": [b"a", bytearray(b"b"), frozenset({1}), 1j, range(3), slice(1)],
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"betas": (0.9, 0.99)}]},
    "parameter": nn.Parameter(torch.zeros(1)),
    "scheduler": torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), abs),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_objects_beside_the_weights_are_passed_over(
    net: str, tmp_path: Path, protocol: int, is_zip: bool
) -> None:
    contents = {"config": BESIDE, "state_dict": state(), **BESIDE}
    torch.save(contents, tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    assert holds(tmp_path / "a.pth", net)


def test_classes_that_are_not_installed_are_passed_over(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = types.ModuleType("absent_lightning")
    absent.AttributeDict = type("AttributeDict", (dict,), {"__module__": absent.__name__})  # type: ignore[attr-defined]
    with monkeypatch.context() as context:
        context.setitem(sys.modules, absent.__name__, absent)
        torch.save({"state_dict": state(), "h": absent.AttributeDict(lr=1)}, tmp_path / "a.pth")
    assert holds(tmp_path / "a.pth", net)


@pytest.mark.parametrize(
    "contents",
    [
        {"net": state(), "acc": 93.2, "epoch": 12, "args": Config()},
        {"net": prefixed("module.")},
        {"model": state(), "args": argparse.Namespace(), "scaler": {"scale": 65536.0}},
        {"state_dict": prefixed("model.")},
        {"state_dict": prefixed("net.")},
        {"state_dict": prefixed("encoder.")},
        {"state_dict": prefixed("backbone.")},
        {"state_dict": {**prefixed("module.encoder_q."), **prefixed("module.encoder_k.", 1)}},
        {"model": {"state_dict": state(), "epoch": 1}},
        {"somewhere": {"deep": {"inside": state()}}, "optimizer": {"a": {"b": torch.ones(3)}}},
        {"meta": {"time": "today", "env": datetime.date(2024, 1, 2)}, "state_dict": state()},
        {"cfg": Config(), "model": state(), "last_optimizer_state": {"m": state()}},
        prefixed("_orig_mod."),
        prefixed("_fsdp_wrapped_module."),
        {"n_averaged": torch.tensor(3), **prefixed("module.")},
        {"model_state_dict": state(), "rng": torch.get_rng_state()},
        {0: "a number", "weights": state()},
        argparse.Namespace(model=state()),
    ],
)
def test_weights_are_found_where_others_put_them(net: str, tmp_path: Path, contents: object) -> None:
    torch.save(contents, tmp_path / "a.pth")
    assert holds(tmp_path / "a.pth", net)


@pytest.mark.parametrize(
    ("contents", "taken", "other"),
    [
        ({"state_dict_ema": state(1), "state_dict": state()}, "state_dict", "state_dict_ema"),
        (
            {"student": prefixed("module.backbone.", 1), "teacher": prefixed("backbone.")},
            "teacher",
            "student",
        ),
        ({"model": state(), "ema": Config(), "model_ema": state(1)}, "model", "model_ema"),
    ],
)
def test_of_two_sets_of_weights_the_log_tells_which_was_taken(
    net: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, contents: Any, taken: str, other: str
) -> None:
    path = tmp_path / "a.pth"
    torch.save(contents, path)
    assert holds(path, net)
    assert f"took the weights under '{taken}'; others: weights=\"{path}:{other}\" (9 tensors)" in caplog.text
    assert holds(f"{path}:{other}", net, 1)
    assert holds(Path(f"{path}:{other}"), net, 1)
    assert holds(f"{path}:{taken}", net)


def test_a_key_may_be_a_prefix_of_names(net: str, tmp_path: Path) -> None:
    contents = {"state_dict": {**prefixed("online."), **prefixed("target.net.", 1)}}
    path = tmp_path / "byol.pth"
    torch.save(contents, path)
    assert holds(f"{path}:state_dict.target", net, 1)
    assert holds(f"{path}:state_dict.target.net", net, 1)
    with pytest.raises(CheckpointError) as caught:
        mvkit.load_model(net, weights=f"{path}:state_dct")
    assert f"{path}: no weights under 'state_dct'; did you mean 'state_dict'?\n" in str(caught.value)
    assert f'weights="{path}:state_dict" (18 tensors)' in str(caught.value)


def test_several_sets_of_weights_under_unknown_names_have_to_be_named(net: str, tmp_path: Path) -> None:
    path = tmp_path / "two.pth"
    torch.save({f"fold{index}": {"params_of": state(index)} for index in range(20)}, path)
    with pytest.raises(CheckpointError) as caught:
        mvkit.load_model(net, weights=path)
    first, second = str(caught.value).splitlines()
    assert first == f"{path}: holds 20 sets of weights; name one"
    assert second.startswith(
        f'weights="{path}:fold0.params_of" (9 tensors), weights="{path}:fold1.params_of"'
    )
    assert second.endswith(", ... (8 more)")
    assert holds(f"{path}:fold7.params_of", net, 7)
    assert holds(f"{path}:fold7", net, 7)


def test_files_with_a_colon_in_their_name_win(net: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth:teacher"
    torch.save(state(3), path)
    torch.save({"teacher": state(1)}, tmp_path / "a.pth")
    assert holds(path, net, 3)
    assert holds(f"{path}:conv", net) is False if path.is_dir() else split_key(path) == (path, None)
    assert split_key(f"{tmp_path}/none.pth:a.b") == (tmp_path / "none.pth", "a.b")
    assert split_key("C:weights") == (Path("C:weights"), None)
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        mvkit.load_model(net, weights=tmp_path / "none.pth:a")


def test_own_networks_take_a_key_too(tmp_path: Path) -> None:
    name, path = "dual_stream_encoder", tmp_path / "a.pth"
    models = [mvkit.load_model(name, weights="random", seed=seed) for seed in (0, 1)]
    torch.save({"student": models[0].state_dict(), "teacher": models[1].state_dict(), "c": Config()}, path)
    loaded = [mvkit.load_model(name, weights=f"{path}:{key}") for key in ("student", "teacher")]
    for model, expected in zip(loaded, models, strict=True):
        assert all(
            torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items()
        )
    assert loaded[0].weights_id != loaded[1].weights_id
    assert loaded[0].provenance.source == "file a.pth:student"


@pytest.mark.parametrize("is_zip", [True, False])
def test_whole_pickled_networks_are_read_without_their_class(net: str, tmp_path: Path, is_zip: bool) -> None:
    network = Small()
    network.load_state_dict(state())
    network.register_buffer("unsaved", torch.ones(1), persistent=False)
    path = tmp_path / "whole.pth"
    torch.save(network, path, _use_new_zipfile_serialization=is_zip)
    assert holds(path, net)
    torch.save({"epoch": 3, "model": nn.DataParallel(network), "ema": None}, path)
    assert holds(path, net)


def test_pickled_networks_that_contain_themselves_end(tmp_path: Path) -> None:
    network = Small()
    network.load_state_dict(state())
    network._modules["again"] = network
    path = tmp_path / "loop.pth"
    torch.save({"net": network}, path)
    assert set(state()) <= set(find_weights(read_checkpoint(path), path))
    network._parameters["_buffers"] = network
    vars(network)["_buffers"] = network
    torch.save({"net": network}, path)
    assert "conv.weight" in find_weights(read_checkpoint(path), path)


class Payload:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",), {"state": self.trace}, iter([1]), iter([("a", 1)])


class CallOfCall:
    """Pickles as a call of what a call returned."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return operator.methodcaller("touch"), (self.trace,)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("payload", [Payload, CallOfCall])
@pytest.mark.parametrize("place", ["top", "list", "key", "weights"])
def test_nothing_that_a_file_names_is_run(
    tmp_path: Path, is_zip: bool, payload: type, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "a.pth"
    bad: Any = payload(trace)
    monkeypatch.setattr(payload, "__hash__", lambda one: 1)
    contents = {"top": bad, "list": [[bad]], "key": {bad: bad}, "weights": {**state(), "bad": bad}}[place]
    torch.save(contents, path, _use_new_zipfile_serialization=is_zip)
    if place == "weights":
        assert find_weights(read_checkpoint(path), path).keys() == state().keys()
    else:
        with pytest.raises(CheckpointError, match=r"no weights inside(.|\n)*torch\.save\(model\.state_dict"):
            find_weights(read_checkpoint(path), path)
    assert not trace.exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_views_and_shared_storages_keep_their_values(tmp_path: Path, is_zip: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    contents = {
        "w": {"a": base[1:3, ::2], "b": base.T, "c": base, "d": nn.Parameter(base[0]), "e": base.half()},
        "x": Config(),
    }
    torch.save(contents, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    found = find_weights(read_checkpoint(tmp_path / "a.pth"), tmp_path / "a.pth")
    assert all(torch.equal(found[key], value) for key, value in contents["w"].items())  # type: ignore[attr-defined]
    assert found["e"].dtype == torch.float16


def _rewrite(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(name, change(name, data))


def test_storages_shorter_than_their_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(100), "x": Config()}, path)
    _rewrite(path, lambda name, data: data.replace(b"Kd", b"M\xff\x7f") if name.endswith(".pkl") else data)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_truncated_and_damaged_files_with_objects_are_refused(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": state(), **BESIDE}, path, _use_new_zipfile_serialization=is_zip)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    generator = np.random.default_rng(0)
    for kept in (10, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:kept].tobytes())
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    for _ in range(60):
        damaged = data.copy()
        damaged[generator.integers(0, len(data), 10)] = generator.integers(0, 256, 10)
        path.write_bytes(damaged.tobytes())
        try:
            find_weights(read_checkpoint(path), path)
        except CheckpointError as error:
            assert str(path) in str(error)


def test_a_head_that_is_not_there_is_needed_by_no_layer_before_it(
    net: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full, path = tmp_path / "full.pth", tmp_path / "headless.pth"
    torch.save(state(), full)
    torch.save({key: value for key, value in state().items() if "fc" not in key}, path)
    model, whole = mvkit.load_model(net, weights=path), mvkit.load_model(net, weights=full)
    assert "headless.pth: without 2 weights: fc.weight, fc.bias for tiny.py:Small" in caplog.text
    assert np.array_equal(
        extract(model, IMAGES, layers="bn")["bn"], extract(whole, IMAGES, layers="bn")["bn"]
    )
    for layer in ("fc", "final"):
        with pytest.raises(UsageError) as caught:
            extract(model, IMAGES, layers=["conv", layer])
        assert str(caught.value) == (
            f"layer '{layer}' cannot be recorded: it needs weights, and {path} lacks fc.weight, fc.bias\n"
            "name layers before these, or give a file that has them"
        )
    with caplog.at_level(logging.WARNING):
        assert list(extract(model, IMAGES, layers="*")) == ["conv", "bn"]
    assert "left out: layer 'final' cannot be recorded" in caplog.text
    assert [layer.name for layer in list_layers(model)] == ["conv", "bn"]
    with pytest.raises(CheckpointError, match=r"forward pass needs weights .* lacks fc\.weight"):
        model(torch.zeros(1, 3, 32, 32))
    with pytest.raises(CheckpointError, match=r"cannot be exported: .* lacks fc\.weight"):
        export_weights(model, tmp_path / "out.safetensors")


def test_a_head_of_other_classes_counts_as_none(
    net: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ten.pth"
    torch.save({**state(), "fc.weight": torch.ones(10, 4), "fc.bias": torch.ones(10)}, path)
    model = mvkit.load_model(net, weights=path)
    assert "fc.weight (10, 4) instead of (2, 4)" in caplog.text
    assert list(extract(model, IMAGES, layers="bn")) == ["bn"]
    with pytest.raises(UsageError, match="layer 'final' cannot be recorded"):
        extract(model, IMAGES, layers="final")


def test_projection_heads_in_place_of_the_head_count_as_none(net: str, tmp_path: Path) -> None:
    moco = {key: value for key, value in prefixed("module.encoder_q.").items() if ".fc." not in key}
    moco |= {f"module.encoder_q.fc.{key}": torch.ones(4, 4) for key in ("0.weight", "2.weight")}
    torch.save({"state_dict": moco, "arch": "tiny"}, tmp_path / "moco.pth")
    assert list(extract(mvkit.load_model(net, weights=tmp_path / "moco.pth"), IMAGES, layers="bn")) == ["bn"]


def test_weights_used_without_running_their_module_are_nan(net: str, tmp_path: Path) -> None:
    path = tmp_path / "headless.pth"
    torch.save({key: value for key, value in state().items() if "fc" not in key}, path)
    model = mvkit.load_model(net.replace("Small", "Sneaky"), weights=path)
    assert np.isnan(extract(model, IMAGES, layers="final")["final"]).all()


def test_heads_that_the_network_has_not_are_left_aside(
    net: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(state(), tmp_path / "full.pth")
    model = mvkit.load_model(net.replace("Small", "Headless"), weights=tmp_path / "full.pth")
    assert extract(model, IMAGES, layers="final")["final"].shape == (2, 4)
    assert "left aside fc.weight, fc.bias, which the network has not" in caplog.text


@pytest.mark.parametrize("lost", ["conv.weight", "bn.weight"])
def test_other_weights_must_be_there(net: str, tmp_path: Path, lost: str) -> None:
    torch.save({key: value for key, value in state().items() if key != lost}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"1 missing: {re.escape(lost)}"):
        mvkit.load_model(net, weights=tmp_path / "a.pth")


def test_buffers_that_are_not_finite_by_design_are_taken(net: str, tmp_path: Path) -> None:
    name, path = net.replace("Small", "Masked"), tmp_path / "a.pth"
    own = mvkit.load_model(name).get_submodule("network").state_dict()
    torch.save({**own, "scale": torch.full((2,), 3.0)}, path)
    loaded = mvkit.load_model(name, weights=path).get_submodule("network").state_dict()
    assert loaded["mask"].isinf().sum() == 3
    assert loaded["scale"].tolist() == [3, 3]
    for key, values in (
        ("mask", torch.full((3, 3), -torch.inf)),
        ("mask", -own["mask"]),
        ("scale", torch.tensor([1, torch.nan])),
        ("conv.bias", torch.full((4,), torch.inf)),
    ):
        torch.save({**own, key: values}, path)
        with pytest.raises(CheckpointError, match=f"'{key}' holds values that are not finite"):
            mvkit.load_model(name, weights=path)


def test_parameters_must_be_finite_whatever_the_network_holds() -> None:
    broken = {"w": nn.Parameter(torch.tensor([torch.nan]))}
    with pytest.raises(CheckpointError, match="'w' holds values that are not finite"):
        fit_state({"w": torch.tensor([torch.nan])}, broken, Path("a.pth"), "net")


def test_one_weight_under_two_names_must_have_one_value(net: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({**state(), **prefixed("module.")}, path)
    assert holds(path, net)
    torch.save({**state(), **prefixed("module.", 1)}, path)
    with pytest.raises(CheckpointError, match=r"other values for 'conv.weight' than for 'module.conv"):
        mvkit.load_model(net, weights=path)
    assert holds(f"{path}:module", net, 1)


def _files() -> Iterator[tuple[str, bytes, str]]:
    def archive(*names: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name in names:
                file.writestr(name, b"x")
        return buffer.getvalue()

    arrays, tape = io.BytesIO(), io.BytesIO()
    np.savez(arrays, a=np.zeros(2))
    with tarfile.open(fileobj=tape, mode="w") as file:
        file.addfile(tarfile.TarInfo("storages"))
    yield "a.npz", arrays.getvalue(), r"a NumPy archive \(.npz\).*\n.*torch.save\(model.state_dict\(\)"
    yield "a.pth", tape.getvalue(), "a tar archive"
    yield "a.pth", archive("a/data.pkl", "a/constants.pkl"), r"a TorchScript archive.*\n.*torch\.jit\.load"
    yield "a.pt2", archive("x/archive_format", "x/version"), r"a program of torch\.export"
    yield "a.keras", archive("config.json", "model.weights.h5"), "a model of Keras"
    yield "a.zip", archive("readme", "run/best.pth"), r"a zip archive.*\n.*run/best\.pth"
    yield "a.onnx", b"\x08\x07\x12\x07pytorch", "a network of ONNX"
    yield "model.ckpt.data-00000-of-00001", b"\x01" * 99, "a checkpoint of TensorFlow"
    yield "saved_model.pb", b"\x08\x01" * 9, "a checkpoint of TensorFlow"
    yield "a.pth", b"<!DOCTYPE html><title>Sign in</title>", "an HTML or XML page"
    for protocol in (2, 5):
        yield "a.pkl", pickle.dumps({"w": np.zeros(3)}, protocol), "a pickle that torch.save did not write"
    yield "a.pth", b"/annex/objects/MD5E-s9--0.pth\n", "a pointer of git-annex.*\n.*datalad get"


@pytest.mark.parametrize(("name", "content", "words"), list(_files()), ids=[name for name, *_ in _files()])
def test_other_files_are_named_with_what_to_do(
    net: str, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        mvkit.load_model(net, weights=tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("name", [None, "alexnet_bn_ir", "torchvision:alexnet"])
def test_links_to_nothing_are_named(net: str, tmp_path: Path, name: str | None) -> None:
    (tmp_path / "gone.pth").symlink_to(".git/annex/objects/K/K.pth")
    with pytest.raises(CheckpointError, match=r"gone.pth: a link to nothing .*; run datalad get"):
        mvkit.load_model(name or net, weights=tmp_path / "gone.pth")


def test_a_folder_lists_its_files(net: str, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"is a folder; give one of its files: pytorch_model\.bin"):
        mvkit.load_model(net, weights=tmp_path)
    assert holds(tmp_path / "pytorch_model.bin", net)


def test_files_in_shards_are_put_together(net: str, tmp_path: Path) -> None:
    keys = list(state())
    for index, part in enumerate((keys[:4], keys[4:])):
        save_file({key: state()[key] for key in part}, tmp_path / f"part{index}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {key: f"part{keys.index(key) // 4 > 0:d}.safetensors" for key in keys}})
    )
    assert holds(index, net)
    index.write_text(json.dumps({"weight_map": {"a": "../part0.safetensors"}}))
    with pytest.raises(CheckpointError, match="files outside its folder"):
        mvkit.load_model(net, weights=index)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.to(torch.complex64), "is torch.complex64"),
        (lambda value: value.to("meta"), "has no values"),
        (lambda value: (value * 10).to(torch.int8), "is torch.int8"),
    ],
)
def test_other_kinds_of_tensors_are_named(
    net: str, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    torch.save({**state(), "conv.weight": change(state()["conv.weight"])}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"'conv.weight' {words}"):
        mvkit.load_model(net, weights=tmp_path / "a.pth")


def test_sparse_weights_are_made_dense(net: str, tmp_path: Path) -> None:
    torch.save({**state(), "fc.weight": state()["fc.weight"].to_sparse()}, tmp_path / "a.pth")
    assert holds(tmp_path / "a.pth", net)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_other_precisions_beside_objects_are_converted(net: str, tmp_path: Path, dtype: torch.dtype) -> None:
    converted = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in state().items()
    }
    torch.save({"state_dict": converted, "args": Config()}, tmp_path / "a.pth")
    network = mvkit.load_model(net, weights=tmp_path / "a.pth").get_submodule("network")
    assert torch.equal(network.state_dict()["conv.weight"], converted["conv.weight"].float())


def _rewrite_texts(data: bytes, write: Callable[[str], bytes]) -> bytes:
    """Write the texts of a pickle in another form."""
    pieces, operations = [], list(pickletools.genops(data))
    ends = [position for _, _, position in operations[1:]] + [len(data)]
    for (operation, argument, start), end in zip(operations, ends, strict=True):
        is_text = operation.name == "BINUNICODE"
        pieces.append(write(argument) if is_text else data[start:end])  # type: ignore[arg-type]
    return b"".join(pieces)  # type: ignore[arg-type]


def test_files_of_python_2_and_of_gpus_are_read(net: str, tmp_path: Path) -> None:
    def as_python_2(text: str) -> bytes:
        text = "cuda:0" if text == "cpu" else text
        return b"U" + bytes([len(text)]) + text.encode()

    torch.save({"state_dict": state(), "args": Config()}, tmp_path / "a.pth")
    _rewrite(
        tmp_path / "a.pth",
        lambda name, data: _rewrite_texts(data, as_python_2) if name.endswith(".pkl") else data,
    )
    assert holds(tmp_path / "a.pth", net)


def test_entries_of_torchvision_go_with_files_without_head(tmp_path: Path) -> None:
    path, name = tmp_path / "a.pth", "torchvision:shufflenet_v2_x0_5"
    weights = mvkit.load_model(name, weights="random").get_submodule("network").state_dict()
    torch.save({key: value for key, value in weights.items() if not key.startswith("fc")}, path)
    for given in (path, f"IMAGENET1K_V1={path}", f"none={path}"):
        model = mvkit.load_model(name, weights=given)
        assert torch.equal(model.get_parameter("network.conv1.0.weight"), weights["conv1.0.weight"])
        assert list(extract(model, IMAGES, layers=["conv1"])) == ["conv1"]
        with pytest.raises(UsageError, match=r"'final' cannot be recorded: .* lacks fc\.weight, fc\.bias"):
            extract(model, IMAGES, layers="final")


def test_tensors_that_repeat_few_values_many_times_are_refused(net: str, tmp_path: Path) -> None:
    torch.save({**state(), "conv.weight": torch.ones(1).expand(10**5, 10**5)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"'conv.weight' claims 40,000,000,000 bytes and holds 4"):
        mvkit.load_model(net, weights=tmp_path / "a.pth")


def test_torch_may_be_kept_from_passing_over(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"state_dict": state(), "args": Config()}, tmp_path / "a.pth")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match="TORCH_FORCE_WEIGHTS_ONLY_LOAD is not set\nunset it"):
        mvkit.load_model(net, weights=tmp_path / "a.pth")


def test_training_needs_the_head(tmp_path: Path) -> None:
    weights = build_for_training("single_stream_classifier", n_classes=7, seed=1).state_dict()
    headless = dict(list(weights.items())[:-2])
    torch.save(headless, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="2 missing"):
        build_for_training("single_stream_classifier", n_classes=7, seed=1, weights=tmp_path / "a.pth")
    torch.save({"best": weights, "worst": weights}, tmp_path / "b.pth")
    key = f"{tmp_path}/b.pth:best"
    model = build_for_training("single_stream_classifier", n_classes=7, seed=2, weights=key)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
