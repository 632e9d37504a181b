"""PLS maps from features to responses: PLS2 regression of many target matrices on one set of images.

The algorithm is NIPALS with regression deflation (Wegelin 2000, section 4.1), rewritten so that nothing as
long as the features, and no deflated copy of anything, is ever formed. With the training features
``X = U D V'`` (:class:`~mvkit.scoring.gram.SplitCoordinates`) and the targets ``Y``:

- vectors in feature space are expressed in the coordinates ``V``, scores in ``U``, and ``M = U'Y``;
- after k components with orthonormal scores ``t_j`` and target loadings ``q_j = M't_j`` the residual
  covariance is ``S_k = X_k'Y_k = D (M - sum_j t_j q_j')``;
- a weight vector is an iterate of the power method on ``G = S_k S_k'``. It may as well be run on
  ``C = S_k'S_k`` in unit space, whichever is smaller (``w = S_k v``);
- scores are ``D w`` made orthogonal to earlier scores and of unit length; the same steps on ``w`` give the
  rotation ``r`` with ``t = X r``, so that the prediction for test images Z is ``sum_j (Z r_j) q_j'``;
- removing a component changes ``G`` and ``C`` by a symmetric matrix of rank 2. Rounding errors of these
  updates stay as large as the first ``G``, so it is formed again whenever it has shrunk a lot;
- ``X_(k+1) w = 0``, so that ``G_(k+1)`` has one dimension less than ``G_k``. A Householder reflection that
  turns w to the last coordinate (Golub & Van Loan 2013, section 5.1) takes it away: after 25 components of 58
  dimensions, products with ``G`` cost a third of what they did.

The power iteration is stopped where scikit-learn stops it. Its iterates are needed exactly, up to the one at
which the stopping rule ends, because the rule is loose (successive unit vectors nearer than 1e-3) and its
result differs visibly from the limit. But they can be had without multiplying by the matrix each time: all of
them lie in the Krylov space of the start vector, where the matrix is tridiagonal (Lanczos). The iteration
runs on the few coordinates in that space; a new basis vector, which costs one product with the matrix, is
added only when an iterate would otherwise lose more than ``OUTSIDE``. That halves the products on real data,
and bounds them by the size of the matrix.

Products of vectors and small matrices are written out: BLAS would spend more time in being called than in
multiplying vectors of some sixty numbers. What is read most often is stored in rows of whole SIMD registers
that begin at a cache line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

from mvkit.jit import compiled, compiled_part, expanded_part
from mvkit.scoring.gram import SplitCoordinates, layer_coordinates, split_coordinates
from mvkit.scoring.protocol import ZERO_TARGET, ImageSplit
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]

# The iterated matrix is formed again when its trace has fallen by this factor since it was last formed. Over
# features, rounding errors are small in coordinates of small variance; over units they are alike everywhere.
REFRESH, REFRESH_BY_UNITS = 1e-4, 1e-3
EPSILON = float(np.finfo(np.float64).eps)
# A target column with more than this share of its variance left is surely not constant.
SURELY_LEFT = 1e-10
# A squared length this small, relative to the first one, is rounding error: nothing is left to explain.
EXHAUSTED = 1e-28
# Share of an iterate (squared) that may fall outside the basis before the basis grows.
OUTSIDE = 1e-24
# A new basis vector this short, relative to the largest eigenvalue, is rounding error: the space is complete.
CLOSED = 1e-12
# An eigenvector is complete when this share of its image is outside the basis.
RESIDUAL = 1e-14
# Iterates are not brought to unit length until they are this long or short (squared).
LONG, SHORT = 1e100, 1e-100
# Rows are padded to a multiple of this many numbers, and begin at a multiple of this many bytes.
LANES = 16
ALIGNMENT = 64
# Products of larger matrices are left to BLAS.
SMALL = 128
# Fits that are prepared for the kernel at a time, if they are small.
FITS_AT_A_TIME = 16


def project_targets(targets: NDArray[np.float64], coordinates: SplitCoordinates) -> NDArray[np.float64]:
    """Return target matrices (n, n_train, n_units) in the principal coordinates, (n, rank, n_units)."""
    projected: NDArray[np.float64] = coordinates.basis @ targets
    return projected


def predict_test_images(
    targets: NDArray[np.float64],
    coordinates: SplitCoordinates,
    settings: ScoreSettings,
    given: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Fit one PLS map per target matrix, all units of it jointly, and predict the test images.

    Parameters
    ----------
    targets
        float64 (n_fits, n_train, n_units) as from :func:`~mvkit.scoring.protocol.training_targets`.
    coordinates
        Features of the split; they must allow a fit (``reason`` empty).
    settings
        Number of components and stopping rule.
    given
        The targets' projections as from :func:`project_targets`, if they are known.

    Returns
    -------
    ndarray
        float64 (n_fits, n_test, n_units): deviations from the unit's mean over training images.
    """
    n_fits, _, n_units = targets.shape
    rank = coordinates.scale.size
    # The matrix over features loses a row with each component, the one over units does not.
    by_units = n_units < rank - settings.most_components // 2
    size = n_units if by_units else rank
    rule = Rule(
        tolerance=settings.pls_tolerance,
        max_iterations=settings.pls_max_iterations,
        by_units=by_units,
        converged=settings.pls_stopping == "converged",
    )
    scale = aligned_zeros(padded_length(rank))
    # The coordinate of largest variance comes last, where weight vectors are turned to: as they mostly point
    # there, reflections leave coordinates of small variance nearly as they are, and as exact.
    scale[:rank] = coordinates.scale[::-1]
    basis, test = coordinates.basis[::-1].copy(), coordinates.test[:, ::-1].copy()
    space = workspace(size, rank, n_units, settings.most_components)
    # Arrays of a few fits are used again and again: they stay in the cache and are zeroed once.
    step = min(n_fits, FITS_AT_A_TIME if size <= SMALL else 1)
    projected = aligned_zeros(step, rank, padded_length(n_units))
    rotations = aligned_zeros(step, settings.most_components, padded_length(rank))
    loadings = aligned_zeros(step, settings.most_components, padded_length(n_units))
    predictions = np.empty((n_fits, coordinates.test.shape[0], n_units))
    # training_targets has them by image in memory; a read-only map would be another type.
    by_image = np.require(targets.transpose(1, 0, 2), requirements=["C", "W"])
    for begin in range(0, n_fits, step):
        part = targets[begin : begin + step]
        n = len(part)
        if given is None:
            np.matmul(basis, part, out=projected[:n, :, :n_units])
        else:
            projected[:n, :, :n_units] = given[begin : begin + n, ::-1]
        if size > SMALL:
            covariance = scale[:rank, None] * projected[0, :, :n_units]
            factors = (covariance.T, covariance) if by_units else (covariance, covariance.T)
            np.matmul(*factors, out=space.matrix[:, :size])
        fit_batch((basis, scale), by_image, begin, projected[:n], rule, space, (rotations, loadings))
        scores = rotations[:n, :, :rank] @ test.T
        np.matmul(scores.transpose(0, 2, 1), loadings[:n, :, :n_units], out=predictions[begin : begin + step])
    return predictions


