/* A training step on a CPU as loops in C; c.py compiles and calls them.
 *
 * REAL is float (and INTEGER int) or double (and long long). The order of every sum is fixed, and a
 * product with a sum is one operation wherever it can be (-ffp-contract=fast with FMA), so that the
 * results are the same bits whatever the compiler and the width of the registers.
 *
 * A matrix "turned over" has the hidden units, or the inputs, as its rows and the samples as columns.
 */
#define INLINE static inline __attribute__((always_inline))

/* Numbers of a sum that go side by side; rows of a matrix are padded to a multiple of it. */
#define LANES 16
/* Bytes of a register, and how many registers of a row's sums a tile holds. */
#ifdef __AVX512F__
#define REGISTER 64
#define ACROSS 4
#else
#define REGISTER 32
#define ACROSS 2
#endif
#define WIDTH ((long)(REGISTER / sizeof(REAL)))

typedef REAL vector
    __attribute__((vector_size(REGISTER), aligned(sizeof(REAL)), may_alias));
typedef REAL four __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL))));
typedef REAL eight
    __attribute__((vector_size(8 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
typedef INTEGER places __attribute__((vector_size(8 * sizeof(REAL))));
typedef INTEGER integers __attribute__((vector_size(REGISTER), may_alias));

/* Activations that whole runs know; c.py numbers them so. */
enum { NONE, RELU, SIGMOID, TANH };

/* ---- Turning over -------------------------------------------------------------------------- */

/* The first, and the second, halves of a and b with their numbers taken in turn. */
#ifdef __clang__
#define MIXED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIXED(a, b, ...) __builtin_shuffle(a, b, (places){__VA_ARGS__})
#endif
#define LOW(a, b) MIXED(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) MIXED(a, b, 4, 12, 5, 13, 6, 14, 7, 15)

/* Eight rows, as columns, to rows of `out` that are `stride` numbers apart. */
INLINE void turn_eight(const eight *in, REAL *restrict out, long stride)
{
    eight one[8], two[8];
    for (int i = 0; i < 4; i++)
        one[2 * i] = LOW(in[i], in[i + 4]), one[2 * i + 1] = HIGH(in[i], in[i + 4]);
    for (int i = 0; i < 4; i++)
        two[2 * i] = LOW(one[i], one[i + 4]), two[2 * i + 1] = HIGH(one[i], one[i + 4]);
    for (int i = 0; i < 4; i++) {
        *(eight *)(out + 2 * i * stride) = LOW(two[i], two[i + 4]);
        *(eight *)(out + (2 * i + 1) * stride) = HIGH(two[i], two[i + 4]);
    }
}

/* x (rows, n) as out (n, stride), with zeros behind column `rows`. */
INLINE void turn(const REAL *restrict x, REAL *restrict out, long rows, long n, long stride)
{
    for (long row = 0; row < stride; row += 8)
        for (long i = 0; i < n; i += 8) {
            if (row + 8 <= rows && i + 8 <= n) {
                eight block[8];
                for (int r = 0; r < 8; r++)
                    block[r] = *(const eight *)(x + (row + r) * n + i);
                turn_eight(block, out + i * stride + row, stride);
                continue;
            }
            for (long r = row; r < row + 8; r++)
                for (long k = i; k < i + 8 && k < n; k++)
                    out[k * stride + r] = r < rows ? x[r * n + k] : 0;
        }
}

/* ---- Sums ---------------------------------------------------------------------------------- */

/* The sum of the numbers that stood side by side. */
INLINE REAL sum_of(const REAL *lanes)
{
    four fours[LANES / 4];
    __builtin_memcpy(fours, lanes, sizeof fours);
    four sums = (fours[0] + fours[2]) + (fours[1] + fours[3]);
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

INLINE REAL sum_of_eight(eight s)
{
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* ---- Products ------------------------------------------------------------------------------ */

/* C = alpha A B + beta D + bias: C, D (M, N), A (M, K), B (K, N), bias (M,) or null; of A the number
 * at (i, k) stands at i a_row + k a_column, the others' rows are `ld` apart. D may be C, or null. */
struct product {
    long K, a_row, a_column, ldb, ldc, ldd;
    REAL alpha, beta;
    const REAL *A, *B, *D, *bias;
    REAL *C;
    /* Further columns of C, from `behind` on: A X^T + bias with X (more, K), whose rows and A's lie
     * one after the other. */
    long behind, more;
    const REAL *X;
};

/* `high` rows by `across` registers of C, from (i, j) on. */
INLINE void tile(const struct product *p, long i, long j, int high, int across)
{
    vector sums[6][ACROSS] = {{{0}}};
    const REAL *A = p->A + i * p->a_row, *B = p->B + j;
    const long a_row = p->a_row, a_column = p->a_column, ldb = p->ldb;
    for (long k = 0; k < p->K; k++, A += a_column, B += ldb) {
        vector b[ACROSS];
        for (int v = 0; v < across; v++)
            b[v] = *(const vector *)(B + v * WIDTH);
        for (int r = 0; r < high; r++)
            for (int v = 0; v < across; v++)
                sums[r][v] += A[r * a_row] * b[v];
    }
    for (int r = 0; r < high; r++)
        for (int v = 0; v < across; v++) {
            vector sum = p->alpha * sums[r][v];
            if (p->D)
                sum += p->beta * *(const vector *)(p->D + (i + r) * p->ldd + j + v * WIDTH);
            if (p->bias)
                sum += p->bias[i + r];
            *(vector *)(p->C + (i + r) * p->ldc + j + v * WIDTH) = sum;
        }
}

/* The further columns of `high` rows. */
INLINE void further(const struct product *p, long i, int high)
{
    for (long column = 0; column < p->more; column++) {
        const REAL *A = p->A + i * p->K, *x = p->X + column * p->K;
        vector sums[6][LANES / WIDTH] = {{{0}}};
        long k = 0;
        for (; k + LANES <= p->K; k += LANES)
            for (int r = 0; r < high; r++)
                for (int part = 0; part < LANES / WIDTH; part++)
                    sums[r][part] += *(const vector *)(A + r * p->K + k + part * WIDTH)
                        * *(const vector *)(x + k + part * WIDTH);
        for (int r = 0; r < high; r++) {
            REAL lanes[LANES];
            __builtin_memcpy(lanes, sums[r], sizeof lanes);
            for (long rest = k; rest < p->K; rest++)
                lanes[rest - k] += A[r * p->K + rest] * x[rest];
            p->C[(i + r) * p->ldc + p->behind + column] =
                sum_of(lanes) + (p->bias ? p->bias[i + r] : 0);
        }
    }
}

INLINE void strip(const struct product *p, long M, long j, int across, int last)
{
    long i = 0;
#define ROWS(high) \
    for (; i + high <= M; i += high) { \
        tile(p, i, j, high, across); \
        if (last) /* while these rows of A are in the cache */ \
            further(p, i, high); \
    }
    ROWS(6)
    ROWS(2)
    ROWS(1)
#undef ROWS
}

/* For N a multiple of LANES. */
static void multiply(const struct product *p, long M, long N)
{
    /* From the right to the left, and downwards: what is written behind the end of a row of C, where
     * N is more than its length, is overwritten by the row's successor. */
    long j = N - N % (ACROSS * WIDTH);
    switch ((N - j) / WIDTH) {
#if ACROSS == 4
    case 3:
        strip(p, M, j, 3, 1);
        break;
    case 2:
        strip(p, M, j, 2, 1);
        break;
#endif
    case 1:
        strip(p, M, j, 1, 1);
        break;
    default:
        strip(p, M, j, 0, 1);
    }
    for (j -= ACROSS * WIDTH; j >= 0; j -= ACROSS * WIDTH)
        strip(p, M, j, ACROSS, 0);
}

/* For any N: what is left of the columns gets a place of its own, `room` for (K + M) LANES numbers. */
static void multiply_any(const struct product *p, long M, long N, REAL *room)
{
    const long whole = N - N % LANES, rest = N - whole;
    multiply(p, M, whole);
    if (!rest)
        return;
    REAL *B = room, *C = room + p->K * LANES;
    for (long k = 0; k < p->K; k++)
        for (long i = 0; i < LANES; i++)
            B[k * LANES + i] = i < rest ? p->B[k * p->ldb + whole + i] : 0;
    struct product q = *p;
    q.B = B, q.C = C, q.D = 0, q.ldb = q.ldc = LANES;
    multiply(&q, M, LANES);
    for (long row = 0; row < M; row++)
        for (long i = 0; i < rest; i++) {
            REAL sum = C[row * LANES + i];
            if (p->D)
                sum += p->beta * p->D[row * p->ldd + whole + i];
            p->C[row * p->ldc + whole + i] = sum;
        }
}

/* W x^T + offset as out (m, rows), its rows `apart`, of x (rows, n), W (m, n), offset (m,) or null;
 * `room` is for x turned over, n times rows and padding. Up to LANES - 1 numbers behind a row of out
 * are overwritten, also behind the last. */
void encode(
    const REAL *x, const REAL *W, const REAL *offset, REAL *out, REAL *room, long rows, long m, long n,
    long apart)
{
    /* A register for one to four samples costs more than they do by themselves. */
    const long whole = rows - rows % LANES, more = rows - whole > 4 ? 0 : rows - whole;
    const long padded = more || whole == rows ? whole : whole + LANES;
    turn(x, room, rows < padded ? rows : padded, n, padded);
    struct product p = {
        .K = n, .a_row = n, .a_column = 1, .ldb = padded, .ldc = apart, .alpha = 1,
        .A = W, .B = room, .bias = offset, .C = out,
        .behind = whole, .more = more, .X = x + whole * n};
    multiply(&p, m, padded);
}

/* scale (h W - x) as out (rows, n), of h turned over, (m, rows), its rows `apart`; without x scale
 * h W. */
void residual(
    const REAL *h, const REAL *W, const REAL *x, REAL *out, REAL *room, long rows, long m, long n,
    long apart, REAL scale)
{
    struct product p = {
        .K = m, .a_row = 1, .a_column = apart, .ldb = n, .ldc = n, .ldd = n, .alpha = scale,
        .beta = -scale, .A = h, .B = W, .D = x, .C = out};
    multiply_any(&p, rows, n, room);
}

/* V = momentum V + A X, of A (m, rows), X (rows, n). */
void gradient(
    const REAL *A, const REAL *X, REAL *V, REAL *room, long rows, long m, long n, REAL momentum)
{
    struct product p = {
        .K = rows, .a_row = rows, .a_column = 1, .ldb = n, .ldc = n, .ldd = n, .alpha = 1,
        .beta = momentum, .A = A, .B = X, .D = V, .C = V};
    multiply_any(&p, m, n, room);
}

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
    encode(dy, s->W, offset, s->dh, s->room, rows, m, n, rows);
    backward(
        s->dh, s->h, s->A, s->db, s->total, rows, m, s->gate, s->c0, s->c1, s->c2, s->bend, bends,
        s->slopes, s->curvatures);
    gradient(s->A, s->X, s->V, s->room, 2 * rows, m, n, s->momentum);
    if (s->decay)
        for (long i = 0; i < m * n; i++)
            s->V[i] += s->decay * s->W[i];
    if (s->share)
        for (long j = 0; j < m; j++)
            s->factors[j] = s->total[j] * s->lam * s->share * (scales ? scales[j] : 1);
    update(
        s->W, s->V, 0, s->share ? s->factors : 0, m, n, s->b, s->vb, s->with_bias ? s->db : 0,
        s->momentum, s->rate, s->lowest, s->highest);
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
