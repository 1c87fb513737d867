/* A training step on a CPU as loops in C, behind products.c; library.py compiles both as one source,
 * c.py calls them. */

/* ---- Passes -------------------------------------------------------------------------------- */

/* v = g + momentum v + k w  (without g: v + k w)  and  w -= rate v  over one row; norm(w)^2. */
INLINE REAL step_row(
    REAL *restrict w, REAL *restrict v, const REAL *restrict g, REAL k, REAL momentum, REAL rate,
    long n)
{
    vector squares[LANES / WIDTH] = {{0}};
    long i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int part = 0; part < LANES / WIDTH; part++) {
            const long at = i + part * WIDTH;
            vector vi = *(vector *)(v + at), wi = *(vector *)(w + at);
            if (g)
                vi = *(const vector *)(g + at) + momentum * vi;
            vi += k * wi;
            wi -= rate * vi;
            *(vector *)(v + at) = vi;
            *(vector *)(w + at) = wi;
            squares[part] += wi * wi;
        }
    REAL lanes[LANES];
    __builtin_memcpy(lanes, squares, sizeof lanes);
    for (int lane = 0; i < n; i++, lane++) {
        v[i] = (g ? g[i] + momentum * v[i] : v[i]) + k * w[i];
        w[i] -= rate * v[i];
        lanes[lane] += w[i] * w[i];
    }
    return sum_of(lanes);
}

/* One step of SGD with momentum on W, V (m, n) and b, vb (m,), and norm(W_j) brought into
 * [lowest, highest].
 *
 * sum (m, n) is added to momentum V; where it is null, V holds that sum already. factors (m,):
 * factors_j W_j is part of the gradient; may be null. db (m,) is the gradient of b; null leaves b
 * as it is. */
void update(
    REAL *W, REAL *V, const REAL *sum, const REAL *factors, long m, long n, REAL *b, REAL *vb,
    const REAL *db, REAL momentum, REAL rate, REAL lowest, REAL highest)
{
    const REAL tiny = sizeof(REAL) == 4 ? 1.17549435e-38 : 2.2250738585072014e-308;
    for (long j = 0; j < m; j++) {
        REAL *w = W + j * n, *v = V + j * n, k = factors ? factors[j] : 0;
        REAL squares = sum
            ? step_row(w, v, sum + j * n, k, momentum, rate, n)
            : step_row(w, v, 0, k, momentum, rate, n);
        REAL norm = sizeof(REAL) == 4 ? __builtin_sqrtf(squares) : __builtin_sqrt(squares);
        if (norm < lowest || norm > highest) {
            /* A row of zeros has no direction; it stays a row of zeros. */
            REAL scale = (norm < lowest ? lowest : highest) / (norm > tiny ? norm : tiny);
            for (long i = 0; i < n; i++)
                w[i] *= scale;
        }
    }
    if (db)
        for (long j = 0; j < m; j++) {
            vb[j] = db[j] + momentum * vb[j];
            b[j] -= rate * vb[j];
        }
}

/* Back through an activation whose slope is s' = c0 + c1 h + c2 h^2, or 1 where h is not 0 (gate),
 * or lies in `slopes` turned over as h does, and s'' in `curvatures` (null: 0).
 *
 * From dh and h turned over, (m, rows), with  da = (dh + bend_j s'') s', where s'' = ds'/dh s':  out
 * (m, 2 rows) gets da and behind it h; db (m,) the sums of da over the samples, total (m,) those of
 * s'^2. bends (m,) stands for `bend` where it is not null. */