def prepare_kernel() -> None:
    """Compile the kernel, or load it from disk, by fitting next to nothing."""
    images = np.arange(3)
    coordinates = split_coordinates(
        layer_coordinates("none", np.eye(3)), ImageSplit(images, images), n_components=1
    )
    predict_test_images(np.eye(3)[None], coordinates, ScoreSettings(n_components=1))


@compiled
def fit_batch(
    predictors: tuple[Array, Array],
    targets: Array,
    begin: int,
    projected: Array,
    rule: Rule,
    space: Workspace,
    results: tuple[Array, Array],
) -> None:
    """Fit the target matrices of some fits.

    Padded rows end with zeros; see :func:`padded_length`.

    Parameters
    ----------
    predictors
        ``basis`` (rank, n_train) and ``scale`` (rank,), padded, of ``SplitCoordinates``.
    targets
        float64 (n_train, all fits, n_units), centred over images; columns that take no part are zero.
    begin
        The first of these fits.
    projected
        float64 (n_fits, rank, n_units), rows padded: ``basis @ targets`` of each.
    rule
        Rule of the power iteration.
    space
        Work space for that size. Matrices larger than ``SMALL`` are in it already, one fit at a time.
    results
        ``rotations`` (n_fits or more, n_components, rank) and ``loadings`` (same, n_components, n_units),
        rows padded, overwritten. Components beyond those that exist are zero.
    """
    basis, scale = predictors
    rotations, loadings = results
    n_components = min(rotations.shape[1], basis.shape[0])
    refresh = REFRESH_BY_UNITS if rule.by_units else REFRESH
    whole = space
    rotations[:, :, :] = 0.0
    loadings[:, :, :] = 0.0
    for index in range(projected.shape[0]):
        fit = Fit(
            basis,
            scale,
            targets[:, begin + index],
            projected[index],
            space.scores,
            rotations[index],
            loadings[index],
        )
        matrix = whole.matrix
        space = narrowed(whole, matrix.shape[0])
        start = 0
        square = 0.0
        if matrix.shape[0] <= SMALL:
            form_matrix(matrix, fit, 0, rule, space)
        first_trace = trace_of(matrix)
        reference = first_trace
        for count in range(n_components):
            before = start
            start, square, left = start_column(fit, start, square, count)
            if start < 0 or not reference > EXHAUSTED * first_trace:
                break
            if count == 0 or start != before:
                find_covariance(fit, start, count, space)
            length = first_direction(matrix, fit, start, rule, space)
            if not length > 0.0:
                break
            # scikit-learn divides the first vector, X'y / y'y, by its length plus epsilon
            shrink = 1.0 / (1.0 + EPSILON * left / length)
            leading_direction(matrix, shrink, rule, space)
            if rule.by_units:
                to_feature_space(fit, count, space)
            else:
                _unreflect(space, count)
            length = add_component(fit, count, space)
            if length == 0.0 or count + 1 == n_components:
                break
            if rule.by_units:
                remove_component_by_units(matrix, fit, count, space)
            else:
                scale_row(space.image, 1.0 / length)
                remove_component(matrix, fit, count, start, space)
                matrix = matrix[: matrix.shape[0] - 1]
                if matrix.shape[0] % LANES == 0:
                    space = narrowed(whole, matrix.shape[0])
            if not trace_of(matrix) > refresh * reference:
                form_matrix(matrix, fit, count + 1, rule, space)
                reference = trace_of(matrix)


class Fit(NamedTuple):
    """One fit: its data, and the components so far (the first rows of the last three).

    Rows are padded with zeros, see :func:`padded_length`.
    """

    basis: Array  # (rank, n_train), not padded
    scale: Array  # (rank,)
    targets: Array  # (n_train, n_units), not padded; centred; columns that take no part are zero
    projected: Array  # (rank, n_units), basis @ targets
    scores: Array  # (n_components, rank), orthonormal, in the coordinates U
    rotations: Array  # (n_components, rank), in the coordinates V
    loadings: Array  # (n_components, n_units)


