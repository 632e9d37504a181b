"""Under what results of a layer are cached, and how to tell that its features still are what they were."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mvkit.features.forward_pass import ForwardPass
from mvkit.features.inputs import describe_preprocessing
from mvkit.features.stimuli import ImagesDigest, Stimuli
from mvkit.jsonable import digest_of
from mvkit.machine import installed_versions, sources_digest
from mvkit.models.foreign.wrappers import unwrapped
from mvkit.models.state import weights_digest

log = logging.getLogger(__name__)

#: To be raised whenever what is cached must not be used any more.
EDITION = 2

#: Libraries whose versions features depend on.
_LIBRARIES = ("torch", "torchvision", "numpy", "pillow")
#: The parts of mvkit that features are computed by.
_OWN_PARTS = ("models", "features", "filters")
#: Where an object lies in memory, which differs from process to process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

#: Parts of every image's features that a fingerprint looks at one by one, so that a change in one shows.
_N_PARTS = 4
#: Features that are taken at once; their signs repeat. A prime, as maps have other sizes.
_BLOCK = 4093
_SIGN_SEED = 20180921


@dataclass(frozen=True)
class LayerKey:
    """Under what a layer's results are cached, and how to tell whether its features are still what they were.

    Attributes
    ----------
    key
        sha256 (hex) of weights, modules, preprocessing, images, layer, device, batch size and versions.
    fingerprint
        float64 (n,): what the layer gives for the first batch, in a few numbers for each image.
    """

    key: str
    fingerprint: NDArray[np.float64]


def layer_keys(forward_pass: ForwardPass) -> dict[str, LayerKey]:
    """Return the key and the fingerprint of every layer that the first batch has shown.

    Weights and buffers count by what they are now, modules by class and settings, preprocessing by what is
    recorded of it, images by their pixels in order. Code does not count: what it does shows in the
    fingerprint. Names of models, datasets and files do not count, nor does which other layers were asked for.

    Returns
    -------
    dict
        Layer -> key. Empty where weights cannot be read; the reason is logged, and nothing is cached.

    Raises
    ------
    UsageError, DataError, UserCodeError
        As :meth:`~mvkit.features.forward_pass.ForwardPass.look`.
    """
    # Wrappers change neither names nor what is computed.
    network = unwrapped(forward_pass.model)
    weights = weights_digest(network)
    if weights is None:
        log.info("the network holds tensors whose content cannot be read; nothing of it is cached")
        return {}
    versions = installed_versions(*_LIBRARIES)
    common = {
        "edition": EDITION,
        "weights": weights,
        "modules": _describe_modules(network),
        "preprocessing": _preprocessing(forward_pass.model, forward_pass.stimuli),
        "images": _images_digest(forward_pass.stimuli),
        "device": forward_pass.device.type,
        "batch_size": forward_pass.batch_size,
        "arithmetic": _arithmetic(),
        # Not Python's, which only calls the others, and of mvkit its sources.
        "versions": {**_package_versions(network), **{name: versions[name] for name in _LIBRARIES}},
        "mvkit": sources_digest(*_OWN_PARTS),
    }
    return {
        name: LayerKey(digest_of({**common, "layer": name}), fingerprint_of(rows))
        for name, rows in forward_pass.first_rows().items()
    }


def _describe_modules(network: nn.Module) -> list[tuple[str, str, str]]:
    """Return path, class and settings of every module, as torch prints them."""
    described = []
    for path, module in network.named_modules(remove_duplicate=False):
        try:
            settings = _ADDRESS.sub("", module.extra_repr())
        except Exception:  # noqa: BLE001 - any error of a user's method, which only prints
            settings = ""
        described.append((path, type(module).__qualname__, settings))
    return described


def _package_versions(network: nn.Module) -> dict[str, str]:
    """Return the versions of the installed packages that the modules' classes come from."""
    found = {}
    for package in {type(module).__module__.partition(".")[0] for module in network.modules()} - {"mvkit"}:
        try:
            found[package] = version(package)
        except (PackageNotFoundError, ValueError):
            continue
    return found


def _preprocessing(model: nn.Module, stimuli: Stimuli) -> dict[str, object]:
    if stimuli.is_prepared:
        return {}
    # The name of its model may be that of a file.
    return {name: value for name, value in describe_preprocessing(model).items() if name != "of"}


def _images_digest(stimuli: Stimuli) -> str:
    digest = ImagesDigest()
    for start in range(len(stimuli.image_ids)):
        digest.update(stimuli.read(start, start + 1))
    return digest.hexdigest()


def _arithmetic() -> dict[str, object]:
    """Return torch's settings that change results by more than float32 rounding."""
    return {
        "default_dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
        "convolutions_tf32": torch.backends.cudnn.allow_tf32,
    }


def fingerprint_of(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Condense features of a few images into a few numbers for each.

    Parameters
    ----------
    rows
        float32 (n_images, n_features).

    Returns
    -------
    numpy.ndarray
        float64 (n_images * 10,): mantissa and exponent of each image's norm; then, relative to it, the norms
        of 4 successive parts, and one plus the sums of these parts under fixed pseudo-random signs, which
        tell the order of features.
    """
    signs = _signs(_BLOCK)
    squares, sums = np.zeros((2, len(rows), _N_PARTS))
    with np.errstate(all="ignore"):
        for index, part in enumerate(np.array_split(rows, _N_PARTS, axis=1)):
            # A few at a time: a layer may have millions.
            for start in range(0, part.shape[1], _BLOCK):
                exact = part[:, start : start + _BLOCK].astype(np.float64)
                squares[:, index] += np.einsum("ij,ij->i", exact, exact)
                sums[:, index] += exact @ signs[: exact.shape[1]]
        norm = np.sqrt(squares.sum(axis=1))
        mantissa, exponent = np.frexp(norm)
        exponent = np.where(np.isfinite(norm), exponent, 0)
        unit = np.where(norm == 0, 1.0, norm)[:, np.newaxis]
        relative = np.hstack([np.sqrt(squares) / unit, 1 + sums / unit])
    return np.column_stack([mantissa, exponent, relative]).ravel()


def _signs(count: int) -> NDArray[np.float64]:
    # The bits of a bit generator are the same in every version of NumPy; what is drawn from them is not.
    words: NDArray[np.uint64] = np.random.PCG64(_SIGN_SEED).random_raw(count // 64 + 1)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[:count]
    return np.where(bits, -1.0, 1.0)
