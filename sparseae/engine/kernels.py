"""The four kernels of `sparseae.engine.triton`, each for all members at once.

A product's tile stays on chip until all that follows it elementwise is done: what would be a pass
of its own over W, V or the hidden units rides on a product. Every product takes its operands
from memory once, and W and V are read and written once a step.

Sizes: G members, R rows that the encoder sees (R = K B with K corruptions), m units, n inputs.
Rows of a tile beyond R, m or n are masked. W and V are rows of n; a member's begin ``member``
numbers after the one before. Rows of h and da lie ``apart``, which is a multiple of 16 whatever m
is: only so are four numbers one load.
"""

# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false
import triton
import triton.language as tl

#: The activations that the kernels know, by `sparseae.model.activations.Activation.name`.
RELU, SOFTPLUS, SIGMOID, TANH = 0, 1, 2, 3


@triton.jit
def _value(a, ACTIVATION: tl.constexpr):
    """h = s(a)."""
    if ACTIVATION == 0:
        # Not maximum, which may drop a NaN.
        h = tl.where(a < 0, 0.0, a)
    elif ACTIVATION == 1:
        h = tl.maximum(a, 0.0) + tl.log(1 + tl.exp(-tl.abs(a)))
        h = tl.where(a == a, h, a)
    elif ACTIVATION == 2:
        h = 1 / (1 + tl.exp(-a))
    else:
        h = 2 / (1 + tl.exp(-2 * a)) - 1
    return h


@triton.jit
def _slope(h, ACTIVATION: tl.constexpr):
    """s' by h."""
    if ACTIVATION == 0:
        slope = tl.where(h > 0, 1.0, 0.0)
    elif ACTIVATION == 1:
        slope = 1 - tl.exp(-h)
    elif ACTIVATION == 2:
        slope = h * (1 - h)
    else:
        slope = 1 - h * h
    return slope


@triton.jit
def _curvature(h, slope, ACTIVATION: tl.constexpr):
    """s'' by h and s'."""
    if ACTIVATION == 0:
        curvature = slope * 0
    elif ACTIVATION == 1:
        curvature = slope * (1 - slope)
    elif ACTIVATION == 2:
        curvature = slope * (1 - 2 * h)
    else:
        curvature = -2 * h * slope
    return curvature


@triton.jit
def _power(x, EXPONENT: tl.constexpr):
    """x^EXPONENT, a whole number from 0 on."""
    y = x * 0 + 1
    for _ in tl.static_range(EXPONENT):
        y = y * x
    return y


@triton.jit
def _seen(
    x, order, eps, sample, in_row, i, in_n, seed, sigma, r, B, K, n, NOISY: tl.constexpr,
):  # fmt: skip
    """What the encoder sees, (rows, inputs): the gathered samples, corrupted where NOISY."""
    mask = in_row[:, None] & in_n[None, :]
    seen = tl.load(x + sample[:, None] * n + i[None, :], mask=mask, other=0.0)
    if NOISY:
        drawn = tl.load(
            eps + (seed * K * B + r[:, None]).to(tl.int64) * n + i[None, :], mask=mask, other=0.0
        )
        seen += sigma * drawn
    return seen