@expanded_part
def form_matrix(matrix: Array, fit: Fit, count: int, rule: Rule, space: Workspace) -> None:
    """Write ``S'S`` or ``SS'`` into ``matrix``."""
    covariance, weights = space.covariance, space.overlaps
    rank, n_units = fit.projected.shape
    for i in range(rank - 1, -1, -1):
        row = covariance[i]
        for unit in range(n_units):
            row[unit] = fit.projected[i, unit]
        for component in range(count):
            weights[component] = fit.scores[component, i]
        add_rows(fit.loadings, weights, count, -1.0, row)
        scale_row(row, fit.scale[i])
        if not rule.by_units:
            # reflections change this row by rows below it, which are ready
            n_below = min(count, rank - 1 - i)
            for below in range(n_below):
                last = rank - n_below + below
                component = rank - 1 - last
                weights[below] = space.reflections[component, i] * space.inverse_pivots[component]
            add_rows(covariance[rank - n_below :], weights, n_below, -1.0, row)
    rows = covariance
    if rule.by_units:
        rows = space.transposed
        for unit in range(matrix.shape[0]):
            for i in range(rank):
                rows[unit, i] = covariance[i, unit]
    for i in range(matrix.shape[0]):
        row_products(rows, rows[i], i + 1, matrix[i])
        for j in range(i):
            matrix[j, i] = matrix[i, j]


@expanded_part
def _is_explained(fit: Fit, unit: int, count: int) -> bool:
    """Return whether the residual of a target column is zero for scikit-learn."""
    for image in range(fit.targets.shape[0]):
        residual = fit.targets[image, unit]
        for component in range(count):
            fitted = 0.0
            for i in range(fit.basis.shape[0]):
                fitted += fit.scores[component, i] * fit.basis[i, image]
            residual -= fitted * fit.loadings[component, unit]
        if abs(residual) >= ZERO_TARGET:
            return False
    return True


@expanded_part
def start_column(fit: Fit, unit: int, square: float, count: int) -> tuple[int, float, float]:
    """Find the column that the power iteration starts from, its square, and that of its residual.

    It is the first from ``unit`` on whose residual is not zero; -1 if there is none. ``square`` is that of
    column ``unit``, or 0 if it is not known.
    """
    for column in range(unit, fit.targets.shape[1]):
        if column > unit or square == 0.0:
            square = 0.0
            for image in range(fit.targets.shape[0]):
                square += fit.targets[image, column] ** 2
        left = square
        for component in range(count):
            left -= fit.loadings[component, column] ** 2
        if square > 0.0 and (left > SURELY_LEFT * square or not _is_explained(fit, column, count)):
            return column, square, max(left, EPSILON * square)
    return -1, 0.0, 0.0


@expanded_part
def first_direction(matrix: Array, fit: Fit, start: int, rule: Rule, space: Workspace) -> float:
    """Write the first iterate from a start column; return |S_k e|.

    It is the column itself in unit space, and its covariance with the features in feature space. The limit
    of the iteration does not depend on it, so that ``converged`` may start from where most covariance lies.
    """
    direction = space.direction
    row = direction
    if rule.converged:
        start = 0
        for i in range(matrix.shape[0]):
            if matrix[i, i] > matrix[start, start]:
                start = i
        row = matrix[start]
    elif rule.by_units:
        for i in range(direction.size):
            direction[i] = 0.0
        direction[start] = 1.0
        return float(np.sqrt(max(matrix[start, start], 0.0)))
    else:
        row = space.start
    copy_row(row, direction.size, direction)
    return normalise(direction)


@expanded_part
def find_covariance(fit: Fit, start: int, count: int, space: Workspace) -> None:
    """Write the covariance of a start column with the features, after ``count`` components."""
    column, overlaps = space.start, space.overlaps
    for i in range(fit.projected.shape[0]):
        column[i] = fit.projected[i, start]
    for component in range(count):
        overlaps[component] = fit.loadings[component, start]
    add_rows(fit.scores, overlaps, count, -1.0, column)
    scale_by(column, fit.scale)
    _reflect(column, space, fit.projected.shape[0], count)


@expanded_part
def _reflect(row: Array, space: Workspace, rank: int, count: int) -> None:
    """Turn a vector of feature space that is orthogonal to all weight vectors so far.

    Its last entries, one for each of them, become zero.
    """
    for component in range(count):
        last = rank - 1 - component
        reflection = space.reflections[component]
        add_multiple(row, -row[last] * space.inverse_pivots[component], reflection)
        row[last] = 0.0


@expanded_part
def _unreflect(space: Workspace, count: int) -> None:
    """Write the weight vector of a direction in the turned coordinates into ``weights``."""
    weights, direction = space.weights, space.direction
    for i in range(weights.size):
        weights[i] = 0.0
    copy_row(direction, direction.size, weights)
    for component in range(count - 1, -1, -1):
        reflection = space.reflections[component]
        add_multiple(weights, -dot(reflection, weights), reflection)


@expanded_part
def to_feature_space(fit: Fit, count: int, space: Workspace) -> None:
    """Write the weight vector ``S_k v / |S_k v|`` of a direction v in unit space."""
    row_products(fit.projected, space.direction, fit.projected.shape[0], space.weights)
    row_products(fit.loadings, space.direction, count, space.overlaps)
    add_rows(fit.scores, space.overlaps, count, -1.0, space.weights)
    scale_by(space.weights, fit.scale)
    normalise(space.weights)


