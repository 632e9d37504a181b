"""`mvkit score` and `mvkit extract` of models from elsewhere, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import mvkit
from mvkit.cli.main import run
from mvkit.features import read_features
from mvkit.scoring import read_models, read_scores

QUICK = ["--dataset", "simulated", "--areas", "VISp", "--splits", "1", "--halves", "2", "--jobs", "1"]

NETS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.wide = nn.Conv2d(width, 4 * width, 1)
        self.act = nn.GELU()
        self.narrow = nn.Conv2d(4 * width, width, 1)

    def forward(self, x):
        return x + self.narrow(self.act(self.wide(self.norm(self.depthwise(x)))))


class ConvNeXtLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.early = Block(8)
        self.down = nn.Conv2d(8, 16, 2, 2)
        self.late = Block(16)

    def forward(self, x):
        early = self.early(self.stem(x))
        late = self.late(self.down(early))
        return {"early": early, "late": late}


def make():
    return ConvNeXtLike()


def fails():
    raise ValueError("no luck")
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def test_torchvision_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", "torchvision:alexnet", "--weights", "random", "--layers", "features.*", *QUICK]
    assert run([*words, "--input-size", "64", "--out", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    saved = read_scores(tmp_path)
    assert saved.context["model"] == "torchvision:alexnet (random, seed 0)"
    dataset = mvkit.open_dataset("simulated")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.alexnet().eval()
    recorded: dict[str, np.ndarray] = {}
    handles = [
        module.register_forward_hook(
            lambda _, __, value, name=f"features.{name}": recorded.update(
                {name: value.flatten(1).numpy().copy()}
            )
        )
        for name, module in network.features.named_children()
    ]
    preprocess = mvkit.load_model("torchvision:alexnet", "random", input_size=64).preprocess
    with torch.no_grad():
        network(preprocess(dataset.stimuli))
    assert len(handles) == 13
    expected = mvkit.score(recorded, dataset, areas=["VISp"], n_splits=1, n_halves=2, n_jobs=1)
    assert list(dict.fromkeys(saved.columns["layer"])) == list(recorded)
    np.testing.assert_allclose(saved.columns["score"], expected.columns["score"], rtol=1e-4, atol=1e-4)
    assert document["digest"] == saved.digest()


def test_a_users_file_is_scored_beside_a_model_of_mvkits(
    nets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{nets}:make"
    words = ["score", name, "timm:resnet10t", "--weights", "random", "-l", "final*,*norm*,re:layer1\\..*bn1"]
    out = tmp_path / "out"
    one = ["score", name, "-l", "final,late", *QUICK, "--input-size", "32", "--set", "input.grey=true"]
    one += ["--out", str(out)]
    assert run(one) == 0
    saved = read_scores(out)
    assert list(dict.fromkeys(saved.columns["layer"])) == ["late", "final:early", "final:late"]
    preprocessing = saved.context["preprocessing"]
    assert (preprocessing["crop_px"], preprocessing["resize_px"], preprocessing["grey"]) == (32, 37, True)
    assert saved.context["model"] == "nets.py:make"
    assert str(tmp_path) not in json.dumps(saved.context)
    capsys.readouterr()
    assert run([*words[:3], "-l", "final", *QUICK]) == 2
    assert "--weights random" in capsys.readouterr().err


def test_a_users_file_goes_by_its_name_in_every_table(nets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["score", f"{nets}:make", "timm:resnet10t", "--weights", "random", "-l", "final", *QUICK]
    assert run([*words, "--input-size", "32", "--out", str(out)]) == 0
    names = ["nets.py:make (random, seed 0)", "timm:resnet10t (random, seed 0)"]
    assert list(read_models(out)) == names
    assert str(tmp_path) not in (out / "scores.csv").read_text()
    # By a name that a shell takes without quotes.
    assert list(read_models(out / "nets.py_make_random_seed_0")) == names[:1]


def test_layers_are_listed_and_features_written(
    nets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", f"{nets}:make", "--stimuli", "simulated", "--input-size", "16"]
    assert run(["list", "layers", f"{nets}:make", "--input-size", "16", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    listed = [layer["name"] for layer in document["layers"]]
    assert document["left_out"] == {}
    assert listed == [
        "stem",
        *(f"early{part}" for part in ("", ".depthwise", ".norm", ".wide", ".act", ".narrow")),
        "down",
        *(f"late{part}" for part in ("", ".depthwise", ".norm", ".wide", ".act", ".narrow")),
        "final:early",
        "final:late",
    ]
    target = tmp_path / "features.h5"
    assert run([*words, "--mean", "0.5", "--std", "0.5,0.4,0.3", "-l", "stem", "--out", str(target)]) == 0
    stored = read_features(target)
    assert stored.provenance.preprocessing["std"] == [0.5, 0.4, 0.3]
    assert (stored.model_name, stored.weights_id[:6]) == ("nets.py:make", "state:")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["score", "{nets}:make", *QUICK], 2, "--layers"),
        (["score", "{nets}:make", "{nets}:make", "-l", "*", *QUICK], 2, "given twice"),
        (
            ["extract", "{nets}:make", "--out", "x.h5", "--stimuli", "simulated"],
            2,
            "stem, early, early.depthwise",
        ),
        (["list", "layers", "{nets}:fails"], 1, "ValueError: no luck"),
        (["list", "layers", "{nets}:made"], 2, "did you mean 'make'"),
        (["extract", "{nets}:make", "--out", "x.h5", "--mean", "a,b"], 2, "--mean must be"),
        (["list", "layers", "{nets}:make", "--input-size", "2"], 1, "--input-size"),
        (["list", "layers", "{nets}:make", "--weights", "none.pt"], 1, "none.pt: no such file"),
        (["extract", "alexnet_bn_ir", "--weights", "random", "--out", "x.h5", "--grey"], 2, "leave out grey"),
        (["score", "torchvision:alexnet", "-l", "*", *QUICK], 2, "--weights DEFAULT"),
        (["list", "layers", "timm:no_such_net"], 2, "timm has no model"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    nets: Path,
    words: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(nets.parent)
    assert run([word.replace("{nets}", str(nets)) for word in words]) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err and printed.out == ""


@pytest.mark.slow
def test_a_file_and_its_entry_give_the_same_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision finds it (DEFAULT), a user names it, or says which entry another file is like."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / "googlenet-1378be20.pth"
    place.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.googlenet(weights=None, init_weights=False).state_dict(), place)
    other = tmp_path / "mine.pth"
    other.write_bytes(place.read_bytes())
    words = ["extract", "torchvision:googlenet", "--layers", "conv1", "--input-size", "32", "-s", "simulated"]
    found = []
    for index, weights in enumerate(("DEFAULT", str(place), f"IMAGENET1K_V1={other}", f"none={other}")):
        out = tmp_path / f"{index}.h5"
        assert run([*words, "--weights", weights, "--out", str(out)]) == 0
        found.append(np.asarray(read_features(out)["conv1"]))
    for same in found[1:3]:
        np.testing.assert_array_equal(same, found[0])
    # Without transform_input the network gets other values.
    assert np.abs(found[3] - found[0]).max() > 0.1
    capsys.readouterr()
    assert run([*words, "--weights", str(other), "--out", str(tmp_path / "none.h5")]) == 2
    assert "transform_input=True" in capsys.readouterr().err
