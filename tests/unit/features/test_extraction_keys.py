"""What may change between two runs, and whether what is cached is used then."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import v2

import mvkit
from mvkit.cache import LayerKey, fingerprint_of, fingerprints_agree
from mvkit.features import extraction as identity_module
from mvkit.features.extraction import ForwardPass, layer_keys
from mvkit.features.stimuli import ArrayStimuli, open_stimuli

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

#: What is cached is found; or not; or it is found, and the first batch shows that it is another's.
HIT, MISS, FINGERPRINT = "hit", "miss", "found, and not believed"


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
    ) -> LayerKey:
        stimuli = open_stimuli(self.images if images is None else images)
        layers = options.pop("layers", [layer])
        return layer_keys(ForwardPass(model or self.load(), stimuli, layers, **options))[layer]


Runs = tuple[LayerKey, LayerKey]
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


def with_forward(net: Any, gain: float = 1.001) -> None:
    inner = type(net).forward
    net.forward = lambda images: inner(net, images) * gain


in_memory(HIT, "nothing", lambda net: None)
in_memory(MISS, "one weight", with_weight)
in_memory(MISS, "a buffer", lambda net: net.norm.running_mean.add_(0.1))
in_memory(MISS, "a buffer that is not saved", lambda net: net.shift.add_(1))
in_memory(MISS, "dtype of the weights", lambda net: net.double())
in_memory(FINGERPRINT, "a plain attribute", lambda net: setattr(net, "gain", 2.5))
in_memory(MISS, "a setting of a module", lambda net: setattr(net.norm, "eps", 0.5))
in_memory(MISS, "a module of another class", lambda net: setattr(net, "act", nn.GELU()))
in_memory(FINGERPRINT, "a hook", lambda net: net.act.register_forward_hook(lambda m, i, output: output * 3))
in_memory(FINGERPRINT, "forward replaced", with_forward)
in_memory(HIT, "forward replaced by what computes the same", lambda net: with_forward(net, 1.0))
in_memory(HIT, "training mode", lambda net: net.train())
in_memory(HIT, "gradients off", lambda net: net.requires_grad_(False))

edited(FINGERPRINT, "edited forward", "net.py", "* self.gain", "* self.gain * 1.01")
edited(HIT, "edited forward that computes the same", "net.py", "* self.gain", "* self.gain * 1")
edited(FINGERPRINT, "edited helper", "scaling.py", "maps * 2", "maps * 3")
edited(FINGERPRINT, "edited number in a helper", "scaling.py", "OFFSET = 0.25", "OFFSET = 0.5")
edited(FINGERPRINT, "edited number in a file", "net.py", "LIMIT = 6.0", "LIMIT = 3.0")
edited(MISS, "edited package", "shapes/sizes.py", "5", "6")
edited(HIT, "edited package root", "shapes/__init__.py", "", "A = 1")
edited(HIT, "a comment", "net.py", "LIMIT = 6.0", "LIMIT = 6.0  # of ReLU6")

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


@case(FINGERPRINT)
def copied_with_another_helper(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before = bench.run()
    copied = shutil.copytree(bench.folder, bench.folder / "elsewhere")
    (copied / "scaling.py").write_text(SCALING.replace("* 2", "* 4"))
    return before, bench.run(mvkit.load_model(f"{copied / 'net.py'}:make", input_size=16))


@case(HIT)
def a_helper_of_a_package_edited_after_it_was_imported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """What runs is the old code, whatever its file says by now."""
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


@case(FINGERPRINT)
def edited_preprocessing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before = bench.run(bench.load("preparing", input_size=None))
    bench.edit("net.py", "/ 255", "/ 256")
    return before, bench.run(bench.load("preparing", input_size=None))


@case(FINGERPRINT)
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


def composed(bench: Bench, side_px: int) -> LayerKey:
    model = bench.load().get_submodule("network")
    steps = [v2.PILToTensor(), v2.Resize(side_px), v2.CenterCrop(16), v2.ToDtype(torch.float32, scale=True)]
    model.preprocess = v2.Compose(steps)  # type: ignore[assignment]
    return bench.run(model)


@case(MISS)
def another_step_of_a_composed_preprocessing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return composed(bench, 16), composed(bench, 17)


@case(HIT)
def the_same_steps_composed_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return composed(bench, 16), composed(bench, 16)


def clamped(bench: Bench, batch_size: int | None) -> Runs:
    """Two runs over one dark image and three bright ones, and an edit that only bright ones show."""
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 100
    images[0] = 0
    before = bench.run(bench.load().get_submodule("network"), images=images, batch_size=batch_size)
    bench.edit("scaling.py", "maps * 2", "maps.clamp(max=2.9) * 2")
    return before, bench.run(bench.load().get_submodule("network"), images=images, batch_size=batch_size)


@case(FINGERPRINT)
def code_that_a_later_image_of_the_first_batch_shows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return clamped(bench, None)


@case(HIT)
def code_that_no_image_of_the_first_batch_shows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """What the cache cannot notice; README says so."""
    return clamped(bench, 1)


@case(MISS)
def version_of_the_package_that_a_network_is_from(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    network = timm.create_model("test_resnet").eval()
    images, layer = torch.zeros(1, 3, 32, 32), "conv1"
    before = bench.run(network, images=images, layer=layer)
    monkeypatch.setattr(identity_module, "version", lambda name: "0.0")
    return before, bench.run(network, images=images, layer=layer)


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
    monkeypatch.setattr(identity_module, "sources_digest", lambda *parts: "edited")
    return before, bench.run(network, images=images)


@case(MISS)
def precision_of_products(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before, precision = bench.run(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return before, bench.run()
    finally:
        torch.set_float32_matmul_precision(precision)


@case(FINGERPRINT)
def environment_variable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    before = bench.run()
    monkeypatch.setenv("NET_DOUBLE", "1")
    return before, bench.run()


@case(FINGERPRINT)
def number_of_a_module_set_from_outside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Runs:
    model = bench.load()
    before = bench.run(model)
    forward: Any = type(model.get_submodule("network")).forward
    monkeypatch.setitem(forward.__globals__, "LIMIT", 3.0)
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
        found = HIT if fingerprints_agree(before.fingerprint, after.fingerprint) else FINGERPRINT
    assert found == expected


def test_nothing_is_cached_of_a_network_whose_weights_cannot_be_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = bench.load()
    model.get_submodule("network").register_buffer("sparse", torch.eye(3).to_sparse())
    forward_pass = ForwardPass(model, open_stimuli(bench.images), ["final"])

    assert layer_keys(forward_pass) == {}


class Odd(nn.Conv2d):
    """Holds what has no content, and cannot be printed or prints an address."""

    def __init__(self, text: str | None) -> None:
        super().__init__(3, 2, 4)
        nn.init.ones_(self.weight)
        nn.init.ones_(self.bias)
        self.source = (number for number in range(3))
        self.text = text

    def extra_repr(self) -> str:
        """Fail, or show an object."""
        if self.text is None:
            raise RuntimeError("no text")
        return f"{self.text} {object()}"


@pytest.mark.parametrize("text", [None, "of"])
def test_what_networks_carry_along_and_print_is_no_obstacle(text: str | None) -> None:
    images = open_stimuli(torch.rand(2, 3, 8, 8))
    keys = [layer_keys(ForwardPass(Odd(text), images, ["final"]))["final"].key for _ in range(2)]

    assert keys[0] == keys[1]


def test_keys_are_the_same_in_another_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, torch, mvkit\n"
        "from mvkit.features.extraction import ForwardPass\n"
        "from mvkit.features.extraction import layer_keys\n"
        "from mvkit.features.stimuli import open_stimuli\n"
        "images = open_stimuli(np.zeros((2, 64, 64), np.uint8))\n"
        "net = mvkit.load_model('torchvision:squeezenet1_1', weights='random', input_size=32)\n"
        "keys = layer_keys(ForwardPass(net, images, ['features.0', 'final']))\n"
        "print([key.key for key in keys.values()])\n"
    )
    texts = [
        subprocess.run(
            [sys.executable, str(script)],
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]

    assert texts[0] == texts[1] and texts[0].startswith(b"['")


def test_fingerprint_tells_permutations_and_not_rounding() -> None:
    values = np.random.default_rng(1).normal(size=(3, 5000)).astype(np.float32)
    noise = np.random.default_rng(2).normal(size=(3, 5000)).astype(np.float32)
    rounded = values * (1 + np.float32(1e-6) * noise)
    fingerprint = fingerprint_of(values)

    assert fingerprints_agree(fingerprint, fingerprint_of(rounded))
    assert not fingerprints_agree(fingerprint, fingerprint_of(values[::-1]))
    assert not fingerprints_agree(fingerprint, fingerprint_of(values[:, ::-1]))
    assert not fingerprints_agree(fingerprint, fingerprint_of(values[:2]))
    assert not fingerprints_agree(fingerprint, fingerprint_of(-values))
    assert not fingerprints_agree(fingerprint, fingerprint_of(values * np.float32(1.001)))
    one_part = values.copy()
    one_part[2, :300] *= np.float32(1.01)
    assert not fingerprints_agree(fingerprint, fingerprint_of(one_part))
    assert not fingerprints_agree(fingerprint, fingerprint_of(values * np.float32(1e-8)))


@pytest.mark.parametrize("count", [1, 3, 17])
def test_fingerprint_of_few_or_no_values(count: int) -> None:
    zeros = np.zeros((2, count), np.float32)

    assert fingerprints_agree(fingerprint_of(zeros), fingerprint_of(zeros))
    assert not fingerprints_agree(fingerprint_of(zeros), fingerprint_of(zeros + 1))
    assert fingerprints_agree(fingerprint_of(zeros * np.nan), fingerprint_of(zeros * np.nan))