@expanded_part
def add_component(fit: Fit, count: int, space: Workspace) -> float:
    """Append score, rotation and loadings of a weight vector; return |X_k w|, 0 if nothing is left of it."""
    weights = space.weights
    score = fit.scores[count]
    rotation = fit.rotations[count]
    for i in range(weights.size):
        score[i] = fit.scale[i] * weights[i]
        rotation[i] = weights[i]
    first = dot(score, score)
    for _pass in range(2):  # once leaves rounding errors, twice does not
        row_products(fit.scores, score, count, space.overlaps)
        add_rows(fit.scores, space.overlaps, count, -1.0, score)
        add_rows(fit.rotations, space.overlaps, count, -1.0, rotation)
    square = dot(score, score)
    if not square > EXHAUSTED * first:
        return 0.0
    length = np.sqrt(square)
    scale_row(score, 1.0 / length)
    scale_row(rotation, 1.0 / length)
    add_rows(fit.projected, score, fit.projected.shape[0], 1.0, fit.loadings[count])
    return float(length)


@expanded_part
def remove_component(matrix: Array, fit: Fit, count: int, start: int, space: Workspace) -> None:
    """Remove the newest component from ``SS'``, which loses its last row and column.

    With ``g = D t``, ``S_(k+1) = S_k - g q'`` and ``G_(k+1) = G_k - g (S_k q)' - (S_k q) g' + |q|^2 g g'``;
    ``image`` is ``G_k w / |X_k w| = S_k q``. As ``X_(k+1) w = 0``, ``G_(k+1) w = 0``: the reflection
    ``I - r r'`` that turns w to the last coordinate leaves zeros there. From a vector that is orthogonal to
    w, it takes the multiple of r that clears the last entry: ``G_(k+1) r`` is its last column over ``r_l``.
    """
    size = matrix.shape[0]
    last = size - 1
    direction, image, gain = space.direction, space.image, space.gain
    loading = fit.loadings[count]
    copy_row(fit.scores[count], gain.size, gain)
    scale_by(gain, fit.scale)
    _reflect(gain, space, fit.projected.shape[0], count)
    add_multiple(image, -0.5 * dot(loading, loading), gain)
    reflection = space.reflections[count]
    for i in range(reflection.size):
        reflection[i] = 0.0
    copy_row(direction, direction.size, reflection)
    reflection[last] += 1.0 if direction[last] >= 0.0 else -1.0
    scale_row(reflection, 1.0 / np.sqrt(1.0 + abs(direction[last])))
    inverse = 1.0 / reflection[last]
    space.inverse_pivots[count] = inverse
    add_multiple(space.start, -loading[start], gain)
    add_multiple(space.start, -space.start[last] * inverse, reflection)
    space.start[last] = 0.0
    # what the reflection takes from the rows: the last column over r_l, less half of its part along r
    taken = space.weights
    for column in range(0, direction.size, LANES):
        block = load(matrix, (last, column))
        block = multiply_add(-gain[last], load(image, column), block)
        block = multiply_add(-image[last], load(gain, column), block)
        store(taken, column, block)
    scale_row(taken, inverse)
    add_multiple(taken[: direction.size], -0.5 * taken[last] * inverse, reflection)
    for column in range(0, direction.size, LANES):
        gains, images = load(gain, column), load(image, column)
        reflections, takens = load(reflection, column), load(taken, column)
        for i in range(last):
            block = load(matrix, (i, column))
            block = multiply_add(-gain[i], images, block)
            block = multiply_add(-image[i], gains, block)
            block = multiply_add(-reflection[i], takens, block)
            store(matrix, (i, column), multiply_add(-taken[i], reflections, block))
    for i in range(last):
        matrix[i, last] = 0.0


@expanded_part
def remove_component_by_units(matrix: Array, fit: Fit, count: int, space: Workspace) -> None:
    """Remove the newest component from ``S'S``.

    With ``g = D t`` and ``u = S_k'g``, ``C_(k+1) = C_k - q u' - u q' + |g|^2 q q'``.
    """
    loading = fit.loadings[count]
    gain, seen, partner = space.gain, space.weights, space.image
    for i in range(gain.size):
        gain[i] = fit.scale[i] * fit.scores[count, i]
        seen[i] = fit.scale[i] * gain[i]
    row_products(fit.scores, seen, count, space.overlaps)
    add_rows(fit.scores, space.overlaps, count, -1.0, seen)
    for i in range(partner.size):
        partner[i] = 0.0
    add_rows(fit.projected, seen, fit.projected.shape[0], 1.0, partner)
    add_multiple(partner, -0.5 * dot(gain, gain), loading)
    for column in range(0, partner.size, LANES):
        loadings, partners = load(loading, column), load(partner, column)
        for i in range(matrix.shape[0]):
            block = multiply_add(-loading[i], partners, load(matrix, (i, column)))
            store(matrix, (i, column), multiply_add(-partner[i], loadings, block))


class Rule(NamedTuple):
    """Rule by which the power iteration runs and stops.

    ``tolerance`` is the squared distance between successive weight vectors at which to stop,
    ``max_iterations`` the last iterate. With ``by_units`` the iterated vectors v live in unit space and
    the weight vectors are ``S v``. ``converged`` asks for the limit of the iteration instead.
    """

    tolerance: float
    max_iterations: int
    by_units: bool
    converged: bool