#define SLOPE(h) (c0 + (h) * (c1 + c2 * (h)))
#define BENT(dh, h, slope, bend) (((dh) + (bend) * ((c1 + twice * (h)) * (slope))) * (slope))
void backward(
    const REAL *restrict dh, const REAL *restrict h, REAL *restrict out, REAL *restrict db,
    REAL *restrict total, long rows, long m, int gate, REAL c0, REAL c1, REAL c2, REAL bend,
    const REAL *restrict bends, const REAL *restrict slopes, const REAL *restrict curvatures)
{
    const REAL twice = 2 * c2;
    const eight one = 1 + (eight){0};
    for (long j = 0; j < m; j++, dh += rows, h += rows, out += 2 * rows) {
        const REAL k = bends ? bends[j] : bend;
        eight sum = {0}, square = {0};
        long row = 0;
        for (; row + 8 <= rows; row += 8) {
            eight hi = *(const eight *)(h + row);
            eight di = *(const eight *)(dh + row), slope;
            if (gate) {
                places open = hi != 0;
                slope = (eight)((places)one & open);
                di = (eight)((places)di & open);
            } else if (slopes) {
                slope = *(const eight *)(slopes + j * rows + row);
                if (curvatures)
                    di += k * *(const eight *)(curvatures + j * rows + row);
                di *= slope;
            } else {
                slope = SLOPE(hi);
                di = BENT(di, hi, slope, k);
            }
            sum += di;
            square += slope * slope;
            *(eight *)(out + row) = di;
            *(eight *)(out + rows + row) = hi;
        }
        for (int lane = 0; row < rows; row++, lane++) {
            REAL hi = h[row], di = dh[row], slope;
            if (gate) {
                slope = hi != 0 ? 1 : 0;
                di = hi != 0 ? di : 0;
            } else if (slopes) {
                slope = slopes[j * rows + row];
                if (curvatures)
                    di += k * curvatures[j * rows + row];
                di *= slope;
            } else {
                slope = SLOPE(hi);
                di = BENT(di, hi, slope, k);
            }
            sum[lane] += di;
            square[lane] += slope * slope;
            out[row] = di;
            out[rows + row] = hi;
        }
        db[j] = sum_of_eight(sum);
        total[j] = sum_of_eight(square);
    }
}

/* ---- Activations --------------------------------------------------------------------------- */

