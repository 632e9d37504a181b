"""What a network computes, told without running it."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mvkit
from mvkit.models import code_origin, code_walk
from mvkit.models.code_identity import code_digest, preprocessing_digest
from mvkit.models.code_origin import source_digests
from mvkit.models.preprocessing import IMAGENET_64, Preprocessing
from mvkit.models.state import weights_digest

#: A network as a notebook would define it: without a file.
CELL = """
from torch import nn
import torch

LIMIT = 2.0

def helper(x):
    return x * 2

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return helper(self.linear(x)).clamp(max=LIMIT)
"""


def from_cell(text: str = CELL) -> nn.Module:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(text), namespace)
    torch.manual_seed(0)
    net: nn.Module = namespace["Net"]()
    return net


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * 2", "x * 3"),
        ("x * 2", "x + 2"),
        ("LIMIT = 2.0", "LIMIT = 3.0"),
        ("max=LIMIT", "min=LIMIT"),
        ("def helper(x)", "def helper(x, y=1)"),
        ("nn.Linear(2, 2)", "nn.Linear(2, 2, dtype=torch.float64)"),
        ("helper(self.linear(x))", "helper(helper(self.linear(x)))"),
    ],
)
def test_code_without_a_file_counts_by_what_it_does(old: str, new: str) -> None:
    assert old in CELL
    before, after = from_cell(), from_cell(CELL.replace(old, new))
    same = (code_digest(before), weights_digest(before)) == (code_digest(after), weights_digest(after))

    assert not same


def test_code_without_a_file_is_the_same_when_run_again_or_commented() -> None:
    digest = code_digest(from_cell())

    assert digest is not None
    assert code_digest(from_cell()) == digest
    assert code_digest(from_cell(CELL.replace("LIMIT = 2.0", "# two\n\n\nLIMIT = 2.0"))) == digest


def test_digests_are_the_same_in_another_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, mvkit\nfrom mvkit.models.code_identity import code_digest\n"
        "print(code_digest(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())))\n"
        "print(code_digest(mvkit.load_model('gabor')))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    there = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE, env=environment)
    here = [code_digest(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())), code_digest(mvkit.load_model("gabor"))]

    assert there.stdout.decode().split() == here


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: nn.Conv2d(3, 4, 3), lambda: nn.Conv2d(3, 4, 3, stride=2)),
        (lambda: nn.MaxPool2d(2), lambda: nn.MaxPool2d(3)),
        (lambda: nn.ReLU(), lambda: nn.ReLU6()),
        (lambda: nn.ReLU(), lambda: nn.ReLU(inplace=True)),
        (lambda: nn.Upsample(scale_factor=2), lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
        (lambda: nn.Softmax(0), lambda: nn.Softmax(1)),
        (lambda: nn.ModuleDict({"a": nn.ReLU()}), lambda: nn.ModuleDict({"b": nn.ReLU()})),
        (lambda: with_attribute(torch.zeros(2)), lambda: with_attribute(torch.ones(2))),
        (lambda: with_attribute([1, 2]), lambda: with_attribute([2, 1])),
        (lambda: with_attribute({"a": 1}), lambda: with_attribute({"a": 2})),
        (lambda: with_attribute(1), lambda: with_attribute(1.0)),
        (lambda: with_attribute(0.0), lambda: with_attribute(-0.0)),
        (lambda: with_attribute(torch.relu), lambda: with_attribute(torch.tanh)),
        (
            lambda: with_attribute(functools.partial(max, 1)),
            lambda: with_attribute(functools.partial(max, 2)),
        ),
        (lambda: with_attribute(lambda x: x + 1), lambda: with_attribute(lambda x: x + 2)),
        (lambda: with_attribute([nn.Softmax(0)]), lambda: with_attribute([nn.Softmax(1)])),
    ],
)
def test_settings_and_attributes_count(one: Callable[[], nn.Module], other: Callable[[], nn.Module]) -> None:
    assert code_digest(one()) == code_digest(one()) is not None
    assert code_digest(one()) != code_digest(other())


def with_attribute(value: object) -> nn.Module:
    net = nn.Identity()
    net.held = value  # type: ignore[assignment]
    return net


@pytest.mark.parametrize(
    "value",
    [
        logging.getLogger("net"),
        threading.Lock(),
        {1, 2},
        functools.lru_cache(max),
        torch.Generator(),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_networks_carry_along_is_no_obstacle(value: object) -> None:
    assert code_digest(with_attribute(value)) is not None


def test_there_is_no_digest_of_what_cannot_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with (Path(__file__)).open() as file:
        assert code_digest(with_attribute(file)) is None
    assert code_digest(with_attribute(number for number in range(3))) is None
    assert len([record for record in caplog.records if "nothing of it is kept" in record.getMessage()]) == 2


def test_there_is_no_digest_where_too_much_hangs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_walk, "_MOST_OBJECTS", 50)

    assert code_digest(with_attribute([[number] for number in range(100)])) is None


def test_objects_that_refer_to_each_other_end() -> None:
    first: list[object] = []
    first.append(first)

    assert code_digest(with_attribute(first)) is not None


def test_versions_of_installed_packages_count(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = code_digest(nn.ReLU())
    real = importlib.metadata.version
    monkeypatch.setattr(code_origin, "version", lambda name: "0.0" if name == "torch" else real(name))

    assert code_digest(nn.ReLU()) != digest


def test_own_sources_count(monkeypatch: pytest.MonkeyPatch) -> None:
    model, library = mvkit.load_model("pixels"), nn.ReLU()
    before = code_digest(model), code_digest(library)
    monkeypatch.setattr(code_walk, "own_sources", lambda: "edited")

    assert code_digest(model) != before[0]
    # A library's network has nothing of mvkit's in it; how it is fed is part of the features' identity.
    assert code_digest(library) == before[1]


def test_archives_count_as_a_whole(tmp_path: Path) -> None:
    net, images = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).eval(), torch.zeros(1, 3, 8, 8)
    digests = []
    for gain in (1.0, 1.0, 2.0):
        net[0].weight.data *= gain
        # Weights become constants of the graph: there are no parameters any more.
        file = tmp_path / f"{len(digests)}.pt"
        if len(digests) == 1:
            file.write_bytes((tmp_path / "0.pt").read_bytes())
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                torch.jit.freeze(torch.jit.trace(net, images)).save(str(file))
        model = mvkit.load_model(str(file))
        digests.append((code_digest(model), weights_digest(model)))

    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_exported_programs_count_by_their_graph(tmp_path: Path) -> None:
    images = torch.zeros(2, 3, 8, 8)
    digests = []
    for activation in (nn.ReLU(), nn.ReLU(), nn.GELU()):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 2, 3), activation)
        file = tmp_path / f"{len(digests)}.pt2"
        torch.export.save(torch.export.export(net, (images,)), file)
        model = mvkit.load_model(str(file))
        digests.append((code_digest(model), weights_digest(model)))

    assert digests[0] == digests[1]
    assert digests[0][1] == digests[2][1]
    assert digests[0][0] != digests[2][0] is not None


def test_weights_count_by_name_type_and_value() -> None:
    def digest(change: Callable[[nn.Module], object]) -> str | None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        change(net)
        return weights_digest(net)

    plain = digest(lambda net: None)
    others = [
        digest(lambda net: setattr(net[0].weight, "data", net[0].weight.data.t())),  # type: ignore[index]
        digest(lambda net: net.bfloat16()),
        digest(lambda net: net[1].running_var.add_(1)),  # type: ignore[index]
        digest(lambda net: net.register_buffer("fixed", torch.ones(0), persistent=False)),
        digest(lambda net: net.register_buffer("other", torch.ones(0), persistent=False)),
    ]

    assert digest(lambda net: net.requires_grad_(False)) == plain
    assert len({plain, *others}) == 6
    assert weights_digest(nn.Linear(2, 2, device="meta")) is None


def test_weights_that_are_shared_count_as_equal_ones() -> None:
    layer = nn.Linear(2, 2)
    copied = nn.Linear(2, 2)
    copied.load_state_dict(layer.state_dict())

    assert weights_digest(nn.Sequential(layer, layer)) == weights_digest(nn.Sequential(layer, copied))


def test_preprocessing_counts_by_settings_and_code() -> None:
    other = Preprocessing(resize_px=64, crop_px=64, input_px=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    digests = {
        preprocessing_digest(IMAGENET_64),
        preprocessing_digest(other),
        preprocessing_digest(lambda images: torch.as_tensor(images) / 2),
        preprocessing_digest(lambda images: torch.as_tensor(images) / 3),
        preprocessing_digest(None),
    }

    assert len(digests) == 5 and None not in digests


def test_sources_are_followed_through_packages(tmp_path: Path) -> None:
    files = {
        "pack/__init__.py": "",
        "pack/nets/__init__.py": "from .blocks import Block",
        "pack/nets/net.py": "from . import blocks\nfrom ..shared import s\nimport pack.far.away, torch",
        "pack/nets/blocks.py": "def f():\n    from pack import late",
        "pack/shared.py": "import pack.nets.net",
        "pack/late.py": "",
        "pack/far/away.py": "",
        "pack/unused.py": "",
        "torch.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = {path.relative_to(tmp_path).as_posix() for path in source_digests(tmp_path / "pack/nets/net.py")}

    # A file that is named like an installed package may be meant: it counts.
    assert found == set(files) - {"pack/unused.py"}