class Workspace(NamedTuple):
    """Work space of a fit, rows padded with zeros to ``width`` numbers or to those of a rank.

    The power iteration runs in an orthonormal ``basis``, where the matrix is tridiagonal: ``diagonal``, and
    ``beside[i]`` between coordinates i - 1 and i. ``iterates`` holds the coordinates of an iterate and of its
    image in turn. Zeros after the last one let loops run over whole blocks.
    """

    matrix: Array  # (size, width), the iterated matrix
    basis: Array  # (size + 1, width)
    diagonal: Array  # (width + 2 LANES,)
    beside: Array  # (width + 2 LANES,)
    iterates: Array  # (2, width + 2 LANES)
    overlaps: Array  # (size or n_components, + 1)
    direction: Array  # (width,) of the newest component in the iterated space, unit length
    image: Array  # (width,) the matrix times the direction
    scores: Array  # (n_components, rank)
    weights: Array  # (rank,) of the newest component, unit length
    gain: Array  # (rank,)
    start: Array  # (rank,) covariance of the start column with the features, after the components so far
    reflections: Array  # (n_components, rank)
    inverse_pivots: Array  # (n_components,), one over the last entry of each
    covariance: Array  # (rank, n_units)
    transposed: Array  # (n_units, rank)


def workspace(size: int, rank: int, n_units: int, n_components: int) -> Workspace:
    """Allocate the work space for matrices of that size."""
    width = padded_length(size)
    length = width + 2 * LANES
    return Workspace(
        matrix=aligned_zeros(size, width),
        basis=aligned_zeros(size + 1, width),
        diagonal=aligned_zeros(length),
        beside=aligned_zeros(length),
        iterates=aligned_zeros(2, length),
        overlaps=aligned_zeros(padded_length(max(size, n_components) + 1)),
        direction=aligned_zeros(width),
        image=aligned_zeros(width),
        scores=aligned_zeros(n_components, padded_length(rank)),
        weights=aligned_zeros(padded_length(rank)),
        gain=aligned_zeros(padded_length(rank)),
        start=aligned_zeros(padded_length(rank)),
        reflections=aligned_zeros(n_components, padded_length(rank)),
        inverse_pivots=aligned_zeros(n_components),
        covariance=aligned_zeros(rank, padded_length(n_units)),
        transposed=aligned_zeros(size, padded_length(rank)),
    )


