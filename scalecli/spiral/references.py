"""Well-known models from scikit-learn, for comparison: one fit per seed, one thread each.

Shape legend: S seeds, N training points, Q queries, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scalecli.spiral.classifier import Labels, Points

Maker = Callable[[int, int], Any]
"""From (seed, number of features) to an unfitted scikit-learn estimator."""


class Reference:
    """A scikit-learn estimator behind the door of the sweep.

    Args:
        make: Builds one estimator per seed.
    """

    def __init__(self, make: Maker) -> None:
        self.make = make
        self._fitted: list[Any] = []

    def fit(self, x_SND: Points, y_SN: Labels, seeds: Sequence[int]) -> None:
        """Fit one estimator per seed; a sample of one class is answered with that class."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

        self._fitted = []
        for x_ND, y_N, seed in zip(x_SND, y_SN, seeds, strict=True):
            if (y_N == y_N[0]).all():
                # Most estimators refuse a single class.
                self._fitted.append(int(y_N[0]))
            else:
                estimator = self.make(seed, x_ND.shape[1])
                # Boosting has no n_jobs and would take every core from the other processes. The
                # limit comes after the import inside make: it only reaches loaded libraries.
                with threadpool_limits(1):
                    self._fitted.append(estimator.fit(x_ND, y_N))

    def predict(self, x_SQD: Points) -> Labels:
        """Class indices [S, Q]."""
        return np.stack(
            [
                np.full(len(x_QD), fitted, dtype=np.int64)
                if isinstance(fitted, int)
                else np.asarray(fitted.predict(x_QD), dtype=np.int64)
                for fitted, x_QD in zip(self._fitted, x_SQD, strict=True)
            ]
        )


def forest(seed: int, features: int) -> Any:
    """Random forest of 100 trees."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=100, n_jobs=1, random_state=seed)


def boosting(seed: int, features: int) -> Any:
    """Histogram gradient boosting; no early stopping, which would give data away."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=200, early_stopping=False, random_state=seed)


def svm_rbf(seed: int, features: int) -> Any:
    """Support vectors with a Gaussian kernel on standardised features."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    # In the plane the kernel must be about as narrow as an arm of the spiral (width 0.045, or
    # about 0.1 standard deviations); 'scale' would give a kernel as wide as the whole picture.
    gamma = 25.0 if features == 2 else "scale"
    return make_pipeline(StandardScaler(), SVC(C=10.0, gamma=gamma, cache_size=500))


def logistic(seed: int, features: int) -> Any:
    """Logistic regression on standardised features: a straight border."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
