"""A cache that cannot lie: what may change between two runs, and whether kept features are used then."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mvkit
from mvkit.features import identity as identity_module
from mvkit.features.forward_pass import ForwardPass
from mvkit.features.identity import LayerIdentity, layer_identities, probe_of
from mvkit.features.stimuli import ArrayStimuli, open_stimuli
from mvkit.store.probes import probes_agree

NET = """
import os
import torch
from torch import nn
from torch.nn import functional as F

from shapes.sizes import WIDTH
from scaling import scaled
import scaling

LIMIT = 6.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 4, 4)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.act = nn.ReLU()
        self.gain = 1.5
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, images):
        maps = self.act(self.norm(self.conv(images))) * self.gain + self.shift
        if os.environ.get("NET_DOUBLE"):
            maps = maps * 2
        return scaled(maps).clamp(max=LIMIT) + scaling.OFFSET


def prepare(images):
    maps = torch.as_tensor(images, dtype=torch.float32)
    return maps[:, None].expand(-1, 3, -1, -1) / 255


def make():
    return Net()


def preparing():
    net = Net()
    net.preprocess = prepare
    return net
"""
SCALING = """
OFFSET = 0.25


def scaled(maps):
    return maps * 2
"""
SIZES = "WIDTH = 5\n"

#: Kept features are found; or not; or they are found, and the first image gives them away.
HIT, MISS, PROBE = "hit", "miss", "found, and not believed"


class Bench:
    """A user's files, images, and runs over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
        self.write("net.py", NET)
        self.write("scaling.py", SCALING)
        self.write("shapes/__init__.py", "")
        self.write("shapes/sizes.py", SIZES)

    @property
    def net(self) -> Path:
        return self.folder / "net.py"

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def load(self, function: str = "make", **options: Any) -> nn.Module:
        return mvkit.load_model(f"{self.net}:{function}", **{"input_size": 16, **options})

    def run(
        self, model: nn.Module | None = None, *, images: Any = None, layer: str = "final", **options: Any
    ) -> LayerIdentity:
        stimuli = open_stimuli(self.images if images is None else images)
        layers = options.pop("layers", [layer])
        return layer_identities(ForwardPass(model or self.load(), stimuli, layers, **options))[layer]


Runs = tuple[LayerIdentity, LayerIdentity]
Case = Callable[[Bench, pytest.MonkeyPatch], Runs]
CASES: dict[str, tuple[Case, str]] = {}


def case(expected: str) -> Callable[[Case], Case]:
    """Enter a change in the table."""

    def enter(function: Case) -> Case:
        CASES[function.__name__] = function, expected
        return function

    return enter


def changed(model: nn.Module, change: Callable[[Any], object]) -> nn.Module:
    change(model.get_submodule("network"))
    return model


def in_memory(expected: str, name: str, change: Callable[[Any], object]) -> None:
    """Enter a change of a loaded network."""

    def runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
        return bench.run(), bench.run(changed(bench.load(), change))

    CASES[name] = runs, expected


def edited(expected: str, name: str, file: str, old: str, new: str) -> None:
    """Enter an edit of a user's file."""

    def runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
        before = bench.run()
        bench.edit(file, old, new)
        return before, bench.run()

    CASES[name] = runs, expected


def loaded(expected: str, name: str, **options: Any) -> None:
    """Enter another way of loading."""

    def runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
        return bench.run(), bench.run(bench.load(**options))

    CASES[name] = runs, expected


def with_weight(net: Any) -> None:
    net.conv.weight.data[0, 0, 0, 0] += 1e-6


def with_forward(net: Any) -> None:
    inner = type(net).forward
    net.forward = lambda images: inner(net, images) * 1.0


in_memory(HIT, "nothing", lambda net: None)
in_memory(MISS, "one weight", with_weight)
in_memory(MISS, "a buffer", lambda net: net.norm.running_mean.add_(0.1))
in_memory(MISS, "a buffer that is not saved", lambda net: net.shift.add_(1))
in_memory(MISS, "dtype of the weights", lambda net: net.double())
in_memory(MISS, "a plain attribute", lambda net: setattr(net, "gain", 2.5))
in_memory(MISS, "a setting of a module", lambda net: setattr(net.norm, "eps", 0.5))
in_memory(MISS, "a module of another class", lambda net: setattr(net, "act", nn.GELU()))
in_memory(MISS, "a hook", lambda net: net.act.register_forward_hook(lambda m, i, output: output * 3))
in_memory(MISS, "forward replaced", with_forward)
in_memory(HIT, "training mode", lambda net: net.train())
in_memory(HIT, "gradients off", lambda net: net.requires_grad_(False))

edited(MISS, "edited forward", "net.py", "* self.gain", "* self.gain * 1")
edited(MISS, "edited helper", "scaling.py", "maps * 2", "maps * 3")
edited(MISS, "edited number in a helper", "scaling.py", "OFFSET = 0.25", "OFFSET = 0.5")
edited(MISS, "edited number in a file", "net.py", "LIMIT = 6.0", "LIMIT = 7.0")
edited(MISS, "edited package", "shapes/sizes.py", "5", "4 + 1")
edited(MISS, "edited package root", "shapes/__init__.py", "", "A = 1")
# What a comment is cannot be told from what is not used yet: files count as a whole.
edited(MISS, "a comment", "net.py", "LIMIT = 6.0", "LIMIT = 6.0  # of ReLU6")