@expanded_part
def narrowed(space: Workspace, size: int) -> Workspace:
    """Return the work space for matrices of a smaller size, in the same memory."""
    width = -(-size // LANES) * LANES
    return Workspace(
        space.matrix,
        space.basis.reshape(space.basis.size)[: (size + 1) * width].reshape((size + 1, width)),
        space.diagonal,
        space.beside,
        space.iterates,
        space.overlaps,
        space.direction[:width],
        space.image[:width],
        space.scores,
        space.weights,
        space.gain,
        space.start,
        space.reflections,
        space.inverse_pivots,
        space.covariance,
        space.transposed,
    )


@compiled_part
def _grow(matrix: Array, space: Workspace, last: int, length: float, unchecked: int) -> float:
    """Multiply the last basis vector by the matrix; what is new in it becomes the next basis vector.

    The last vector has this ``length`` until here, where it is brought to unit length: the product need not
    wait for that. ``unchecked`` of every four new vectors are not made orthogonal to all others explicitly.
    Returns the length of what is new, the entry of ``beside`` for the next vector.
    """
    basis = space.basis
    current = basis[last]
    previous = basis[max(last - 1, 0)]
    following = basis[last + 1]
    scale = 1.0 / length if length > 0.0 else 0.0
    for column in range(0, current.size, LANES):
        store(following, column, zeros())
    add_rows(matrix, current, matrix.shape[0], scale, following)
    products = zeros()
    for column in range(0, current.size, LANES):
        block = multiply_add(scale, load(current, column), zeros())
        store(current, column, block)
        products = multiply_add(block, load(following, column), products)
    along = total(products)
    before = space.beside[last]
    squares = zeros()
    for column in range(0, current.size, LANES):
        block = multiply_add(-along, load(current, column), load(following, column))
        block = multiply_add(-before, load(previous, column), block)
        squares = multiply_add(block, block, squares)
        store(following, column, block)
    space.diagonal[last] = along
    # In exact arithmetic the vector is orthogonal to all others by now. Rounding errors grow from step to
    # step; clearing two successive vectors of every four keeps them below the square root of epsilon, where
    # the tridiagonal matrix is as good as with none (Grcar 1981, Simon 1984).
    if last % 4 >= unchecked:
        row_products(basis, following, last + 1, space.overlaps)
        add_rows(basis, space.overlaps, last + 1, -1.0, following)
    return float(np.sqrt(total(squares)))


@expanded_part
def _largest_eigenvalue(space: Workspace, n: int, guess: float, bound: float) -> tuple[float, float]:
    """Return the largest eigenvalue of the tridiagonal matrix, and the last entry of its unit eigenvector.

    Laguerre's method from above (Wilkinson 1965, chapter 7): monotone for real roots, and cubic. It starts
    from ``guess``, or from ``bound``, which no eigenvalue exceeds, if the guess is too small. Logarithmic
    derivatives of the characteristic polynomial come from its pivots, those of the rows from the last one up.
    """
    diagonal, beside, pivots = space.diagonal, space.beside, space.overlaps
    value = guess
    for attempt in range(60):
        inverse = 1.0 / (value - diagonal[n - 1])
        slope, curve = 1.0, 0.0  # derivatives of the pivot
        pivots[n - 1] = inverse
        low = inverse
        minus_first = inverse  # first and second derivative of the polynomial's logarithm
        minus_second = inverse * inverse
        for i in range(n - 2, -1, -1):
            square = beside[i + 1] * beside[i + 1] * inverse
            factor = square * inverse
            curve = factor * (curve - 2.0 * slope * slope * inverse)
            slope = 1.0 + factor * slope
            inverse = 1.0 / (value - diagonal[i] - square)
            pivots[i] = inverse
            low = min(low, inverse)
            relative = slope * inverse
            minus_first += relative
            minus_second += relative * relative - curve * inverse
        if not low > 0.0:  # an eigenvalue is larger: than the guess, or by rounding
            if attempt:
                break
            value = bound
            continue
        spread = (n - 1) * (n * minus_second - minus_first * minus_first)
        step = n / (minus_first + np.sqrt(max(spread, 0.0)))
        if not step > 0.0:  # exactly there: the pivot is zero and the step is not a number
            break
        value -= step
        if step < 1e-6 * value:  # the next one would be below rounding
            break
    first, last = 1.0, 1.0
    for i in range(1, n):
        last *= beside[i] * pivots[i]
        first += last * last
    return value, last / np.sqrt(first)


@expanded_part
def _leading_eigenvector(matrix: Array, space: Workspace) -> int:
    """Write the leading eigenvector, and its image, as coordinates in the Krylov space of ``basis[0]``.

    The space grows until what is outside of it no longer matters. The vector comes from inverse iteration
    just above the eigenvalue, where the shifted matrix is definite, so that elimination is stable. Returns
    the number of coordinates.
    """
    diagonal, beside, iterates, pivots = space.diagonal, space.beside, space.iterates, space.overlaps
    size = matrix.shape[0]
    n = 0
    value = 0.0
    bound = 0.0
    while True:
        beside[n + 1] = _grow(matrix, space, n, beside[n] if n else 1.0, 0)
        n += 1
        bound = max(bound, (diagonal[n - 1] + beside[n - 1] + beside[n]) * (1.0 + 1e-15))
        closed = n == size or not beside[n] > CLOSED * bound
        if closed or n % 4 == 0:
            above, last = _largest_eigenvalue(space, n, value if value > 0.0 else bound, bound)
            residual = beside[n] * abs(last)
            if closed or residual < RESIDUAL * above:
                break
            value = above + residual
    value = above * (1.0 + 2e-14)  # surely above, in spite of rounding
    v = iterates[0]
    v[:n] = 1.0
    pivots[0] = 1.0 / (value - diagonal[0])
    for i in range(1, n):
        pivots[i] = 1.0 / (value - diagonal[i] - beside[i] * beside[i] * pivots[i - 1])
    for _step in range(3):
        # solve (value - T) x = v in place
        for i in range(1, n):
            v[i] += beside[i] * pivots[i - 1] * v[i - 1]
        v[n - 1] *= pivots[n - 1]
        for i in range(n - 1, 0, -1):
            v[i - 1] = (v[i - 1] + beside[i] * v[i]) * pivots[i - 1]
        normalise(v)
    for i in range(n):
        iterates[1, i] = above * v[i]
    return n


@expanded_part
def _power_iterate(matrix: Array, shrink: float, rule: Rule, space: Workspace) -> int:
    """Iterate ``v <- H v`` from ``basis[0]`` until the weight vectors come to rest.

    Writes the last iterate, of unit length, and its image. Returns the number of coordinates of the image.
    """
    diagonal, beside, iterates = space.diagonal, space.beside, space.iterates
    size = matrix.shape[0]
    iterates[0, 0] = 1.0
    n = 1  # coordinates of the iterate
    edge = _grow(matrix, space, 0, 1.0, 2)  # the entry of ``beside`` that leads out of them
    here, there = 1, 0  # rows of the iterate and of its image
    square = 1.0  # |v|^2
    overlap = 0.0  # inner product of the weight vectors of the last iterate and of this one
    last_norm = 1.0  # squared length of the last weight vector
    outside = 0.0
    nearest = (1.0 + shrink * shrink - rule.tolerance) / (2.0 * shrink)
    for iteration in range(rule.max_iterations):
        here, there = there, here
        stretches = zeros()
        squares = zeros()
        before = zeros()
        value = load(iterates, (here, 0))
        for column in range(0, n, LANES):
            after = load(iterates, (here, column + LANES))
            block = multiply_add(load(diagonal, column), value, zeros())
            block = multiply_add(load(beside, column), shift_up(before, value), block)
            block = multiply_add(load(beside, column + 1), shift_down(value, after), block)
            store(iterates, (there, column), block)
            stretches = multiply_add(block, value, stretches)
            squares = multiply_add(block, block, squares)
            before = value
            value = after
        stretch = total(stretches)  # v'Hv
        next_square = total(squares)  # |Hv|^2
        outside = edge * iterates[here, n - 1] if n < size else 0.0
        norm = stretch if rule.by_units else square
        if iteration:
            # |w_k - w_(k-1)|^2 < tolerance, solved for the inner product
            if overlap > 0.0 and overlap * overlap > nearest * nearest * last_norm * norm:
                break
            nearest = 1.0 - 0.5 * rule.tolerance
        next_square += outside * outside
        if iteration == rule.max_iterations - 1 or not next_square > 0.0:
            break
        last_norm = norm
        overlap = next_square if rule.by_units else stretch
        if outside * outside > OUTSIDE * next_square:
            iterates[there, n] = outside
            beside[n] = edge
            edge = _grow(matrix, space, n, edge, 2)
            n += 1
        if not SHORT < next_square < LONG:
            factor = 1.0 / np.sqrt(next_square)
            for i in range(n):
                iterates[there, i] *= factor
            overlap *= factor
            next_square = 1.0
        square = next_square
    if n < size:
        iterates[there, n] = iterates[here, n - 1]  # times a basis vector of length ``edge``
        n += 1
    scale = 1.0 / np.sqrt(square)
    for i in range(n):
        last, following = iterates[here, i] * scale, iterates[there, i] * scale
        iterates[0, i], iterates[1, i] = last, following
    return n


@expanded_part
def leading_direction(matrix: Array, shrink: float, rule: Rule, space: Workspace) -> None:
    """Find the direction of a component.

    Parameters
    ----------
    matrix
        H, symmetric, (size, width): ``S S'``, or ``S'S`` if ``rule.by_units``; the last columns are zero.
    shrink
        Length of the first weight vector in scikit-learn's arithmetic, where it falls a little short of 1.
    rule
        When to stop.
    space
        Work space. ``direction``, the unit vector to start from, is overwritten with the last iterate, unit
        length, and ``image`` with H times the last iterate.
    """
    direction, image = space.direction, space.image
    space.iterates[:, :] = 0.0
    space.diagonal[:] = 0.0
    space.beside[:] = 0.0
    for column in range(0, direction.size, LANES):
        store(space.basis, (0, column), load(direction, column))
        store(direction, column, zeros())
        store(image, column, zeros())
    if rule.converged:
        n = _leading_eigenvector(matrix, space)
    else:
        n = _power_iterate(matrix, shrink, rule, space)
    add_rows(space.basis, space.iterates[0], n, 1.0, direction)
    add_rows(space.basis, space.iterates[1], n, 1.0, image)
    scale = 1.0 / np.sqrt(dot(direction, direction))
    scale_row(direction, scale)
    scale_row(image, scale)


def padded_length(size: int) -> int:
    """Return the length of a padded row of ``size`` numbers."""
    return -(-size // LANES) * LANES


def aligned_zeros(*shape: int) -> Array:
    """Return float64 zeros whose first entry begins at a cache line."""
    n_bytes = 8 * int(np.prod(shape))
    buffer = np.zeros(n_bytes + ALIGNMENT, dtype=np.uint8)
    begin = -buffer.ctypes.data % ALIGNMENT
    return buffer[begin : begin + n_bytes].view(np.float64).reshape(shape)


@compiled_part
def load(array: Array, index: Any) -> Any:
    """Return the block of an array that begins at an index."""
    return load_like(zeros(), array, index)


@compiled_part
def trace_of(matrix: Array) -> float:
    """Return the sum of the diagonal of a matrix whose rows are padded."""
    trace = 0.0
    for i in range(matrix.shape[0]):
        trace += matrix[i, i]
    return trace


@compiled_part
def dot(x: Array, y: Array) -> float:
    """Return the inner product of two padded rows."""
    products = zeros()
    for column in range(0, x.size, LANES):
        products = multiply_add(load(x, column), load(y, column), products)
    product: float = total(products)
    return product


@compiled_part
def add_multiple(result: Array, factor: float, row: Array) -> None:
    """Add ``factor * row`` to ``result``, both padded."""
    for column in range(0, result.size, LANES):
        store(result, column, multiply_add(factor, load(row, column), load(result, column)))


@compiled_part
def scale_by(result: Array, factors: Array) -> None:
    """Multiply a padded row by another, number by number."""
    for column in range(0, result.size, LANES):
        store(result, column, multiply_add(load(factors, column), load(result, column), zeros()))


@compiled_part
def normalise(row: Array) -> float:
    """Bring a padded row to unit length; return the length it had."""
    length = np.sqrt(dot(row, row))
    scale_row(row, 1.0 / length if length > 0.0 else 0.0)
    return float(length)


@compiled_part
def add_rows(matrix: Array, weights: Array, n_rows: int, factor: float, result: Array) -> None:
    """Add ``factor * weights @ matrix`` (first ``n_rows`` rows, padded) to ``result``."""
    column = 0
    while column < result.size:
        left = result.size - column
        if left >= 64:
            _add_tiles(matrix, weights, n_rows, factor, result, (column, column + 32), (zeros32(), zeros32()))
            column += 64
        elif left >= 48:
            _add_tiles(matrix, weights, n_rows, factor, result, (column, column + 32), (zeros32(), zeros()))
            column += 48
        elif left >= 32:
            _add_tiles(matrix, weights, n_rows, factor, result, (column, column + 16), (zeros(), zeros()))
            column += 32
        else:
            _add_tiles(matrix, weights, n_rows, factor, result, (column, column + 8), (zeros8(), zeros8()))
            column += 16


@compiled_part
def _add_tiles(
    matrix: Array,
    weights: Array,
    n_rows: int,
    factor: float,
    result: Array,
    columns: tuple[int, int],
    sums: tuple[Any, Any],
) -> None:
    """Do this for two neighbouring blocks of columns, whose sums (of zeros) stay in registers."""
    first, second = sums
    left, right = columns
    for row in range(n_rows):
        first = multiply_add(weights[row], load_like(first, matrix, (row, left)), first)
        second = multiply_add(weights[row], load_like(second, matrix, (row, right)), second)
    store(result, left, multiply_add(factor, first, load_like(first, result, left)))
    store(result, right, multiply_add(factor, second, load_like(second, result, right)))


@compiled_part
def copy_row(row: Array, size: int, result: Array) -> None:
    """Write the first entries of a padded row into another."""
    for column in range(0, size, LANES):
        store(result, column, load(row, column))


@compiled_part
def scale_row(row: Array, factor: float) -> None:
    """Multiply a padded row by a number."""
    for column in range(0, row.size, LANES):
        store(row, column, multiply_add(factor, load(row, column), zeros()))


@compiled_part
def row_products(matrix: Array, vector: Array, n_rows: int, result: Array) -> None:
    """Write ``matrix[:n_rows] @ vector`` into ``result``; rows and vector are padded."""
    whole = n_rows - n_rows % 4
    for row in range(0, whole, 4):
        first, second, third, fourth = zeros(), zeros(), zeros(), zeros()
        for column in range(0, vector.size, LANES):
            block = load(vector, column)
            first = multiply_add(block, load(matrix, (row, column)), first)
            second = multiply_add(block, load(matrix, (row + 1, column)), second)
            third = multiply_add(block, load(matrix, (row + 2, column)), third)
            fourth = multiply_add(block, load(matrix, (row + 3, column)), fourth)
        store(result, row, totals(first, second, third, fourth))
    for row in range(whole, n_rows):
        products = zeros()
        for column in range(0, vector.size, LANES):
            products = multiply_add(load(vector, column), load(matrix, (row, column)), products)
        result[row] = total(products)


class Block(types.Type):
    """A block of float64 numbers, held in as many SIMD registers as the processor needs for them.

    Compilers leave sums of a loop in memory, or in one register, where their registers would hold a block of
    them. With blocks, what is in registers is decided here, and so is the order of all sums: it depends on
    neither the processor nor the compiler.
    """

    def __init__(self, lanes: int) -> None:
        super().__init__(name=f"block({lanes})")
        self.vector = ir.VectorType(ir.DoubleType(), lanes)


_cgutils: Any = cgutils


@register_model(Block)
class _BlockModel(models.PrimitiveModel):
    def __init__(self, manager: Any, block: Block) -> None:
        super().__init__(manager, block, block.vector)  # type: ignore[no-untyped-call]


def _pick(builder: Any, first: Any, second: Any, entries: Iterable[int]) -> Any:
    """Build the instruction that picks entries of two vectors, counted through both."""
    chosen = list(entries)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), chosen)
    return builder.shuffle_vector(first, second, mask)


