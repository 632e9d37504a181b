"""PLS fits on a device of torch: the target matrices of many split halves and image splits as one batch.

The mathematics is that of :mod:`mvkit.scoring.pls` with ``pls_stopping="converged"``, in float64; predictions
differ by rounding. Features are in principal coordinates, ``X = U D V'``, and after k components with
orthonormal scores the residual covariance is ``S_k = D M_k``, ``M_k = U'Y - sum_j t_j q_j'``. A weight vector
is the leading eigenvector of ``S_k S_k'``, or ``S_k`` times that of ``S_k'S_k``, whichever matrix is smaller.

The eigenvector comes from squaring the matrix again and again, until one direction is left: n squarings are
the power iteration to its 2^n-th iterate, with rounding errors like those of an eigendecomposition (the unit
of rounding over the gap between the eigenvalues). Products of many small matrices are what GPUs are good at;
``torch.linalg.eigh`` takes the matrices of a batch one after another on CUDA if they are larger than 32 x 32
(pytorch issues 174674 and 175585).

Only :class:`mvkit.scoring.maps.DevicePLS` imports this module, when it fits: scoring does not need torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvkit.errors import FitError, wording
from mvkit.machine import choose_device, describe_gpu
from mvkit.scoring.gram import SplitCoordinates
from mvkit.scoring.pls import EXHAUSTED, SURELY_LEFT
from mvkit.scoring.protocol import ZERO_TARGET
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]

# Squarings at most: eigenvalues that differ by less than 2^-56 of themselves are equal to rounding.
MOST_SQUARINGS = 56
# Sum of squares of the eigenvalues (whose sum is 1) from which on one more squaring leaves 2e-17 of all but
# the largest.
ONE_LEFT = 1.0 - 1e-8


def describe_device(device: str) -> str:
    """Return a device with the name of its GPU, as scores note it: ``cuda:0 (NVIDIA H100)``."""
    return describe_gpu(choose_device(device)) or device


def predict_splits(
    targets: Sequence[Array], coordinates: Sequence[SplitCoordinates], settings: ScoreSettings, device: str
) -> list[Array]:
    """Fit one PLS map per target matrix of several image splits and predict their test images.

    Where a batch of all does not fit in the device's memory, fits of each split are divided in two, and
    again; then splits are.

    Parameters
    ----------
    targets
        Of every split float64 (n_fits, n_train, n_units), as from
        :func:`~mvkit.scoring.protocol.training_targets`; all of one shape.
    coordinates
        Features of every split; they must allow a fit (``reason`` empty). Ranks may differ.
    settings
        Number of components. The stopping rule is ``"converged"``, whatever they say.
    device
        Of torch, with float64: ``"cuda"``, ``"cuda:1"``, ``"cpu"``.

    Returns
    -------
    list of ndarray
        Of every split float64 (n_fits, n_test, n_units): deviations from the unit's mean over training
        images, as from :func:`~mvkit.scoring.pls.predict_test_images`.

    Raises
    ------
    FitError
        If the device's memory is too small for a single fit.
    """
    if not targets:
        return []
    try:
        return _predict_batch(targets, coordinates, settings, torch.device(device))
    except torch.OutOfMemoryError:
        # Left before the next try: the error holds what has been allocated.
        pass
    torch.cuda.empty_cache()
    n_splits, n_fits = len(targets), len(targets[0])
    if n_fits > 1:
        half = n_fits // 2
        parts = [
            predict_splits([of_split[part] for of_split in targets], coordinates, settings, device)
            for part in (slice(half), slice(half, None))
        ]
        return [np.concatenate(pair) for pair in zip(*parts, strict=True)]
    if n_splits > 1:
        half = n_splits // 2
        first = predict_splits(targets[:half], coordinates[:half], settings, device)
        return first + predict_splits(targets[half:], coordinates[half:], settings, device)
    raise FitError(
        f"{device}: its memory is too small for one PLS fit of {targets[0].shape[2]} units to "
        f"{targets[0].shape[1]} images\n"
        f"leave {wording('--device', 'device')} out: the fits are then made on the processor"
    )


@torch.inference_mode()
def _predict_batch(
    targets: Sequence[Array],
    coordinates: Sequence[SplitCoordinates],
    settings: ScoreSettings,
    device: torch.device,
) -> list[Array]:
    """Do what :func:`predict_splits` does, with all fits in memory at a time."""
    rank = max(part.scale.size for part in coordinates)
    # A direction of scale 0 is no direction: ranks need not be the same.
    basis, scale, test = (
        torch.from_numpy(np.stack(parts)).to(device)
        for parts in (
            [_pad(part.basis, rank, axis=0) for part in coordinates],
            [_pad(part.scale, rank, axis=0) for part in coordinates],
            [_pad(part.test, rank, axis=1) for part in coordinates],
        )
    )
    responses = torch.from_numpy(np.stack(targets)).to(device)
    rotations, loadings = fit_splits(basis, scale, responses, settings.most_components)
    n_splits, n_fits, n_components, _ = rotations.shape
    scores = rotations.reshape(n_splits, n_fits * n_components, rank) @ test.mT
    scores = scores.reshape(n_splits, n_fits, n_components, -1)
    return list((scores.mT @ loadings).cpu().numpy())


def _pad(values: Array, size: int, *, axis: int) -> Array:
    """Append zeros along an axis."""
    missing = [(0, size - length if own == axis else 0) for own, length in enumerate(values.shape)]
    return np.pad(values, missing)


def fit_splits(basis: Tensor, scale: Tensor, targets: Tensor, n_components: int) -> tuple[Tensor, Tensor]:
    """Fit every target matrix of every split.

    Parameters
    ----------
    basis, scale
        float64 (n_splits, rank, n_train) and (n_splits, rank) of
        :class:`~mvkit.scoring.gram.SplitCoordinates`, filled up with zeros.
    targets
        float64 (n_splits, n_fits, n_train, n_units), centred; columns of zeros take no part.
    n_components
        Components at most.

    Returns
    -------
    rotations
        float64 (n_splits, n_fits, n_components, rank): scores of test images are their coordinates times it.
    loadings
        float64 (n_splits, n_fits, n_components, n_units). Components beyond those that exist are zero.
    """
    n_splits, n_fits, _, n_units = targets.shape
    rank = scale.shape[1]
    residual = (basis[:, None] @ targets).flatten(0, 1)  # M_k: (all fits, rank, n_units)
    gains = scale.repeat_interleave(n_fits, dim=0)  # (all fits, rank)
    sizes = targets.square().sum(dim=2).flatten(0, 1)  # (all fits, n_units)
    scores, rotations = residual.new_zeros(2, len(gains), n_components, rank)
    loadings = residual.new_zeros(len(gains), n_components, n_units)
    goes_on = sizes.sum(dim=1) > 0.0
    first_trace: Tensor | None = None
    for count in range(min(n_components, rank)):
        covariance = gains[:, :, None] * residual
        by_units = n_units < rank
        matrix = covariance.mT @ covariance if by_units else covariance @ covariance.mT
        trace = _trace(matrix)
        first_trace = trace if first_trace is None else first_trace
        goes_on &= trace > EXHAUSTED * first_trace
        left = sizes - loadings[:, :count].square().sum(dim=1)
        unsure = (goes_on & ~(left > SURELY_LEFT * sizes).any(dim=1)).nonzero()[:, 0]
        if unsure.numel():
            fitted = scores[unsure, :count].mT @ loadings[unsure, :count]
            rest = targets.flatten(0, 1)[unsure] - basis[unsure // n_fits].mT @ fitted
            goes_on[unsure] = (rest.abs() >= ZERO_TARGET).flatten(1).any(dim=1)
        direction = leading_eigenvectors(matrix, goes_on)
        weights = (covariance @ direction[:, :, None])[:, :, 0] if by_units else direction
        weights = weights / torch.linalg.vector_norm(weights, dim=1, keepdim=True)
        score, rotation = gains * weights, weights
        first = score.square().sum(dim=1)
        for _pass in range(2):  # once leaves rounding errors, twice does not
            overlaps = (scores[:, :count] @ score[:, :, None]).mT
            score = score - (overlaps @ scores[:, :count])[:, 0]
            rotation = rotation - (overlaps @ rotations[:, :count])[:, 0]
        square = score.square().sum(dim=1)
        goes_on &= square > EXHAUSTED * first
        length = square.sqrt()[:, None]
        scores[:, count] = torch.where(goes_on[:, None], score / length, 0.0)
        rotations[:, count] = torch.where(goes_on[:, None], rotation / length, 0.0)
        loadings[:, count] = (scores[:, count, None] @ residual)[:, 0]
        residual -= scores[:, count, :, None] * loadings[:, count, None]
    shape = (n_splits, n_fits, n_components)
    return rotations.reshape(*shape, rank), loadings.reshape(*shape, n_units)


def leading_eigenvectors(matrices: Tensor, is_needed: Tensor) -> Tensor:
    """Return the eigenvector of the largest eigenvalue of every matrix.

    Parameters
    ----------
    matrices
        float64 (n, size, size), symmetric, positive semidefinite.
    is_needed
        bool (n,); the other matrices may be zero and get a unit vector.

    Returns
    -------
    Tensor
        float64 (n, size), of unit length; where the largest eigenvalue is a multiple one, some vector of its
        space.
    """
    powers = torch.zeros_like(matrices)
    powers[:, 0, 0] = 1.0
    powers = torch.where(is_needed[:, None, None], matrices / _trace(matrices)[:, None, None], powers)
    several = is_needed.nonzero()[:, 0]  # those that are not down to one direction yet
    for _squaring in range(MOST_SQUARINGS):
        if not several.numel():
            break
        square = powers[several]
        square = square @ square
        share = _trace(square)
        powers[several] = square / share[:, None, None]
        several = several[share < ONE_LEFT]
    largest = powers.diagonal(dim1=1, dim2=2).argmax(dim=1)
    vectors = powers[torch.arange(len(powers), device=powers.device), largest]
    unit: Tensor = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return unit


def _trace(matrices: Tensor) -> Tensor:
    """Return the trace of every matrix (n, size, size)."""
    traces: Tensor = torch.einsum("nii->n", matrices)
    return traces
