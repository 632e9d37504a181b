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
  updates stay as large as the first ``G``, so it is formed again whenever it has shrunk a lot.

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

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import FitError
from mvkit.jit import compiled, compiled_part, expanded_part
from mvkit.scoring.gram import SplitCoordinates, layer_coordinates, split_coordinates
from mvkit.scoring.protocol import ZERO_TARGET, ImageSplit, training_targets
from mvkit.scoring.settings import DEFAULT_SETTINGS, ScoreSettings

Array = NDArray[np.float64]

# The iterated matrix is formed again when its trace has fallen by this factor since it was last formed.
REFRESH = 1e-4
EPSILON = float(np.finfo(np.float64).eps)
# A target column with more than this share of its variance left is surely not constant.
SURELY_LEFT = 1e-10
# A squared length this small, relative to the first one, is rounding error: nothing is left to explain.
EXHAUSTED = 1e-28
# Share of an iterate (squared) that may fall outside the basis before the basis grows.
OUTSIDE = 1e-24
# A new basis vector this short, relative to the largest eigenvalue, is rounding error: the space is complete.
CLOSED = 1e-12
# Iterates are not brought to unit length until they are this long or short (squared).
LONG, SHORT = 1e100, 1e-100
# Rows are padded to a multiple of this many numbers, and begin at a multiple of this many bytes.
LANES = 8
ALIGNMENT = 64