def _pointer(context: Any, builder: Any, array_type: Any, index_type: Any, array: Any, index: Any) -> Any:
    """Build the address of an array's entry."""
    indices = _cgutils.unpack_tuple(builder, index) if isinstance(index_type, types.BaseTuple) else [index]
    indices = [builder.sext(i, ir.IntType(64)) if i.type.width < 64 else i for i in indices]
    structure = context.make_array(array_type)(context, builder, array)
    return _cgutils.get_item_pointer(context, builder, array_type, structure, indices)


def _zeros(lanes: int) -> Any:
    block = Block(lanes)

    def zeros(_typing: Any) -> Any:
        """Return a block of zeros."""

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return ir.Constant(block.vector, [0.0] * lanes)

        return block(), generate

    return intrinsic(zeros)


def _load_like(_typing: Any, like: Any, array: Any, index: Any) -> Any:
    """Return the block of an array that begins at an index, as long as another block."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _pointer(context, builder, *signature.args[1:], *values[1:])
        return builder.load(builder.bitcast(pointer, like.vector.as_pointer()), align=8)

    return like(like, array, index), generate


def _store(_typing: Any, array: Any, index: Any, block: Any) -> Any:
    """Write a block into an array from an index on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _pointer(context, builder, *signature.args[:2], *values[:2])
        builder.store(values[2], builder.bitcast(pointer, block.vector.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, index, block), generate


def _multiply_add(_typing: Any, factor: Any, block: Any, addend: Any) -> Any:
    """Return ``factor * block + addend``, rounded once; the factor is a number or a block."""
    vector = block.vector

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first = values[0]
        if signature.args[0] != block:
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), first, ir.IntType(32)(0))
            first = _pick(builder, single, single, [0] * vector.count)
        function_type = ir.FunctionType(vector, [vector] * 3)
        name = f"llvm.fmuladd.v{vector.count}f64"
        function = _cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, [first, values[1], values[2]])

    return block(block if isinstance(factor, Block) else types.float64, block, addend), generate