@triton.jit
def encode(
    x, order, eps, seeds, sigma, W, b, h, mean, active, member, apart, B, K, m, n,
    ACTIVATION: tl.constexpr, NOISY: tl.constexpr, MEAN: tl.constexpr, POWER: tl.constexpr,
    COUNT: tl.constexpr, THRESHOLD: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, UNITS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """h = s(x W^T + b) for a tile of units, and over the rows, for each unit:

    where MEAN the mean of h, or of s'^POWER if that is not 0; where COUNT how many h > THRESHOLD.
    """
    g = tl.program_id(1).to(tl.int64)
    j = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    in_m = j < m
    R = K * B
    kind = W.dtype.element_ty
    seed = tl.load(seeds + g)
    noise = tl.load(sigma + g)
    offset = tl.load(b + g * member + j, mask=in_m, other=0.0)
    total = tl.zeros((UNITS,), dtype=kind)
    count = tl.zeros((UNITS,), dtype=kind)
    for first in range(0, R, ROWS):
        r = first + tl.arange(0, ROWS)
        in_row = r < R
        sample = tl.load(order + seed * B + r % B, mask=in_row, other=0)
        a = tl.zeros((ROWS, UNITS), dtype=kind)
        for start in range(0, n, DEPTH):
            i = start + tl.arange(0, DEPTH)
            in_n = i < n
            seen = _seen(x, order, eps, sample, in_row, i, in_n, seed, noise, r, B, K, n, NOISY)
            w = tl.load(
                W + g * member + j[None, :] * n + i[:, None],
                mask=in_m[None, :] & in_n[:, None], other=0.0,
            )  # fmt: skip
            a += tl.dot(seen, w, input_precision=PRECISION, out_dtype=kind)
        hidden = _value(a + offset[None, :], ACTIVATION)
        mask = in_row[:, None] & in_m[None, :]
        tl.store(h + (g * R + r[:, None]) * apart + j[None, :], hidden, mask=mask)
        if COUNT:
            count += tl.sum(tl.where(mask & (hidden > THRESHOLD), 1.0, 0.0), axis=0)
        if MEAN:
            if POWER > 0:
                hidden = _power(_slope(hidden, ACTIVATION), POWER)
            total += tl.sum(tl.where(mask, hidden, 0.0), axis=0)
    if MEAN:
        tl.store(mean + g * m + j, total / R, mask=in_m)
    if COUNT:
        tl.store(active + g * m + j, count, mask=in_m)


@triton.jit
def decode(
    x, order, seeds, W, h, dy, probe, member, apart, B, K, m, n,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, INPUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """dy = 2 / R (h W - x), for a tile of inputs; its squares are added to the probe."""
    g = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * INPUTS + tl.arange(0, INPUTS)
    in_n = i < n
    R = K * B
    kind = W.dtype.element_ty
    seed = tl.load(seeds + g)
    squares = tl.zeros((INPUTS,), dtype=kind)
    for first in range(0, R, ROWS):
        r = first + tl.arange(0, ROWS)
        in_row = r < R
        y = tl.zeros((ROWS, INPUTS), dtype=kind)
        for start in range(0, m, DEPTH):
            j = start + tl.arange(0, DEPTH)
            in_m = j < m
            hidden = tl.load(
                h + (g * R + r[:, None]) * apart + j[None, :],
                mask=in_row[:, None] & in_m[None, :], other=0.0,
            )  # fmt: skip
            w = tl.load(
                W + g * member + j[:, None] * n + i[None, :],
                mask=in_m[:, None] & in_n[None, :], other=0.0,
            )  # fmt: skip
            y += tl.dot(hidden, w, input_precision=PRECISION, out_dtype=kind)
        sample = tl.load(order + seed * B + r % B, mask=in_row, other=0)
        mask = in_row[:, None] & in_n[None, :]
        target = tl.load(x + sample[:, None] * n + i[None, :], mask=mask, other=0.0)
        residual = tl.where(mask, (y - target) * (2.0 / R), 0.0)
        tl.store(dy + (g * R + r[:, None]) * n + i[None, :], residual, mask=mask)
        squares += tl.sum(residual * residual, axis=0)
    tl.atomic_add(probe + g, tl.sum(squares, axis=0))


@triton.jit
def back(
    W, b, vb, h, dy, da, offset, factors, lam, rate, member, apart, B, K, m, n, momentum,
    ACTIVATION: tl.constexpr, MEAN: tl.constexpr, SLOPE: tl.constexpr, Q: tl.constexpr,
    P: tl.constexpr, UNIT: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, UNITS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """da = s'(a) (dy W^T + offset) and what a penalty on slopes adds; b and vb; the row factors.

    norm(W_j) is summed up while W passes by, unless every one is 1 (UNIT).
    """
    g = tl.program_id(1).to(tl.int64)
    j = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    in_m = j < m
    R = K * B
    kind = W.dtype.element_ty
    strength = tl.load(lam + g)
    db = tl.zeros((UNITS,), dtype=kind)
    total = tl.zeros((UNITS,), dtype=kind)
    norm = tl.zeros((UNITS,), dtype=kind) + 1
    for first in range(0, R, ROWS):
        r = first + tl.arange(0, ROWS)
        in_row = r < R
        dh = tl.zeros((ROWS, UNITS), dtype=kind)
        squares = tl.zeros((UNITS,), dtype=kind)
        for start in range(0, n, DEPTH):
            i = start + tl.arange(0, DEPTH)
            in_n = i < n
            residual = tl.load(
                dy + (g * R + r[:, None]) * n + i[None, :],
                mask=in_row[:, None] & in_n[None, :], other=0.0,
            )  # fmt: skip
            w = tl.load(
                W + g * member + j[None, :] * n + i[:, None],
                mask=in_m[None, :] & in_n[:, None], other=0.0,
            )  # fmt: skip
            dh += tl.dot(residual, w, input_precision=PRECISION, out_dtype=kind)
            if SLOPE and not UNIT:
                squares += tl.sum(w * w, axis=0)
        if SLOPE and not UNIT:
            norm = tl.sqrt(squares)
        if MEAN:
            dh += tl.load(offset + g * m + j, mask=in_m, other=0.0)[None, :]
        mask = in_row[:, None] & in_m[None, :]
        at = (g * R + r[:, None]) * apart + j[None, :]
        hidden = tl.load(h + at, mask=mask, other=0.0)
        slope = _slope(hidden, ACTIVATION)
        if SLOPE:
            added = _curvature(hidden, slope, ACTIVATION) * (strength * Q / R)
            added = added * _power(norm, P)[None, :]
            if Q > 1:
                dh += added * _power(slope, Q - 2 if Q > 1 else 0)
        back_a = dh * slope
        if SLOPE and Q == 1:
            back_a += added
        # A gate that is shut lets nothing through, not even what is not a number times 0.
        if ACTIVATION == 0:
            back_a = tl.where(slope > 0, back_a, 0.0)
        back_a = tl.where(mask, back_a, 0.0)
        tl.store(da + at, back_a, mask=mask)
        db += tl.sum(back_a, axis=0)
        if SLOPE:
            total += tl.sum(tl.where(mask, _power(slope, Q), 0.0), axis=0)
    if SLOPE:
        factor = total * (strength * P / R)
        if P > 2:
            factor = factor * _power(norm, P - 2 if P > 2 else 0)
        if P == 1:
            factor = factor / tl.where(norm > 0, norm, 1.0)
        tl.store(factors + g * m + j, factor, mask=in_m)
    if BIAS:
        at_b = g * member + j
        v = momentum * tl.load(vb + at_b, mask=in_m, other=0.0) + db
        tl.store(vb + at_b, v, mask=in_m)
        bias = tl.load(b + at_b, mask=in_m, other=0.0)
        tl.store(b + at_b, bias - tl.load(rate + g) * v, mask=in_m)


@triton.jit
def update(
    x, order, eps, seeds, sigma, W, V, h, dy, da, factors, rate, decay, low, high,
    member, apart, B, K, m, n, momentum,
    NOISY: tl.constexpr, SLOPE: tl.constexpr, BOUND: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, UNITS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """V = momentum V + da^T x + h^T dy + k W, W -= rate V, and rows within [low, high].

    A program has whole rows of W. Where they fit its tile they stay on chip from the product to
    the scaling; otherwise the rows that it has just written are read again to be scaled.
    """
    g = tl.program_id(1).to(tl.int64)
    j = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    in_m = j < m
    R = K * B
    kind = W.dtype.element_ty
    seed = tl.load(seeds + g)
    noise = tl.load(sigma + g)
    k = tl.zeros((UNITS,), dtype=kind) + tl.load(decay + g)
    if SLOPE:
        k += tl.load(factors + g * m + j, mask=in_m, other=0.0)
    learning_rate = tl.load(rate + g)
    least = tl.load(low + g)
    most = tl.load(high + g)
    squares = tl.zeros((UNITS,), dtype=kind)
    for start in range(0, n, INPUTS):
        i = start + tl.arange(0, INPUTS)
        in_n = i < n
        mask = in_m[:, None] & in_n[None, :]
        at = g * member + j[:, None] * n + i[None, :]
        dW = tl.zeros((UNITS, INPUTS), dtype=kind)
        for first in range(0, R, ROWS):
            r = first + tl.arange(0, ROWS)
            in_row = r < R
            hidden_mask = in_m[:, None] & in_row[None, :]
            turned = (g * R + r[None, :]) * apart + j[:, None]
            sample = tl.load(order + seed * B + r % B, mask=in_row, other=0)
            seen = _seen(x, order, eps, sample, in_row, i, in_n, seed, noise, r, B, K, n, NOISY)
            back_a = tl.load(da + turned, mask=hidden_mask, other=0.0)
            dW += tl.dot(back_a, seen, input_precision=PRECISION, out_dtype=kind)
            hidden = tl.load(h + turned, mask=hidden_mask, other=0.0)
            residual = tl.load(
                dy + (g * R + r[:, None]) * n + i[None, :],
                mask=in_row[:, None] & in_n[None, :], other=0.0,
            )  # fmt: skip
            dW += tl.dot(hidden, residual, input_precision=PRECISION, out_dtype=kind)
        w = tl.load(W + at, mask=mask, other=0.0)
        v = momentum * tl.load(V + at, mask=mask, other=0.0) + dW + k[:, None] * w
        w -= learning_rate * v
        tl.store(V + at, v, mask=mask)
        if BOUND:
            squares += tl.sum(w * w, axis=1)
            if n <= INPUTS:
                w = w * _scale(squares, least, most)[:, None]
        tl.store(W + at, w, mask=mask)
    if BOUND and n > INPUTS:
        scale = _scale(squares, least, most)
        tl.debug_barrier()  # other threads wrote what this one reads
        for start in range(0, n, INPUTS):
            i = start + tl.arange(0, INPUTS)
            mask = in_m[:, None] & (i < n)[None, :]
            at = g * member + j[:, None] * n + i[None, :]
            w = tl.load(W + at, mask=mask, other=0.0)
            tl.store(W + at, w * scale[:, None], mask=mask)


@triton.jit
def _scale(squares, least, most):
    """What brings a row of this squared length within the bounds; a row of zeros stays."""
    norm = tl.sqrt(squares)
    length = tl.where(norm < least, least, tl.where(norm > most, most, norm))
    return tl.where(norm == 0, 1.0, length / tl.where(norm == 0, 1.0, norm))