/* exp(x) for |x| <= 87 (708): 2^k exp(r) with r = x - k ln 2, by the terms of its series that count. */
INLINE vector exponential(vector x)
{
    static const REAL terms[] = {
        1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320,
        1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    const int single = sizeof(REAL) == 4, last = single ? 7 : 13, mantissa = single ? 23 : 52;
    /* Added to a number it leaves the nearest whole one in the last bits. */
    const REAL magic = single ? 12582912.0 : 6755399441055744.0;
    const REAL high = single ? 0x1.62e4p-1 : 0x1.62e42fefa38p-1;
    const REAL low = single ? 0x1.7f7d1cf79abcap-20 : 0x1.ef35793c7673p-45;
    const vector shifted = x * (REAL)1.4426950408889634 + magic, k = shifted - magic;
    const vector r = (x - k * high) - k * low;
    vector sum = terms[last] + (vector){0};
    for (int i = last - 1; i >= 0; i--)
        sum = sum * r + terms[i];
    return (vector)((integers)sum + ((integers)shifted << mantissa));
}

INLINE vector chosen(integers which, vector one, vector other)
{
    return (vector)(((integers)one & which) | ((integers)other & ~which));
}

/* h of a, both with room for a register behind the last of `numbers`; they may be one. What is not a
 * number stays so. */
void activate(const REAL *a, REAL *h, long numbers, int activation)
{
    const vector zero = {0}, most = zero + (sizeof(REAL) == 4 ? 87 : 708);
    for (long i = 0; i < numbers; i += WIDTH) {
        vector x = *(const vector *)(a + i);
        if (activation == RELU) {
            *(vector *)(h + i) = chosen(x < zero, zero, x);
            continue;
        }
        x *= (REAL)(activation == TANH ? -2 : -1);
        x = chosen(x < -most, -most, chosen(x > most, most, x));
        x = 1 / (1 + exponential(x));
        if (activation == TANH)
            x = 2 * x - 1;
        *(vector *)(h + i) = x;
    }
}

/* ---- A step -------------------------------------------------------------------------------- */

/* One member, and what its steps are made in; c.py has the same under the same names. */
struct step {
    /* Rows: `copies` times the samples. */
    long rows, copies, m, n;
    REAL *W, *V, *b, *vb;
    /* A (m, 2 rows) = [da; h]^T, X (2 rows, n) = [x; dy]; a, h and dh turned over; `clean` (rows, n)
     * for more than one copy of x. */
    REAL *A, *X, *a, *h, *dh, *db, *total, *factors, *room, *clean, *probe;
    /* As `backward` has them; null where s' follows from h. */
    const REAL *slopes, *curvatures;
    REAL sigma, scale, momentum, rate, decay, lowest, highest, c0, c1, c2, bend, lam, share;
    /* For `run`: of a penalty lambda sum_j -log(1 - rho_j), which is linear from this rho_j on; 0 for
     * none. */
    REAL pole;
    int gate, with_bias, activation;
};

/* a of x (samples, n), with sigma eps (rows, n) added where eps is not null. */
void forward(const struct step *s, const REAL *restrict x, const REAL *restrict eps)
{
    const long numbers = s->rows / s->copies * s->n;
    for (long copy = 0; copy < s->copies; copy++) {
        REAL *restrict out = s->X + copy * numbers;
        if (eps)
            for (long i = 0; i < numbers; i++)
                out[i] = x[i] + s->sigma * eps[copy * numbers + i];
        else
            __builtin_memcpy(out, x, numbers * sizeof(REAL));
    }
    encode(s->X, s->W, s->b, s->a, s->room, s->rows, s->m, s->n, s->rows);
}

/* Units whose rows of W and V stay in the cache from the product that comes back through them to
 * their update. */
#define TOGETHER 48

/* The rest of the step, once h is there. The offset of dh_j and what `bend` is are given for each
 * unit where these are not null; lam share total_j scales_j W_j is part of the gradient. */
void back(
    const struct step *s, const REAL *x, const REAL *offset, const REAL *bends, const REAL *scales)
{
    const long rows = s->rows, m = s->m, n = s->n, numbers = rows / s->copies * n;
    REAL *dy = s->X + rows * n;
    if (s->copies > 1) {
        for (long copy = 0; copy < s->copies; copy++)
            __builtin_memcpy(s->clean + copy * numbers, x, numbers * sizeof(REAL));
        x = s->clean;
    }
    residual(s->h, s->W, x, dy, s->room, rows, m, n, rows, s->scale);
    const struct product samples = with_samples(dy, s->room, rows, n);
    REAL *room = s->room + n * samples.ldb;
    for (long j = 0; j < m; j += TOGETHER) {
        const long units = m - j < TOGETHER ? m - j : TOGETHER;
        REAL *W = s->W + j * n, *V = s->V + j * n, *A = s->A + j * 2 * rows;
        encode_with(&samples, W, offset ? offset + j : 0, s->dh + j * rows, units, rows);
        backward(
            s->dh + j * rows, s->h + j * rows, A, s->db + j, s->total + j, rows, units, s->gate,
            s->c0, s->c1, s->c2, s->bend, bends ? bends + j : 0,
            s->slopes ? s->slopes + j * rows : 0, s->curvatures ? s->curvatures + j * rows : 0);
        gradient(A, s->X, V, room, 2 * rows, units, n, s->momentum);
        if (s->decay)
            for (long i = 0; i < units * n; i++)
                V[i] += s->decay * W[i];
        if (s->share)
            for (long unit = j; unit < j + units; unit++)
                s->factors[unit] = s->total[unit] * s->lam * s->share * (scales ? scales[unit] : 1);
        update(
            W, V, 0, s->share ? s->factors + j : 0, units, n, s->b + j, s->vb + j,
            s->with_bias ? s->db + j : 0, s->momentum, s->rate, s->lowest, s->highest);
    }
    /* What is finite as long as the loss is. */
    eight squares = {0};
    long i = 0;
    for (; i + 8 <= rows * n; i += 8)
        squares += *(const eight *)(dy + i) * *(const eight *)(dy + i);
    for (; i < rows * n; i++)
        squares[0] += dy[i] * dy[i];
    *s->probe += sum_of_eight(squares);
}

/* lambda dR/dh_j into `offset` (m,), the same for each row, of the penalty that `pole` is of. */
static void offset_of(const struct step *s, REAL *offset)
{
    const REAL part = 1 / (REAL)s->rows;
    for (long j = 0; j < s->m; j++) {
        const REAL *h = s->h + j * s->rows;
        eight sum = {0};
        long row = 0;
        for (; row + 8 <= s->rows; row += 8)
            sum += *(const eight *)(h + row);
        for (int lane = 0; row < s->rows; row++, lane++)
            sum[lane] += h[row];
        const REAL rho = sum_of_eight(sum) * part;
        offset[j] = s->lam * part / (1 - (rho > s->pole ? s->pole : rho));
    }
}

/* Whole steps one after the other; x and eps lie so many numbers apart. */
void run(
    const struct step *s, const REAL *x, const REAL *eps, long steps, long apart, long eps_apart)
{
    for (long i = 0; i < steps; i++) {
        forward(s, x, eps);
        activate(s->a, s->h, s->rows * s->m, s->activation);
        if (s->pole)
            offset_of(s, s->factors);
        back(s, x, s->pole ? s->factors : 0, 0, 0);
        x += apart;
        eps = eps ? eps + eps_apart : 0;
    }
}
