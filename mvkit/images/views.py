"""From cropped images to network input: augmentation, normalisation, rotations and patches."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvkit.errors import DataError
from mvkit.images.augment import (
    AugmentParams,
    ViewKey,
    augment_batch,
    augment_images,
    draw_params,
    patch_offsets,
    patches,
    rotations,
)
from mvkit.images.settings import Batch, Patches, RawBatch, Rotations, ViewsSettings


class ViewMaker:
    """Make the views of a batch, on the CPU by compiled code, on other devices by batched torch operations.

    What is drawn for an image depends on (seed, epoch, image, view) and on nothing else: not on the batch,
    its order, the number of threads or the device. On the CPU the values too are the same bits for any batch
    and any number of threads; a device agrees with them to about 1e-5 (of normalised values).

    With the settings ``VALIDATION`` the values are those of :mod:`mvkit.models.preprocessing`, bit for bit
    on the CPU, for crops that were resized as there.

    Parameters
    ----------
    settings
        Views, steps and normalisation.
    seed
        Of the run.
    device
        Device of the batch.
    threads
        CPU threads to work with; None: those torch may use (``torch.get_num_threads``), asked at every call.
    """

    def __init__(
        self, settings: ViewsSettings, *, seed: int, device: torch.device, threads: int | None = None
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.device = torch.device(device)
        self._threads = threads
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._norm = (np.asarray(settings.mean, np.float32), np.asarray(settings.std, np.float32))

    def __call__(self, raw: RawBatch, *, epoch: int) -> Batch:
        """Make the views of one batch.

        Parameters
        ----------
        raw
            Crops, one for each of ``settings.each()``, of side ``settings.size_px``.
        epoch
            Key of the draws.

        Returns
        -------
        Batch
            On the device. ``views`` has one entry for each of ``settings.each()``, or their four rotations or
            nine patches, one view after another. ``target`` is the depth, left and right exchanged where the
            first view is, and standardised where the settings say so; None if views are expanded, which it
            would not match.

        Raises
        ------
        DataError
            If the crops are not what the settings ask for.
        """
        each = self.settings.each()
        if len(raw.crops) != len(each):
            raise DataError(f"a batch has {len(raw.crops)} crops, its views need {len(each)}")
        index = raw.index.numpy()
        views: list[Tensor] = []
        target = None
        if raw.depth is not None and self.settings.expand is None:
            target = raw.depth.to(self.device, non_blocking=True)
        for number, (view, crops) in enumerate(zip(each, raw.crops, strict=True)):
            self._check(crops, number, index.size)
            key = ViewKey(seed=self.seed, epoch=epoch, view=number)
            params = draw_params(view.steps, index, key, side_px=self.settings.size_px)
            views.extend(self._expand(self._augment(crops, params), index, key))
            if number == 0 and target is not None:
                target = _flip(target, params)
                if self.settings.depth == "standardised":
                    target = standardise(target)
        return Batch(
            views=tuple(views),
            index=raw.index.to(self.device, non_blocking=True),
            label=None if raw.label is None else raw.label.to(self.device, non_blocking=True),
            target=target,
        )

    def _check(self, crops: Tensor, number: int, n_images: int) -> None:
        side = self.settings.size_px
        if crops.dtype != torch.uint8 or tuple(crops.shape) != (n_images, side, side, 3):
            given = f"{str(crops.dtype).removeprefix('torch.')} {tuple(crops.shape)}"
            raise DataError(f"crop {number} of a batch is {given}; needed: uint8 {(n_images, side, side, 3)}")

    def _augment(self, crops: Tensor, params: AugmentParams) -> Tensor:
        """Return augmented images, float32 (n, 3, side, side), on the device."""
        if self.device.type == "cpu":
            return torch.from_numpy(self._augment_on_cpu(crops.contiguous().numpy(), params))
        # Copies that block would wait for the step that the device is computing.
        mean, std = (torch.from_numpy(part).to(self.device, non_blocking=True) for part in self._norm)
        return augment_batch(crops.to(self.device, non_blocking=True), params, mean, std)

    def _augment_on_cpu(self, crops: NDArray[np.uint8], params: AugmentParams) -> NDArray[np.float32]:
        n_images, height, width, _ = crops.shape
        out = np.empty((n_images, 3, height, width), np.float32)
        threads = max(1, min(self._threads or torch.get_num_threads(), n_images))

        def work(first: int, last: int) -> None:
            part = slice(first, last)
            rows = (params.operations[part], params.amounts[part], params.taps[part])
            augment_images(crops[part], rows, self._norm, out[part])

        if threads == 1:
            work(0, n_images)
            return out
        # Python threads around code that holds no lock: numba's own would clash with those of ffcv, which
        # run at the same time.
        bounds = [n_images * part // threads for part in range(threads + 1)]
        futures = [self._thread_pool().submit(work, *bound) for bound in pairwise(bounds)]
        for future in futures:
            future.result()
        return out

    def _thread_pool(self) -> ThreadPoolExecutor:
        # A forked child has none of its parent's threads, so the pool belongs to a process.
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = (os.getpid(), ThreadPoolExecutor(thread_name_prefix="mvkit-views"))
        return self._pool[1]

    def _expand(self, view: Tensor, index: NDArray[np.int64], key: ViewKey) -> tuple[Tensor, ...]:
        expand = self.settings.expand
        if isinstance(expand, Rotations):
            return rotations(view)
        if isinstance(expand, Patches):
            return patches(view, expand, patch_offsets(expand, index, key))
        return (view,)


def standardise(maps: Tensor) -> Tensor:
    """Shift and scale every map to mean 0 and standard deviation 1.

    Parameters
    ----------
    maps
        float32 (n_images, 1, side, side). Standard deviations are the unbiased ones (divided by n - 1), as
        in the reference; one below 1 / sqrt(pixels) counts as that much, so that an even map becomes zeros
        and not noise.
    """
    least = maps[0].numel() ** -0.5
    means = maps.mean(dim=(1, 2, 3), keepdim=True)
    deviations = maps.std(dim=(1, 2, 3), keepdim=True, correction=1).clamp(min=least)
    return (maps - means) / deviations


def _flip(target: Tensor, params: AugmentParams) -> Tensor:
    """Exchange left and right of (n, 1, side, side) where those of the image are exchanged."""
    flips = torch.from_numpy(params.flips()).to(target.device, non_blocking=True).view(-1, 1, 1, 1)
    return torch.where(flips, target.flip(-1), target)
