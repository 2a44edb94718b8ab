"""Exact k-nearest neighbours for many seeds.

Shape legend: S seeds, N training points, Q queries, D features, K neighbours, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from scalecli.core.errors import UsageError
from scalecli.spiral.classifier import Labels, Points

CHUNK = 1 << 17
"""Queries answered at once: bounds the memory for neighbours and votes."""
SORTED_FROM = 4096
"""Fewer queries than this are not worth sorting."""
TREE_MAX_D = 15
"""Above this a k-d tree visits almost every leaf, and brute force is faster."""

Neighbours = Callable[[NDArray[np.float64]], NDArray[np.int64]]


class KNearest:
    """Majority vote of the k nearest training points; ties go to the smallest class.

    Queries are spread over as many threads as OpenMP has; in the processes of a sweep, one.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._neighbours: list[Neighbours] = []
        self._y_SN: Labels = np.zeros((0, 0), dtype=np.int64)

    def fit(self, x_SND: Points, y_SN: Labels, seeds: Sequence[int]) -> None:
        """Index the training points of every seed; ``seeds`` is not used, nothing is random."""
        n = x_SND.shape[1]
        if self.k > n:
            raise UsageError(f"knn{self.k}: needs at least {self.k} training points, has {n}")
        self._y_SN = y_SN
        self._neighbours = [self._index(np.asarray(x_ND, dtype=np.float64)) for x_ND in x_SND]

    def predict(self, x_SQD: Points) -> Labels:
        """Class indices [S, Q]."""
        out_SQ = np.empty(x_SQD.shape[:2], dtype=np.int64)
        for s, find in enumerate(self._neighbours):
            x_QD = np.asarray(x_SQD[s], dtype=np.float64)
            order_Q = _order(x_QD)
            for start in range(0, len(x_QD), CHUNK):
                rows = order_Q[start : start + CHUNK]
                nearest_QK = find(x_QD.take(rows, axis=0))
                out_SQ[s, rows] = _vote(self._y_SN[s][nearest_QK])
        return out_SQ

    def _index(self, x_ND: NDArray[np.float64]) -> Neighbours:
        if x_ND.shape[1] > TREE_MAX_D:
            from sklearn.neighbors import NearestNeighbors

            brute = NearestNeighbors(n_neighbors=self.k, algorithm="brute").fit(x_ND)

            def find_brute(x_QD: NDArray[np.float64]) -> NDArray[np.int64]:
                found: NDArray[np.int64] = brute.kneighbors(x_QD, return_distance=False)
                return found

            return find_brute

        from pykdtree.kdtree import KDTree

        # Exact, and twice as fast as scipy's and scikit-learn's trees, to build and to ask.
        tree = KDTree(x_ND)

        def find_tree(x_QD: NDArray[np.float64]) -> NDArray[np.int64]:
            _, found = tree.query(x_QD, k=self.k)
            # The neighbour axis is dropped when k is 1.
            nearest_QK: NDArray[np.int64] = found.reshape(len(x_QD), self.k)
            return nearest_QK

        return find_tree


def _order(x_QD: NDArray[np.float64]) -> NDArray[np.intp]:
    """The order to ask in: cell by cell of a grid in the plane, so that the cache stays warm."""
    if x_QD.shape[1] != 2 or len(x_QD) < SORTED_FROM:
        return np.arange(len(x_QD))
    # Cells fit 16 bits, which numpy sorts by radix: ten times faster than finer ones.
    row_Q, column_Q = (_cells(x_Q) for x_Q in x_QD.T)
    return np.argsort(row_Q << np.uint16(8) | column_Q, kind="stable")


def _cells(x_Q: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Which of 256 equal intervals each coordinate lies in."""
    low = x_Q.min()
    span = max(x_Q.max() - low, np.finfo(np.float64).tiny)
    cells_Q: NDArray[np.uint16] = ((x_Q - low) / span * 0xFF).astype(np.uint16)
    return cells_Q


def _vote(y_QK: Labels) -> Labels:
    """Most frequent class in each row; argmax takes the first, so the smallest wins a tie."""
    if y_QK.shape[1] == 1:
        return y_QK[:, 0]
    classes = int(y_QK.max()) + 1
    if classes <= 2:
        most: Labels = (2 * y_QK.sum(axis=1) > y_QK.shape[1]).astype(np.int64)
        return most
    votes_QC = np.stack([(y_QK == c).sum(axis=1) for c in range(classes)], axis=1)
    chosen_Q: Labels = votes_QC.argmax(axis=1)
    return chosen_Q
