"""PLS2 regression of many target matrices on one set of images, compiled.

The algorithm is NIPALS with regression deflation (Wegelin 2000, section 4.1), rewritten so that
nothing as long as the features, and no deflated copy of anything, is ever formed. With the training
features ``X = U D V'`` (``SplitCoordinates``) and the targets ``Y``:

- vectors in feature space are expressed in the coordinates ``V``, scores in ``U``, and ``M = U'Y``;
- after k components with orthonormal scores ``t_j`` and target loadings ``q_j = M't_j`` the residual
  covariance is ``S_k = X_k'Y_k = D (M - sum_j t_j q_j')``;
- a weight vector is an iterate of the power method on ``G = S_k S_k'``. It may as well be run on
  ``C = S_k'S_k`` in unit space, whichever is smaller (``w = S_k v``);
- scores are ``D w`` made orthogonal to earlier scores and of unit length; the same steps on ``w`` give the
  rotation ``r`` with ``t = X r``, so that the prediction for test images Z is ``sum_j (Z r_j) q_j'``;
- removing a component changes ``G`` and ``C`` by a symmetric matrix of rank 2. Rounding errors of these
  updates stay as large as the first ``G``, so it is formed again whenever it has shrunk a lot.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring import compiled as compiling
from mvkit.scoring import pls_components, pls_direction, vectors
from mvkit.scoring.compiled import compiled, edition
from mvkit.scoring.pls_components import (
    EPSILON,
    EXHAUSTED,
    Fit,
    add_component,
    first_direction,
    form_matrix,
    remove_component,
    start_column,
    to_feature_space,
)
from mvkit.scoring.pls_direction import Krylov, Rule, leading_direction

Array = NDArray[np.float64]

# The iterated matrix is formed again when its trace has fallen by this factor since it was last formed.
REFRESH = 1e-4


def _compile(parts_edition: int) -> Callable[..., None]:
    """Compile :func:`fit_batch`; see :func:`mvkit.scoring.compiled.edition` for the argument."""

    @compiled
    def fit_batch(
        predictors: tuple[Array, Array],
        targets: Array,
        projected: Array,
        matrices: Array,
        rule: Rule,
        space: Krylov,
        found: tuple[Array, Array],
    ) -> None:
        """Fit every target matrix.

        Rows said to be padded end with zeros; see :mod:`mvkit.scoring.vectors`.

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
        found
            ``rotations`` (n_fits, n_components, rank) and ``loadings`` (n_fits, n_components, n_units),
            rows padded, overwritten. Components beyond those that exist are zero.
        """
        if parts_edition == 0:  # never so; it makes numba see the edition
            return
        basis, scale = predictors
        rotations, loadings = found
        n_components = min(rotations.shape[1], basis.shape[0])
        _, size, width = matrices.shape
        scores = np.zeros((n_components, scale.size))
        direction = np.zeros(width)
        image = np.zeros(width)
        weights = np.zeros(scale.size)
        rotations[:, :, :] = 0.0
        loadings[:, :, :] = 0.0
        for index in range(targets.shape[0]):
            fit = Fit(
                basis, scale, targets[index], projected[index], scores, rotations[index], loadings[index]
            )
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
                length = first_direction(direction, matrix, fit, (start, count), rule)
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

    return fit_batch


fit_batch = _compile(
    edition(*(str(module.__file__) for module in (compiling, vectors, pls_direction, pls_components)))
)
