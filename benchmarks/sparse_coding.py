"""Sparse coding (eq. 2) on the same data: the activation fraction of its code against lambda.

    python benchmarks/sparse_coding.py [DATASET] [--units 256] [--samples 1000]

scikit-learn's dictionary learning minimizes 1/2 norm(x - W^T h)^2 + alpha norm(h)_1 with
norm(W_j) <= 1, which is eq. 2 at lambda = 2 alpha. Its code has a free parameter a sample, where an
auto-encoder has an encoder: what the comparison shows is how sparse a code the l1 penalty itself
gives at an error. A unit is active for a sample where its code is not 0; ``--positive`` asks for
h >= 0, as relu's are.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.decomposition import MiniBatchDictionaryLearning

from sparseae import data

LAMBDAS = (0.5, 1.0, 2.0, 5.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", default="digits")
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--positive", action="store_true")
    options = parser.parse_args()
    x = data.prepare(options.dataset, samples=options.samples).x.astype(np.float64)
    print(f"{options.dataset}: {x.shape[0]} samples, {options.units} units, sparse coding (eq. 2)")
    print("lambda  activation fraction  dead units  squared error")
    for lam in LAMBDAS:
        learner = MiniBatchDictionaryLearning(
            options.units, alpha=lam / 2, max_iter=5, batch_size=50, fit_algorithm="cd",
            transform_algorithm="lasso_cd", transform_alpha=lam / 2,
            positive_code=options.positive, random_state=0,
        )  # fmt: skip
        code = learner.fit_transform(x)
        error = np.square(x - code @ learner.components_).sum(1).mean()
        active = code != 0
        dead = int((~active.any(0)).sum())
        print(f"{lam:6g}  {active.mean():19.3f}  {dead:10d}  {error:13.2f}")


if __name__ == "__main__":
    main()
