"""The weight vector of a PLS component: a power iteration, stopped where scikit-learn stops it.

The iterates are needed exactly, up to the one at which the stopping rule ends, because the rule is loose
(successive unit vectors nearer than 1e-3) and its result differs visibly from the limit. But they can be
had without multiplying by the matrix each time: all of them lie in the Krylov space of the start vector,
where the matrix is tridiagonal (Lanczos). The iteration runs on the few coordinates in that space; a new
basis vector, which costs one product with the matrix, is added only when an iterate would otherwise lose
more than ``OUTSIDE``. That halves the products on real data, and bounds them by the size of the matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.compiled import compiled_part, expanded_part
from mvkit.scoring.vectors import LANES, add_rows, aligned_zeros, dot, padded, row_products

Array = NDArray[np.float64]

# Share of an iterate (squared) that may fall outside the basis before the basis grows.
OUTSIDE = 1e-24
# A new basis vector this short, relative to the largest eigenvalue, is rounding error: the space is complete.
CLOSED = 1e-12
# Iterates are not brought to unit length until they are this long or short (squared).
LONG, SHORT = 1e100, 1e-100


class Rule(NamedTuple):
    """How a direction is found.

    ``tolerance`` is the squared distance between successive weight vectors at which to stop,
    ``max_iterations`` the last iterate. ``by_units`` says that the iterated vectors v live in unit space and
    the weight vectors are ``S v``. ``converged`` asks for the limit of the iteration instead.
    """

    tolerance: float
    max_iterations: int
    by_units: bool
    converged: bool


class Krylov(NamedTuple):
    """Work space: an orthonormal basis, the matrix in it (tridiagonal), and coordinates in it.

    Vectors of the iterated space, ``size`` long, are padded with zeros to ``width`` (see ``padded``).

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
    length = 2 + padded(size) + LANES
    return Krylov(
        aligned_zeros(size + 1, padded(size)),
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
    """Tell whether ``value`` exceeds every eigenvalue of the tridiagonal matrix (all pivots positive)."""
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