def _total(_typing: Any, block: Any) -> Any:
    """Return the sum of a block: of halves, of their halves and so on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (rest,) = values
        half = block.vector.count // 2
        while half:
            low, high = (_pick(builder, rest, rest, range(at, at + half)) for at in (0, half))
            rest = builder.fadd(low, high)
            half //= 2
        return builder.extract_element(rest, ir.IntType(32)(0))

    return types.float64(block), generate


def _totals(_typing: Any, first: Any, second: Any, third: Any, fourth: Any) -> Any:
    """Return the sums of four blocks, as a block."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        # Halves are added as in ``total``. From eight lanes on, each step puts two vectors side by side.
        rows, n = list(values), first.vector.count
        while n > 1:
            side_by_side = n <= 8 and len(rows) > 1
            pairs = zip(rows[::2], rows[1::2], strict=True) if side_by_side else zip(rows, rows, strict=True)
            length = rows[0].type.count * (2 if side_by_side else 1)
            n //= 2
            low = [begin + i for begin in range(0, length, 2 * n) for i in range(n)]
            high = [i + n for i in low]
            rows = [builder.fadd(_pick(builder, *pair, low), _pick(builder, *pair, high)) for pair in pairs]
        return rows[0]

    return Block(4)(first, second, third, fourth), generate


def _shift(first_entry: int) -> Any:
    def shift(_typing: Any, first: Any, second: Any) -> Any:
        """Return the block of numbers from ``first_entry`` on in two successive blocks."""

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return _pick(builder, values[0], values[1], range(first_entry, first_entry + LANES))

        return first(first, second), generate

    return intrinsic(shift)


zeros, zeros8, zeros32 = _zeros(LANES), _zeros(8), _zeros(32)
load_like: Any = intrinsic(_load_like)
store: Any = intrinsic(_store)
multiply_add: Any = intrinsic(_multiply_add)
total: Any = intrinsic(_total)
totals: Any = intrinsic(_totals)
shift_up: Any = _shift(LANES - 1)
shift_down: Any = _shift(1)
