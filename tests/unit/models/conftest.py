"""A small model, files in the formats of checkpoints, and a user's file with small networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from mvkit.models.base import VisionModel
from mvkit.models.loading import build
from mvkit.models.registry import find_model


@pytest.fixture(scope="session")
def shapes_only() -> Callable[[str], VisionModel]:
    """Build a model by name once, without memory for its weights."""

    @cache
    def built(name: str) -> VisionModel:
        with torch.device("meta"):
            return build(find_model(name).architecture.blueprint)

    return built


class Tiny(VisionModel):
    """A convolution, a batch norm and a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4, 2)
        self.name = "tiny"


@pytest.fixture
def tiny() -> Tiny:
    """A model whose weights differ from those of ``weights``."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Tiny()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Weights for ``tiny``; every entry has values of its own."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(value.shape, generator=generator) + 0.5
        if value.is_floating_point()
        else torch.tensor(17)
        for key, value in Tiny().state_dict().items()
    }


@pytest.fixture(params=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[object], Path]:
    """Write an object as torch 1.6 (zip) or older (legacy) did; returns the path."""

    def written(contents: object) -> Path:
        path = tmp_path / f"{request.param}.pt"
        torch.save(contents, path, _use_new_zipfile_serialization=request.param == "zip")
        return path

    return written


NETS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.GELU()
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x + self.pointwise(self.act(self.norm(self.depthwise(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.block = Block(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        low = self.relu(self.stem(x))
        high = self.relu(self.block(low))
        pooled = high.mean((2, 3))
        return {"map": high, "outputs": (pooled, self.head(pooled))}


def make():
    return Net()


def tensor_only():
    return nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))


def compiled():
    return torch.compile(nn.DataParallel(Net()))


def compiled_inside():
    net = Net()
    net.block = torch.compile(net.block)
    return net


def declaring():
    from mvkit.models import Preprocessing

    net = Net()
    net.layers = ["block", "relu"]
    net.preprocess = Preprocessing(None, 16, None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return net


def preparing():
    net = Net()
    net.preprocess = lambda images: torch.zeros(len(images), 3, 8, 8)
    return net


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, 4)

    def forward(self, x):
        return self.conv(x).flatten(1)


HALF, QUARTER = (0.5,) * 3, (0.25,) * 3


def declared(preprocess):
    torch.manual_seed(0)
    net = Linear()
    net.preprocess = preprocess
    return net


def as_mvkits():
    from mvkit.models import Preprocessing

    return declared(Preprocessing(16, 16, None, HALF, QUARTER))


def as_preset():
    from torchvision.transforms._presets import ImageClassification

    return declared(ImageClassification(crop_size=16, resize_size=16, mean=HALF, std=QUARTER))


def as_v1():
    from torchvision import transforms as T

    return declared(T.Compose([T.Resize(16), T.CenterCrop(16), T.ToTensor(), T.Normalize(HALF, QUARTER)]))


def as_v2():
    from torchvision.transforms import v2

    steps = [v2.ToImage(), v2.Resize(16), v2.CenterCrop(16), v2.ToDtype(torch.float32, scale=True)]
    return declared(v2.Compose([*steps, v2.Normalize(HALF, QUARTER)]))


def as_a_function():
    steps = as_v1().preprocess
    return declared(lambda picture: steps(picture)[None].numpy())


def as_timms():
    import timm

    return timm.create_model("resnet10t", pretrained_cfg_overlay={"input_size": (3, 48, 32)})


def as_timms_grey():
    import timm

    return timm.create_model("resnet10t", in_chans=1)


def preprocess_is(what):
    from torchvision import models
    from torchvision.transforms import v2

    return {
        "entry": models.ResNet18_Weights.DEFAULT,
        "class": models.ResNet18_Weights.DEFAULT.transforms,
        "steps": [v2.ToImage()],
        "layer": nn.Conv2d(3, 3, 1),
        "bytes": v2.Compose([v2.ToImage(), v2.Resize(16)]),
        "pictures": v2.Resize(16),
        "failing": lambda picture: picture.no_such_thing,
    }[what]


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.eye(48).to_sparse(), requires_grad=False)
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, x):
        return torch.sparse.mm(self.w, self.pool(x).flatten(1).T).T


def on_meta():
    with torch.device("meta"):
        return Net()


def lost_on_meta():
    net = on_meta()
    net.register_buffer("grid", torch.ones(2, device="meta"), persistent=False)
    return net


def quantised():
    torch.backends.quantized.engine = "fbgemm"
    torch.manual_seed(0)
    ends = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
    net = nn.Sequential(ends[0], nn.Conv2d(3, 4, 4, 4), nn.ReLU(), ends[1]).eval()
    net.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    torch.ao.quantization.prepare(net, inplace=True)
    net(torch.rand(2, 3, 16, 16))
    return torch.ao.quantization.convert(net, inplace=True)


def fails():
    return [][1]


def number():
    return 3


def needs(width):
    return Net()


def lazy():
    return nn.LazyLinear(3)
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """The file."""
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture
def user_file(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file of the user's."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write
