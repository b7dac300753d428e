"""How the rows of a site are best quantized: what each channel is divided by, and where the values begin.

A row's scale follows its largest value. Where one channel is always large, all others are left with few levels. To
divide a channel by a factor and multiply its row of the weights with the same changes nothing but what is rounded
(SmoothQuant, arXiv 2211.10438). SmoothQuant takes the factors from a formula with one strength for all; here
they are what makes the expected error of the product smallest.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwaiter_export.quantization.calibration import Inputs
from headwaiter_export.quantization.products import Matrix
from headwaiter_export.quantization.rewrite import Plan

# Values count as bounded from below if they reach at most this share of their usual largest below 0.
_ONE_SIDED: Final = 0.2
_STEPS: Final = 80
_RATE: Final = 0.08


def plan_for(inputs: Inputs, weights: Matrix) -> Plan:
    """The plan for a site that sees `inputs`; `weights` are those of all its products, `(d_in, sum of d_out)`."""
    rows = inputs.rows
    lowest, usual = float(rows.min()), float(np.median(rows.max(1)))
    if -lowest <= _ONE_SIDED * usual:
        return best_zero(rows.max(1), min(lowest, 0.0))
    return Plan(spread=best_spread(rows, weights))


def best_zero(largest: NDArray[np.float32], lowest: float) -> Plan:
    """The plan for values bounded from below whose zero point makes the expected squared error smallest.

    A row's scale has to be `largest / (255 - zero)` for what is above 0, and `-lowest / zero` for what is below.

    Args:
        largest: The largest value of each row seen.
        lowest: The bound, 0 or less.
    """
    zeros = np.arange(128)
    below = np.divide(-lowest, zeros, out=np.where(zeros, 0.0, np.inf if lowest else 0.0), where=zeros > 0)
    scales = np.maximum(largest[:, None] / (255 - zeros), below)
    return Plan(zero=int(np.square(scales).mean(0).argmin()), lowest=lowest)


def best_spread(rows: Matrix, weights: Matrix) -> NDArray[np.float32]:
    """Factors `t` that make the expected squared error of `(rows / t) (t weights)` smallest.

    Rounding to multiples of a scale has a variance of scale^2 / 12. A row's scale is its largest value over 127, so
    its error comes out of the product as `max_j (x_j / t_j)^2 * sum_j t_j^2 |w_j|^2`; a column's likewise as
    `max_j (t_j w_j)^2 * sum_j (x_j / t_j)^2`. The sum of both, over the rows seen and all columns, is made small by
    gradient descent (Adam, arXiv 1412.6980) on `log t`.

    Args:
        rows: `(rows, d_in)`.
        weights: `(d_in, d_out)`.

    Returns:
        `(d_in,)`, all above 0.
    """
    d_in = rows.shape[1]
    values: Matrix = np.abs(rows)
    columns: Matrix = np.ascontiguousarray(np.abs(weights).T)
    value_squares = np.square(values, dtype=np.float64).mean(0)
    weight_squares = np.square(columns, dtype=np.float64).sum(0)
    if not value_squares.any() or not weight_squares.any():
        return np.ones(d_in, np.float32)
    log_spread, momentum, power = np.zeros(d_in), np.zeros(d_in), np.zeros(d_in)
    best, best_error = log_spread, np.inf
    for step in range(1, _STEPS + 1):
        spread = np.exp(log_spread)
        factors: Matrix = spread.astype(np.float32)
        row_scale, row_pull = _scales(values / factors)
        column_scale, column_pull = _scales(columns * factors)
        weight_sizes, value_sizes = spread**2 * weight_squares, value_squares / spread**2
        by_rows = row_scale / len(values) * weight_sizes.sum()
        by_columns = column_scale * value_sizes.sum()
        error = by_rows + by_columns
        if error < best_error:
            best, best_error = log_spread, error
        gradient = by_rows * (weight_sizes / weight_sizes.sum() - row_pull)
        gradient += by_columns * (column_pull - value_sizes / value_sizes.sum())
        gradient *= 2 / error
        momentum = 0.9 * momentum + 0.1 * gradient
        power = 0.999 * power + 0.001 * gradient**2
        moved = momentum / (1 - 0.9**step) / (np.sqrt(power / (1 - 0.999**step)) + 1e-12)
        log_spread = log_spread - _RATE * (1 - step / (_STEPS + 1)) * moved
    return np.exp(best).astype(np.float32)


def _scales(sizes: Matrix) -> tuple[float, NDArray[np.float64]]:
    """The sum over rows of their largest value squared, and the share that each channel is the largest of."""
    at = sizes.argmax(1)
    squares = np.square(np.take_along_axis(sizes, at[:, None], 1)[:, 0], dtype=np.float64)
    total = float(squares.sum())
    return total, np.bincount(at, squares, sizes.shape[1]) / max(total, 1e-300)