def predict_test_images(
    targets: NDArray[np.float64], coordinates: SplitCoordinates, settings: ScoreSettings
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

    Returns
    -------
    ndarray
        float64 (n_fits, n_test, n_units): deviations from the unit's mean over training images.
    """
    n_fits, _, n_units = targets.shape
    rank = coordinates.scale.size
    scale = aligned_zeros(padded_length(rank))
    scale[:rank] = coordinates.scale
    projected = aligned_zeros(n_fits, rank, padded_length(n_units))
    np.matmul(coordinates.basis, targets, out=projected[:, :, :n_units])
    covariance = coordinates.scale[:, None] * projected[:, :, :n_units]
    transposed = covariance.transpose(0, 2, 1)
    size = min(rank, n_units)
    matrices = aligned_zeros(n_fits, size, padded_length(size))
    factors = (transposed, covariance) if n_units < rank else (covariance, transposed)
    np.matmul(*factors, out=matrices[:, :, :size])
    rule = Rule(
        tolerance=settings.pls_tolerance,
        max_iterations=settings.pls_max_iterations,
        by_units=n_units < rank,
        converged=settings.pls_stopping == "converged",
    )
    rotations = aligned_zeros(n_fits, settings.most_components, padded_length(rank))
    loadings = aligned_zeros(n_fits, settings.most_components, padded_length(n_units))
    fit_batch(
        (np.array(coordinates.basis), scale),  # a read-only map of shared memory would be another type
        np.ascontiguousarray(targets),
        projected,
        matrices,
        rule,
        krylov_space(size),
        (rotations, loadings),
    )
    scores = rotations[:, :, :rank] @ coordinates.test.T
    predictions: NDArray[np.float64] = scores.transpose(0, 2, 1) @ loadings[:, :, :n_units]
    return predictions


def prepare_kernel() -> None:
    """Compile the kernel, or load it from disk, by fitting next to nothing."""
    images = np.arange(3)
    coordinates = split_coordinates(
        layer_coordinates("none", np.eye(3)), ImageSplit(images, images), n_components=1
    )
    predict_test_images(np.eye(3)[None], coordinates, ScoreSettings(n_components=1))


def pls_predict(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    split: ImageSplit,
    settings: ScoreSettings = DEFAULT_SETTINGS,
) -> NDArray[np.float64]:
    """Fit a PLS2 map on the training images and predict the responses to the test images.

    25 components by default, centred, not scaled, all units jointly (goldens section 4; the weights follow
    scikit-learn's ``PLSRegression(scale=False)``).

    Parameters
    ----------
    features
        (n_images, n_features).
    responses
        (n_images, n_units); a unit with NaN on a training image is left out of the fit.
    split
        Training and test images.
    settings
        Number of components and stopping rule.

    Returns
    -------
    ndarray
        float64 (n_test, n_units), in the units of measure of the responses; NaN for a unit left out.

    Raises
    ------
    FitError
        If the features cannot be mapped: fewer than ``n_components`` of them, or constant.
    """
    coordinates = split_coordinates(layer_coordinates("features", features), split, settings.most_components)
    if coordinates.reason:
        raise FitError(coordinates.reason)
    train = np.asarray(responses, dtype=np.float64)[split.train]
    targets, _ = training_targets(train[None])
    deviations = predict_test_images(targets, coordinates, settings)[0]
    predictions: NDArray[np.float64] = deviations + train.mean(axis=0)
    return predictions


@compiled
def fit_batch(
    predictors: tuple[Array, Array],
    targets: Array,
    projected: Array,
    matrices: Array,
    rule: Rule,
    space: Krylov,
    results: tuple[Array, Array],
) -> None:
    """Fit every target matrix.

    Padded rows end with zeros; see :func:`padded_length`.

    Parameters
    ----------
    predictors
        ``basis`` (rank, n_train) and ``scale`` (rank,), padded, of ``SplitCoordinates``.
    targets
        float64 (n_fits, n_train, n_units), centred over images; columns that take no part are zero.
    projected
        float64 (n_fits, rank, n_units), rows padded: ``basis @ targets``.
    matrices
        float64 (n_fits, size, size), rows padded: the matrix to iterate for each fit; destroyed.
    rule
        Rule of the power iteration.
    space
        Work space for that size.
    results
        ``rotations`` (n_fits, n_components, rank) and ``loadings`` (n_fits, n_components, n_units),
        rows padded, overwritten. Components beyond those that exist are zero.
    """
    basis, scale = predictors
    rotations, loadings = results
    n_components = min(rotations.shape[1], basis.shape[0])
    _, size, width = matrices.shape
    scores = np.zeros((n_components, scale.size))
    direction = np.zeros(width)
    image = np.zeros(width)
    weights = np.zeros(scale.size)
    rotations[:, :, :] = 0.0
    loadings[:, :, :] = 0.0
    for index in range(targets.shape[0]):
        fit = Fit(basis, scale, targets[index], projected[index], scores, rotations[index], loadings[index])
        matrix = matrices[index]
        start = 0
        first_trace = 0.0
        for i in range(size):
            first_trace += matrix[i, i]
        reference = first_trace
        for count in range(n_components):
            start, left = start_column(fit, start, count)
            if start < 0 or not reference > EXHAUSTED * first_trace:
                break
            length = first_direction(direction, matrix, fit, start, count, rule)
            if not length > 0.0:
                break
            # scikit-learn divides the first vector, X'y / y'y, by its length plus epsilon
            shrink = 1.0 / (1.0 + EPSILON * left / length)
            leading_direction(matrix, direction, image, shrink, rule, space)
            if rule.by_units:
                to_feature_space(direction, weights, fit, count)
                length = add_component(weights, fit, count)
            else:
                length = add_component(direction, fit, count)
            if length == 0.0:
                break
            for i in range(width):
                image[i] /= length
            trace = remove_component(matrix, image, fit, count, rule)
            if not trace > REFRESH * reference:
                reference = form_matrix(matrix, fit, count + 1, rule)


class Fit(NamedTuple):
    """One fit: its data, and the components so far (the first rows of the last three).

    Rows are padded with zeros, see :func:`padded_length`.
    """

    basis: Array  # (rank, n_train)
    scale: Array  # (rank,), padded
    targets: Array  # (n_train, n_units), centred; columns that take no part are zero
    projected: Array  # (rank, n_units), basis @ targets; rows padded
    scores: Array  # (n_components, rank), orthonormal, in the coordinates U; rows padded
    rotations: Array  # (n_components, rank), in the coordinates V; rows padded
    loadings: Array  # (n_components, n_units); rows padded


@expanded_part
def form_matrix(matrix: Array, fit: Fit, count: int, rule: Rule) -> float:
    """Write ``S'S`` or ``SS'`` into ``matrix``; return its trace."""
    covariance = fit.projected.copy()
    rank, n_units = covariance.shape
    negative = np.empty(count)
    for i in range(rank):
        for component in range(count):
            negative[component] = -fit.scores[component, i]
        add_rows(fit.loadings, negative, count, covariance[i])
        for unit in range(n_units):
            covariance[i, unit] *= fit.scale[i]
    rows = covariance.T.copy() if rule.by_units else covariance
    trace = 0.0
    for i in range(matrix.shape[0]):
        for j in range(i + 1):
            matrix[i, j] = dot(rows[i], rows[j])
            matrix[j, i] = matrix[i, j]
        trace += matrix[i, i]
    return trace


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
def start_column(fit: Fit, unit: int, count: int) -> tuple[int, float]:
    """Find the column that the power iteration starts from, and its squared residual.

    It is the first from ``unit`` on whose residual is not zero; -1 if there is none.
    """
    for column in range(unit, fit.targets.shape[1]):
        total = 0.0
        for image in range(fit.targets.shape[0]):
            total += fit.targets[image, column] ** 2
        left = total
        for component in range(count):
            left -= fit.loadings[component, column] ** 2
        if total > 0.0 and (left > SURELY_LEFT * total or not _is_explained(fit, column, count)):
            return column, max(left, EPSILON * total)
    return -1, 0.0


@expanded_part
def first_direction(direction: Array, matrix: Array, fit: Fit, start: int, count: int, rule: Rule) -> float:
    """Write the first iterate from a start column, after ``count`` components; return |S_k e|.

    It is the column itself in unit space, and its covariance with the features in feature space. The limit
    of the iteration does not depend on it, so that ``converged`` may start from where most covariance lies.
    """
    size = matrix.shape[0]
    if rule.converged:
        start = 0
        for i in range(size):
            if matrix[i, i] > matrix[start, start]:
                start = i
    if rule.by_units or rule.converged:
        for i in range(size):
            direction[i] = 0.0
        direction[start] = 1.0
        return float(np.sqrt(max(matrix[start, start], 0.0)))
    for i in range(size):
        direction[i] = fit.projected[i, start]
    for component in range(count):
        for i in range(size):
            direction[i] -= fit.loadings[component, start] * fit.scores[component, i]
    for i in range(size):
        direction[i] *= fit.scale[i]
    length = np.sqrt(dot(direction, direction))
    for i in range(size):
        direction[i] /= length
    return float(length)


@expanded_part
def to_feature_space(direction: Array, weights: Array, fit: Fit, count: int) -> None:
    """Write the weight vector ``S_k v / |S_k v|`` of a direction v in unit space."""
    rank = fit.scale.size
    row_products(fit.projected, direction, fit.projected.shape[0], weights)
    for component in range(count):
        overlap = dot(fit.loadings[component], direction)
        for i in range(rank):
            weights[i] -= overlap * fit.scores[component, i]
    for i in range(rank):
        weights[i] *= fit.scale[i]
    length = np.sqrt(dot(weights, weights))
    for i in range(rank):
        weights[i] /= length


@expanded_part
def add_component(weights: Array, fit: Fit, count: int) -> float:
    """Append score, rotation and loadings of a weight vector; return |X_k w|, 0 if nothing is left of it."""
    rank = fit.scale.size
    score = fit.scores[count]
    rotation = fit.rotations[count]
    for i in range(rank):
        score[i] = fit.scale[i] * weights[i]
        rotation[i] = weights[i]
    first = dot(score, score)
    for _pass in range(2):  # once leaves rounding errors, twice does not
        for component in range(count):
            overlap = dot(fit.scores[component], score)
            for i in range(rank):
                score[i] -= overlap * fit.scores[component, i]
                rotation[i] -= overlap * fit.rotations[component, i]
    square = dot(score, score)
    if not square > EXHAUSTED * first:
        return 0.0
    length = np.sqrt(square)
    for i in range(rank):
        score[i] /= length
        rotation[i] /= length
    fit.loadings[count, :] = 0.0
    add_rows(fit.projected, score, fit.projected.shape[0], fit.loadings[count])
    return float(length)


@expanded_part
def remove_component(matrix: Array, image: Array, fit: Fit, count: int, rule: Rule) -> float:
    """Remove the newest component from the iterated matrix; return the new trace.

    With ``g = D t``, ``S_(k+1) = S_k - g q'``. ``image`` is ``G w / |X_k w| = S_k q`` (not used by units).
    """
    size, width = matrix.shape
    loading = fit.loadings[count]
    gain = fit.scale * fit.scores[count]
    partner = np.zeros(width)
    if rule.by_units:
        # C - q u' - u q' + |g|^2 q q',  u = S_k'g
        seen = fit.scale * gain
        for component in range(count):
            overlap = dot(fit.scores[component], seen)
            for i in range(seen.size):
                seen[i] -= overlap * fit.scores[component, i]
        add_rows(fit.projected, seen, fit.projected.shape[0], partner)
        half = 0.5 * dot(gain, gain)
        x = loading
    else:
        # G - g (S_k q)' - (S_k q) g' + |q|^2 g g'
        half = 0.5 * dot(loading, loading)
        x = gain
        for i in range(width):
            partner[i] = image[i]
    for i in range(width):
        partner[i] -= half * x[i]
    trace = 0.0
    for i in range(size):
        a = x[i]
        b = partner[i]
        for j in range(width):
            matrix[i, j] -= a * partner[j] + b * x[j]
        trace += matrix[i, i]
    return trace


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


class Krylov(NamedTuple):
    """Work space: an orthonormal basis, the matrix in it (tridiagonal), and coordinates in it.

    Vectors of the iterated space, ``size`` long, are padded with zeros to ``width`` (see ``padded_length``).

    ``iterates`` holds the iterate and its image in turn, with one zero before the first coordinate. Zeros
    after the last one let loops run over whole SIMD registers.
    """

    basis: Array  # (size + 1, width)
    diagonal: Array  # (2 + width + LANES,)
    beside: Array  # (2 + width + LANES,), one zero before the first entry
    iterates: Array  # (2, 2 + width + LANES)
    overlaps: Array  # (size + 1,)


def krylov_space(size: int) -> Krylov:
    """Allocate the work space for matrices of that size."""
    length = 2 + padded_length(size) + LANES
    return Krylov(
        aligned_zeros(size + 1, padded_length(size)),
        aligned_zeros(length),
        aligned_zeros(length),
        aligned_zeros(2, length),
        aligned_zeros(size + 1),
    )


@compiled_part
def _grow(matrix: Array, space: Krylov, last: int, unchecked: int) -> None:
    """Multiply the last basis vector by the matrix; what is new in it becomes the next basis vector.

    ``unchecked`` of every four new vectors are not made orthogonal to all others explicitly.
    """
    basis, diagonal, beside, _, overlaps = space
    current = basis[last]
    following = basis[last + 1]
    width = current.size
    row_products(matrix, current, matrix.shape[0], following)
    along = dot(current, following)
    if last:
        before = beside[last]
        for i in range(width):
            following[i] -= along * current[i] + before * basis[last - 1, i]
    else:
        for i in range(width):
            following[i] -= along * current[i]
    # In exact arithmetic the vector is orthogonal to all others by now. Rounding errors grow from step to
    # step; clearing two successive vectors of every four keeps them below the square root of epsilon, where
    # the tridiagonal matrix is as good as with none (Grcar 1981, Simon 1984).
    if last % 4 >= unchecked:
        row_products(basis, following, last + 1, overlaps)
        for row in range(last + 1):
            overlaps[row] = -overlaps[row]
        add_rows(basis, overlaps, last + 1, following)
    length = np.sqrt(dot(following, following))
    diagonal[last] = along
    beside[last + 1] = length
    scale = 1.0 / length if length > 0.0 else 0.0
    for i in range(width):
        following[i] *= scale


@expanded_part
def _is_above(diagonal: Array, beside: Array, n: int, value: float) -> bool:
    """Return whether ``value`` exceeds every eigenvalue of the tridiagonal matrix (all pivots positive)."""
    pivot = value - diagonal[0]
    for i in range(1, n):
        if not pivot > 0.0:
            return False
        pivot = value - diagonal[i] - beside[i] * beside[i] / pivot
    return bool(pivot > 0.0)


@expanded_part
def _leading_eigenvector(matrix: Array, space: Krylov) -> int:
    """Write the leading eigenvector, and its image, as coordinates in the whole Krylov space of ``basis[0]``.

    The eigenvalue comes from bisection, the vector from inverse iteration just above it, where the shifted
    matrix is definite, so that elimination is stable. Returns the number of coordinates.
    """
    _, diagonal, beside, iterates, pivots = space
    size = matrix.shape[0]
    n = 0
    low = 0.0
    high = 0.0
    while n < size and (n == 0 or beside[n] > CLOSED * high):
        _grow(matrix, space, n, 0)
        n += 1
        low = max(low, diagonal[n - 1])
        high = max(high, diagonal[n - 1] + beside[n - 1] + beside[n])
    high *= 1.0 + 1e-15
    while high - low > 4e-16 * high:
        middle = 0.5 * (low + high)
        if middle <= low or middle >= high:
            break
        if _is_above(diagonal, beside, n, middle):
            high = middle
        else:
            low = middle
    v = iterates[0]
    v[1 : n + 1] = 1.0
    for _step in range(4):
        # solve (high - T) x = v in place
        pivots[0] = high - diagonal[0]
        for i in range(1, n):
            ratio = beside[i] / pivots[i - 1]
            pivots[i] = high - diagonal[i] - beside[i] * ratio
            v[i + 1] += ratio * v[i]
        v[n] /= pivots[n - 1]
        for i in range(n - 1, 0, -1):
            v[i] = (v[i] + beside[i] * v[i + 1]) / pivots[i - 1]
        scale = 1.0 / np.sqrt(dot(v[1 : n + 1], v[1 : n + 1]))
        for i in range(1, n + 1):
            v[i] *= scale
    for i in range(1, n + 1):
        iterates[1, i] = high * v[i]
    return n


@expanded_part
def _power_iterate(matrix: Array, shrink: float, rule: Rule, space: Krylov) -> int:
    """Iterate ``v <- H v`` from ``basis[0]`` until the weight vectors come to rest.

    Writes the last iterate, of unit length, and its image. Returns the number of coordinates of the image.
    """
    _, diagonal, beside, iterates, _ = space
    size = matrix.shape[0]
    iterates[0, 1] = 1.0
    n = 1  # coordinates of the iterate
    grown = 0
    here, there = 1, 0  # rows of the iterate and of its image
    square = 1.0  # |v|^2
    overlap = 0.0  # inner product of the weight vectors of the last iterate and of this one
    last_norm = 1.0  # squared length of the last weight vector
    for iteration in range(rule.max_iterations):
        if grown < n:
            _grow(matrix, space, grown, 2)
            grown = n
        here, there = there, here
        stretch = 0.0  # v'Hv
        next_square = 0.0  # |Hv|^2
        for i in range(1, 1 + (n // LANES + 1) * LANES):
            value = iterates[here, i]
            image = diagonal[i - 1] * value
            image += beside[i - 1] * iterates[here, i - 1] + beside[i] * iterates[here, i + 1]
            iterates[there, i] = image
            stretch += image * value
            next_square += image * image
        norm = stretch if rule.by_units else square
        if iteration:
            # |w_k - w_(k-1)|^2 < tolerance, solved for the inner product
            nearest = (1.0 + shrink * shrink - rule.tolerance) / (2.0 * shrink)
            if overlap > nearest * np.sqrt(last_norm * norm):
                break
            shrink = 1.0
        if iteration == rule.max_iterations - 1 or not next_square > 0.0:
            break
        last_norm = norm
        overlap = next_square if rule.by_units else stretch
        outside = iterates[there, n + 1]
        if n < size and outside * outside > OUTSIDE * next_square:
            n += 1
        else:
            iterates[there, n + 1] = 0.0
        if not SHORT < next_square < LONG:
            factor = 1.0 / np.sqrt(next_square)
            for i in range(1, n + 1):
                iterates[there, i] *= factor
            overlap *= factor
            next_square = 1.0
        square = next_square
    scale = 1.0 / np.sqrt(square)
    for i in range(1, n + 2):
        last, following = iterates[here, i] * scale, iterates[there, i] * scale
        iterates[0, i], iterates[1, i] = last, following
    return int(min(n + 1, size))


@expanded_part
def leading_direction(
    matrix: Array, direction: Array, image: Array, shrink: float, rule: Rule, space: Krylov
) -> None:
    """Find the direction of a component.

    Parameters
    ----------
    matrix
        H, symmetric, (size, width): ``S S'``, or ``S'S`` if ``rule.by_units``; the last columns are zero.
    direction
        (width,) unit vector to start from, the first iterate; overwritten with the last one, unit length.
    image
        (width,) overwritten with H times the last iterate.
    shrink
        Length of the first weight vector in scikit-learn's arithmetic, where it falls a little short of 1.
    rule
        When to stop.
    space
        Work space.
    """
    size = direction.size
    space.iterates[:, :] = 0.0
    space.diagonal[:] = 0.0
    space.beside[:] = 0.0
    for i in range(size):
        space.basis[0, i] = direction[i]
        direction[i] = 0.0
        image[i] = 0.0
    if rule.converged:
        n = _leading_eigenvector(matrix, space)
    else:
        n = _power_iterate(matrix, shrink, rule, space)
    add_rows(space.basis, space.iterates[0, 1:], n, direction)
    add_rows(space.basis, space.iterates[1, 1:], n, image)
    length = np.sqrt(dot(direction, direction))
    for i in range(direction.size):
        direction[i] /= length
        image[i] /= length


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
def dot(x: Array, y: Array) -> float:
    """Return the inner product."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@compiled_part
def add_rows(matrix: Array, weights: Array, n_rows: int, result: Array) -> None:
    """Add ``weights @ matrix`` (first ``n_rows`` rows) to ``result``, four rows at a time."""
    n_columns = result.size
    row = 0
    while row + 3 < n_rows:
        a, b, c, d = weights[row], weights[row + 1], weights[row + 2], weights[row + 3]
        for j in range(n_columns):
            result[j] += (
                a * matrix[row, j] + b * matrix[row + 1, j] + c * matrix[row + 2, j] + d * matrix[row + 3, j]
            )
        row += 4
    while row < n_rows:
        a = weights[row]
        for j in range(n_columns):
            result[j] += a * matrix[row, j]
        row += 1


@compiled_part
def row_products(matrix: Array, vector: Array, n_rows: int, result: Array) -> None:
    """Write ``matrix[:n_rows] @ vector`` into ``result``, four rows at a time."""
    n_columns = vector.size
    row = 0
    while row + 3 < n_rows:
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for j in range(n_columns):
            value = vector[j]
            a += matrix[row, j] * value
            b += matrix[row + 1, j] * value
            c += matrix[row + 2, j] * value
            d += matrix[row + 3, j] * value
        result[row] = a
        result[row + 1] = b
        result[row + 2] = c
        result[row + 3] = d
        row += 4
    while row < n_rows:
        result[row] = dot(matrix[row], vector)
        row += 1
