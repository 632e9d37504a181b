"""Networks that take clips: which frames they are shown, in which order, and when they are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mvkit
from mvkit.errors import UsageError
from mvkit.features import list_layers, open_stimuli
from mvkit.features.extraction import ForwardPass, layer_keys
from mvkit.features.stimuli import ArrayStimuli, InputReader, clips_up_to
from mvkit.models.base import ClipInput
from mvkit.models.preprocessing import GREY_64

N_FRAMES = 23


class ClipNet(nn.Module):
    """Two 3-D convolutions over (n, channels, frames, height, width)."""

    def __init__(self, n_frames: int = 5, axes: str = "CTHW") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv3d(3, 4, (3, 9, 9), stride=(1, 8, 8))
        self.second = nn.Conv3d(4, 6, (3, 2, 2))
        self.preprocess = GREY_64
        self.clip_frames, self.clip_axes = n_frames, axes
        self.layers = ["first", "second"]
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.shapes.append(tuple(clips.shape))
        clips = clips if self.clip_axes == "CTHW" else clips.transpose(1, 2)
        return self.second(torch.relu(self.first(clips)))


@pytest.fixture(scope="module")
def movie() -> np.ndarray:
    """Random frames, uint8 (23, 64, 64)."""
    return np.random.default_rng(5).integers(0, 256, (N_FRAMES, 64, 64)).astype(np.uint8)


def clips_by_hand(movie: np.ndarray, n_frames: int) -> np.ndarray:
    """Frames t - T + 1 to t as float32 (n, T, 3, 64, 64), frame 0 in place of those before it."""
    grey = movie.astype(np.float32) / np.float32(255)
    clips = [[grey[max(0, t - n_frames + 1 + k)] for k in range(n_frames)] for t in range(len(movie))]
    return np.repeat(np.array(clips)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("axes", ["CTHW", "TCHW"])
@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_features_equal_those_of_clips_made_by_hand(
    movie: np.ndarray, axes: str, batch_size: int | None
) -> None:
    net = ClipNet(axes=axes)
    found = mvkit.extract(net, movie, frame_rate_hz=30, batch_size=batch_size)
    clips = torch.from_numpy(clips_by_hand(movie, 5))
    with torch.no_grad():
        first = net.first(clips.transpose(1, 2))
        second = net.second(torch.relu(first))
    assert found["first"] == pytest.approx(first.flatten(1).numpy(), abs=1e-5)
    assert found["second"] == pytest.approx(second.flatten(1).numpy(), abs=1e-5)
    assert found.preprocessing["clip_frames"] == 5 and found.preprocessing["clip_axes"] == axes
    assert found.preprocessing["frame_rate_hz"] == 30
    together = [shape[0] for shape in net.shapes]
    # The first batch has 131,072 pixels, 6 clips of 5 images of 64 x 64; later ones end at multiples of 16.
    assert together == [6, 10, 7] if batch_size is None else max(together) == batch_size


@pytest.mark.parametrize("axes", ["CTHW", "TCHW"])
@pytest.mark.parametrize("n_frames", [1, 2, 7])
def test_every_clip_ends_with_its_frame(axes: str, n_frames: int) -> None:
    frames = torch.arange(10.0).reshape(10, 1, 1, 1).expand(10, 3, 2, 2)
    clip = ClipInput(n_frames, axes)
    expected = [[max(0, t - n_frames + 1 + k) for k in range(n_frames)] for t in range(10)]
    for start in range(10):
        first = max(0, start - n_frames + 1)
        clips = clips_up_to(frames[first:], start - first, clip)
        shape = (n_frames, 3, 2, 2) if axes == "TCHW" else (3, n_frames, 2, 2)
        assert clips.shape == (10 - start, *shape)
        numbers = clips[:, :, 0, 0, 0] if axes == "TCHW" else clips[:, 0, :, 0, 0]
        assert numbers.tolist() == expected[start:]


def test_every_frame_is_read_and_prepared_once(movie: np.ndarray) -> None:
    n_prepared: list[int] = []

    class Counted(ArrayStimuli):
        def read(self, start: int, stop: int) -> list[np.ndarray]:
            n_prepared.append(stop - start)
            return list(super().read(start, stop))

    stimuli = Counted(movie, tuple(range(N_FRAMES)), frame_rate_hz=30.0)
    reader = InputReader(ClipNet(7), stimuli)
    batches = [reader.read(start, min(start + 4, N_FRAMES)) for start in range(0, N_FRAMES, 4)]
    assert sum(n_prepared) == N_FRAMES
    expected = torch.from_numpy(clips_by_hand(movie, 7)).transpose(1, 2)
    assert torch.equal(torch.cat(batches), expected)
    # From anywhere in the movie, too.
    assert torch.equal(InputReader(ClipNet(7), stimuli).read(11, 13), expected[11:13])
    assert torch.equal(reader.read(2, 5), expected[2:5])


def test_the_digest_of_the_images_is_that_of_every_frame_once(movie: np.ndarray) -> None:
    clips = mvkit.extract(ClipNet(), movie, frame_rate_hz=30, batch_size=3)
    assert clips.provenance.stimuli_digest == mvkit.extract("pixels", movie).provenance.stimuli_digest


def test_images_without_an_order_are_refused(movie: np.ndarray, tmp_path: Path) -> None:
    for number, frame in enumerate(movie):
        Image.fromarray(frame).save(tmp_path / f"frame{number}.png")
    responses = np.random.default_rng(0).gamma(1.0, size=(4, N_FRAMES, 3))
    dataset = mvkit.NeuralDataset.from_arrays({"VISp": responses}, movie)
    for images in (movie, str(tmp_path), dataset):
        with pytest.raises(UsageError, match="ClipNet takes clips of 5 frames, and nothing says that"):
            mvkit.extract(ClipNet(), images)
    with pytest.raises(UsageError, match=r"give the rate: frame_rate_hz=HZ"):
        mvkit.score(ClipNet(), dataset)
    found = mvkit.extract(ClipNet(), str(tmp_path), frame_rate_hz=24)
    assert np.array_equal(found["second"], mvkit.extract(ClipNet(), movie, frame_rate_hz=24)["second"])
    with pytest.raises(UsageError, match="frame rate 0 Hz: must be above 0"):
        open_stimuli(movie, frame_rate_hz=0)


def test_a_dataset_that_is_a_movie_needs_no_rate(movie: np.ndarray) -> None:
    responses = np.random.default_rng(0).gamma(1.0, size=(4, N_FRAMES, 3))
    dataset = mvkit.NeuralDataset.from_arrays({"VISp": responses}, movie, frame_rate_hz=30)
    found = mvkit.extract(ClipNet(), dataset)
    assert np.array_equal(found["second"], mvkit.extract(ClipNet(), movie, frame_rate_hz=30)["second"])


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("clip_frames", 2.5, r"\.clip_frames is 2\.5; needed: the number of frames"),
        ("clip_frames", 0, r"\.clip_frames is 0"),
        ("clip_axes", "CHWT", r"\.clip_axes is 'CHWT'; valid: 'TCHW', 'CTHW'"),
    ],
)
def test_a_wrong_declaration(movie: np.ndarray, attribute: str, value: object, message: str) -> None:
    net = ClipNet()
    setattr(net, attribute, value)
    with pytest.raises(UsageError, match=message):
        mvkit.extract(net, movie, frame_rate_hz=30)


def test_keys_of_the_cache_tell_clips_and_viewing_apart(movie: np.ndarray) -> None:
    stimuli = open_stimuli(movie, frame_rate_hz=30)

    def key(net: nn.Module) -> str:
        return layer_keys(ForwardPass(net, stimuli, ["second"]))["second"].key

    other_axes, other_length, acute = ClipNet(), ClipNet(6), ClipNet()
    other_axes.clip_axes = "TCHW"
    other_axes.first = nn.Conv3d(3, 4, (3, 9, 9), stride=(1, 8, 8))
    acute.viewing = mvkit.ViewingConditions(acuity_cpd=0.5)
    keys = [key(net) for net in (ClipNet(), other_axes, other_length, acute)]
    assert len(set(keys)) == 4 and key(ClipNet()) == keys[0]


def test_a_file_declares_clips(movie: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "video.py"
    path.write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    clip_frames, clip_axes, layers = 4, 'CTHW', ['0']\n"
        "def net():\n"
        "    return Net(nn.Conv3d(3, 2, (4, 8, 8), stride=8))\n"
    )
    model = mvkit.load_model(f"{path}:net", input_size=64, seed=1)
    assert model.describe() == "images at 64 px; clips of 4 frames"
    assert [layer.shape for layer in list_layers(model)] == [(2, 1, 8, 8)] * 2
    found = mvkit.extract(model, movie, frame_rate_hz=30)
    assert found["0"].shape == (N_FRAMES, 128) and found.preprocessing["clip_frames"] == 4