loaded(MISS, "mean", mean=(0.4, 0.5, 0.5))
loaded(MISS, "std", std=(0.4, 0.5, 0.5))
loaded(MISS, "grey", grey=True)
loaded(MISS, "input size", input_size=20)
loaded(MISS, "seed", seed=1)


@case(MISS)
def another_weights_file_of_the_same_name(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    file = bench.folder / "w.pt"
    found = []
    for gain in (1.0, 1.25):
        state = bench.load().get_submodule("network").state_dict()
        torch.save({name: (value * gain).to(value.dtype) for name, value in state.items()}, file)
        found.append(bench.run(bench.load(weights=file)))
    return found[0], found[1]


@case(HIT)
def weights_as_safetensors(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    state = {key: value + 1 for key, value in bench.load().get_submodule("network").state_dict().items()}
    torch.save(state, bench.folder / "w.pt")
    save_file(state, bench.folder / "other.safetensors")
    files = (bench.folder / name for name in ("w.pt", "other.safetensors"))
    first, second = (bench.run(bench.load(weights=file)) for file in files)
    return first, second


@case(MISS)
def a_pixel(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    other = bench.images.copy()
    other[-1, 0, 0] ^= 1
    return bench.run(), bench.run(images=other)


@case(MISS)
def order_of_images(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return bench.run(), bench.run(images=bench.images[[0, 2, 1, 3]])


@case(MISS)
def fewer_images(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return bench.run(), bench.run(images=bench.images[:3])


@case(HIT)
def name_of_the_dataset(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return bench.run(), bench.run(images=ArrayStimuli(bench.images, (7, 8, 9, 10), "scenes"))


@case(MISS)
def another_layer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return bench.run(layer="norm"), bench.run(layer="act")


@case(HIT)
def other_layers_asked_for_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return bench.run(), bench.run(layers=["conv", "act", "final"])


@case(MISS)
def batch_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return bench.run(), bench.run(batch_size=2)


@case(HIT)
def file_touched(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before = bench.run()
    os.utime(bench.net, (1, 1))
    return before, bench.run()


@case(HIT)
def files_copied_elsewhere(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before = bench.run()
    copied = shutil.copytree(bench.folder, bench.folder / "elsewhere")
    (copied / "net.py").rename(copied / "renamed.py")
    return before, bench.run(mvkit.load_model(f"{copied / 'renamed.py'}:make", input_size=16))


@case(MISS)
def copied_with_another_helper(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before = bench.run()
    copied = shutil.copytree(bench.folder, bench.folder / "elsewhere")
    (copied / "scaling.py").write_text(SCALING.replace("* 2", "* 4"))
    return before, bench.run(mvkit.load_model(f"{copied / 'net.py'}:make", input_size=16))


@case(MISS)
def a_helper_of_a_package_edited_after_it_was_imported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """What runs is the old code, and what would be read is the new one: that is neither of the two."""
    monkeypatch.chdir(bench.folder)
    bench.write("nets_of_mine/__init__.py", "")
    bench.write("nets_of_mine/net.py", "from .gain import Net\ndef make(): return Net()")
    bench.write(
        "nets_of_mine/gain.py",
        "from torch import nn\nclass Net(nn.Conv2d):\n"
        "    def __init__(self): super().__init__(3, 2, 3)\n"
        "    def forward(self, x): return super().forward(x) * 2\n",
    )
    load = functools.partial(mvkit.load_model, "nets_of_mine.net:make", input_size=16)
    before, again = bench.run(load()), bench.run(load())
    assert before.key == again.key
    bench.edit("nets_of_mine/gain.py", "* 2", "* 3")
    after = bench.run(load())
    for name in [name for name in sys.modules if name.startswith("nets_of_mine")]:
        del sys.modules[name]
    return before, after


@case(MISS)
def edited_preprocessing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before = bench.run(bench.load("preparing", input_size=None))
    bench.edit("net.py", "/ 255", "/ 256")
    return before, bench.run(bench.load("preparing", input_size=None))


@case(MISS)
def preprocessing_with_another_number(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Functions made by one function differ in what they enclose."""

    def preparing(divisor: float) -> Callable[[np.ndarray], torch.Tensor]:
        return lambda images: torch.as_tensor(images)[:, None].expand(-1, 3, -1, -1) / divisor

    found = []
    for divisor in (255.0, 256.0):
        model = bench.load().get_submodule("network")
        model.preprocess = preparing(divisor)  # type: ignore[assignment]
        found.append(bench.run(model))
    return found[0], found[1]


@case(MISS)
def version_of_torch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before = bench.run()
    versions = identity_module.installed_versions
    monkeypatch.setattr(
        identity_module, "installed_versions", lambda *names: {**versions(*names), "torch": "0.1"}
    )
    return before, bench.run()


@case(HIT)
def version_of_python(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before = bench.run()
    versions = identity_module.installed_versions
    monkeypatch.setattr(
        identity_module, "installed_versions", lambda *names: {**versions(*names), "python": "3.0"}
    )
    return before, bench.run()


@case(MISS)
def sources_of_mvkit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """They prepare images and make batches, also for networks that have nothing of mvkit's in them."""
    network = bench.load().get_submodule("network")
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = bench.run(network, images=images)
    monkeypatch.setattr(identity_module, "own_sources", lambda: "edited")
    return before, bench.run(network, images=images)


@case(MISS)
def precision_of_products(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before, precision = bench.run(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return before, bench.run()
    finally:
        torch.set_float32_matmul_precision(precision)


@case(PROBE)
def environment_variable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """No digest sees what a network reads while it runs."""
    before = bench.run()
    monkeypatch.setenv("NET_DOUBLE", "1")
    return before, bench.run()


@case(MISS)
def number_of_a_module_set_from_outside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    model = bench.load()
    before = bench.run(model)
    forward: Any = type(model.get_submodule("network")).forward
    monkeypatch.setitem(forward.__globals__, "LIMIT", 5.0)
    return before, bench.run(model)


@case(MISS)
def same_structure_in_another_class(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Networks of a library and of a user's file are different code, whatever their weights."""
    library = mvkit.load_model("torchvision:squeezenet1_1", weights="random", input_size=32)
    bench.write(
        "mine.py", "from torchvision.models import SqueezeNet as S\nclass T(S): pass\nmake = lambda: T('1_1')"
    )
    own = mvkit.load_model(f"{bench.folder / 'mine.py'}:make", input_size=32)
    own.load_state_dict(library.state_dict())
    own.preprocess = library.preprocess
    layer = "features.0"
    return bench.run(library, layer=layer), bench.run(own, layer=layer)


@case(HIT)
def same_class_from_a_library_by_its_name_or_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    library = mvkit.load_model("torchvision:squeezenet1_1", weights="random", input_size=32)
    text = "from torchvision.models import squeezenet1_1\ndef make(): return squeezenet1_1()"
    bench.write("mine.py", text)
    own = mvkit.load_model(f"{bench.folder / 'mine.py'}:make", input_size=32)
    own.load_state_dict(library.state_dict())
    own.preprocess = library.preprocess
    layer = "features.0"
    return bench.run(library, layer=layer), bench.run(own, layer=layer)


@case(MISS)
def a_released_network_changed_after_loading(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Its weights_id is still that of the file."""
    model = mvkit.load_model("alexnet_bn_ir", weights="random")
    before = bench.run(model, layer="features.3")
    with torch.no_grad():
        next(model.parameters())[0] += 1e-3
    return before, bench.run(model, layer="features.3")


def test_the_table_has_every_change_that_was_thought_of() -> None:
    assert len(CASES) >= 24


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_a_hit_or_a_miss_as_it_should_be(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, expected = CASES[name]
    before, after = function(Bench(tmp_path), monkeypatch)
    found = MISS
    if before.key == after.key:
        found = HIT if probes_agree(before.probe, after.probe) else PROBE
    assert found == expected


def test_nothing_is_kept_of_a_network_whose_weights_cannot_be_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = bench.load()
    model.get_submodule("network").register_buffer("sparse", torch.eye(3).to_sparse())
    journey = ForwardPass(model, open_stimuli(bench.images), ["final"])

    assert layer_identities(journey) == {}


def test_nothing_is_kept_of_a_network_that_cannot_be_looked_into(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = bench.load()
    model.get_submodule("network").source = (number for number in range(3))  # type: ignore[assignment]
    journey = ForwardPass(model, open_stimuli(bench.images), ["final"])

    assert layer_identities(journey) == {}


def test_probe_tells_permutations_and_not_rounding() -> None:
    values = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    rounded = values * (1 + np.float32(1e-6) * np.random.default_rng(2).normal(size=5000).astype(np.float32))
    probe = probe_of(values)

    assert probes_agree(probe, probe_of(rounded))
    assert not probes_agree(probe, probe_of(values[::-1]))
    assert not probes_agree(probe, probe_of(-values))
    assert not probes_agree(probe, probe_of(values * np.float32(1.001)))
    one_part = values.copy()
    one_part[:300] *= np.float32(1.01)
    assert not probes_agree(probe, probe_of(one_part))
    assert not probes_agree(probe, probe_of(values * np.float32(1e-8)))


@pytest.mark.parametrize("count", [1, 3, 17])
def test_probe_of_few_or_no_values(count: int) -> None:
    zeros = np.zeros(count, np.float32)

    assert probes_agree(probe_of(zeros), probe_of(zeros))
    assert not probes_agree(probe_of(zeros), probe_of(zeros + 1))
    assert probes_agree(probe_of(zeros * np.nan), probe_of(zeros * np.nan))
