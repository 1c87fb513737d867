/* Passes of a training step on a CPU, each as one loop; sparseae/fused.py compiles and calls them.
 *
 * Compiled with REAL as float (INTEGER as int) and again as double (long long). The order of every
 * sum is fixed and nothing is contracted (-ffp-contract=off), so that the results are the same bits
 * whatever the compiler and the width of the vector registers.
 */
#define PASTE(name, type) name##_##type
#define NAMED(name, type) PASTE(name, type)
#define NAME(name) NAMED(name, REAL)
#define LANES 16
#if defined __AVX512F__
#define REGISTER 64
#elif defined __AVX__
#define REGISTER 32
#else
#define REGISTER 16
#endif

/* A register, and how many of them make LANES numbers. */
typedef REAL NAME(vector)
    __attribute__((vector_size(REGISTER), aligned(sizeof(REAL)), may_alias));
typedef REAL NAME(four) __attribute__((vector_size(4 * sizeof(REAL))));
#define WIDTH ((int)(REGISTER / sizeof(REAL)))
#define PARTS (LANES / WIDTH)

/* v = g + momentum v + k w  (without g: v + k w)  and  w -= rate v  over one row; norm(w)^2. */
static inline __attribute__((always_inline)) REAL NAME(step_row)(
    REAL *restrict w, REAL *restrict v, const REAL *restrict g, REAL k, REAL momentum, REAL rate,
    long n)
{
    NAME(vector) squares[PARTS] = {0};
    long i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int part = 0; part < PARTS; part++) {
            NAME(vector) *vp = (NAME(vector) *)(v + i) + part, *wp = (NAME(vector) *)(w + i) + part;
            NAME(vector) vi = *vp, wi = *wp;
            if (g)
                vi = *((const NAME(vector) *)(g + i) + part) + momentum * vi;
            vi += k * wi;
            wi -= rate * vi;
            *vp = vi;
            *wp = wi;
            squares[part] += wi * wi;
        }
    REAL lanes[LANES];
    __builtin_memcpy(lanes, squares, sizeof lanes);
    for (int lane = 0; i < n; i++, lane++) {
        v[i] = (g ? g[i] + momentum * v[i] : v[i]) + k * w[i];
        w[i] -= rate * v[i];
        lanes[lane] += w[i] * w[i];
    }
    NAME(four) fours[LANES / 4];
    __builtin_memcpy(fours, lanes, sizeof lanes);
    NAME(four) sums = (fours[0] + fours[2]) + (fours[1] + fours[3]);
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

/* One step of SGD with momentum on W, V (m, n) and b, vb (m,), and norm(W_j) brought into
 * [lowest, highest].
 *
 * sum (m, n) is added to momentum V; where it is null, V holds that sum already. factors (m,):
 * factors_j W_j is part of the gradient; may be null. db (m,) is the gradient of b; null leaves b
 * as it is. */
void NAME(update)(
    REAL *W, REAL *V, const REAL *sum, const REAL *factors, long m, long n, REAL *b, REAL *vb,
    const REAL *db, REAL momentum, REAL rate, REAL lowest, REAL highest)
{
    const REAL tiny = sizeof(REAL) == 4 ? 1.17549435e-38 : 2.2250738585072014e-308;
    for (long j = 0; j < m; j++) {
        REAL *w = W + j * n, *v = V + j * n, k = factors ? factors[j] : 0;
        REAL squares = sum
            ? NAME(step_row)(w, v, sum + j * n, k, momentum, rate, n)
            : NAME(step_row)(w, v, 0, k, momentum, rate, n);
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

/* Eight numbers, and the two halves of a and b with their numbers taken in turn. */
typedef REAL NAME(eight)
    __attribute__((vector_size(8 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(places) __attribute__((vector_size(8 * sizeof(REAL))));
#ifdef __clang__
#define MIXED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIXED(a, b, ...) __builtin_shuffle(a, b, (NAME(places)){__VA_ARGS__})
#endif
#define LOW(a, b) MIXED(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) MIXED(a, b, 4, 12, 5, 13, 6, 14, 7, 15)

/* The eight rows of `in`, as columns, to rows of `out` that are `stride` numbers apart. */
static inline __attribute__((always_inline)) void NAME(turn)(
    const NAME(eight) *in, REAL *restrict out, long stride)
{
    NAME(eight) one[8], two[8];
    for (int i = 0; i < 4; i++)
        one[2 * i] = LOW(in[i], in[i + 4]), one[2 * i + 1] = HIGH(in[i], in[i + 4]);
    for (int i = 0; i < 4; i++)
        two[2 * i] = LOW(one[i], one[i + 4]), two[2 * i + 1] = HIGH(one[i], one[i + 4]);
    for (int i = 0; i < 4; i++) {
        *(NAME(eight) *)(out + 2 * i * stride) = LOW(two[i], two[i + 4]);
        *(NAME(eight) *)(out + (2 * i + 1) * stride) = HIGH(two[i], two[i + 4]);
    }
}

/* Back through an activation whose slope is s' = c0 + c1 h + c2 h^2, or 1 where h is not 0 (gate).
 *
 * From dh and h (rows, m), with  da = (dh + bend_j ds'/dh s') s':  out (m, 2 rows) gets da and
 * behind it h, turned over; db (m,) the sums of da over the rows, total (m,) those of s'^2. bends
 * (m,) stands for `bend` where it is not null. */
#define SLOPE(h) (c0 + (h) * (c1 + c2 * (h)))
#define BENT(dh, h, slope, bend) (((dh) + (bend) * ((c1 + twice * (h)) * (slope))) * (slope))
void NAME(backward)(
    const REAL *restrict dh, const REAL *restrict h, REAL *restrict out, REAL *restrict db,
    REAL *restrict total, long rows, long m, int gate, REAL c0, REAL c1, REAL c2, REAL bend,
    const REAL *restrict bends)
{
    const REAL twice = 2 * c2;
    const long stride = 2 * rows, whole_rows = rows - rows % 8, whole = m - m % 8;
    const NAME(eight) one = 1 + (NAME(eight)){0};
    for (long j = 0; j < whole; j += 8) {
        NAME(eight) sum = {0}, square = {0}, k = bend + (NAME(eight)){0};
        if (bends)
            k = *(const NAME(eight) *)(bends + j);
        REAL *to = out + j * stride;
        for (long row = 0; row < rows; row += 8) {
            NAME(eight) das[8], hs[8];
            long here = row < whole_rows ? 8 : rows - row;
            for (long i = 0; i < here; i++) {
                NAME(eight) hi = *(const NAME(eight) *)(h + (row + i) * m + j);
                NAME(eight) di = *(const NAME(eight) *)(dh + (row + i) * m + j), slope;
                if (gate) {
                    NAME(places) open = hi != 0;
                    slope = (NAME(eight))((NAME(places))one & open);
                    di = (NAME(eight))((NAME(places))di & open);
                } else {
                    slope = SLOPE(hi);
                    di = BENT(di, hi, slope, k);
                }
                sum += di;
                square += slope * slope;
                das[i] = di, hs[i] = hi;
            }
            if (here == 8) {
                NAME(turn)(das, to + row, stride);
                NAME(turn)(hs, to + rows + row, stride);
            } else
                for (long i = 0; i < here; i++)
                    for (int lane = 0; lane < 8; lane++) {
                        to[lane * stride + row + i] = das[i][lane];
                        to[lane * stride + rows + row + i] = hs[i][lane];
                    }
        }
        *(NAME(eight) *)(db + j) = sum;
        *(NAME(eight) *)(total + j) = square;
    }
    for (long j = whole; j < m; j++) {
        REAL sum = 0, square = 0, k = bends ? bends[j] : bend;
        REAL *to = out + j * stride;
        for (long row = 0; row < rows; row++) {
            REAL hi = h[row * m + j], di = dh[row * m + j];
            REAL slope = gate ? (hi != 0 ? 1 : 0) : SLOPE(hi);
            di = gate ? (hi != 0 ? di : 0) : BENT(di, hi, slope, k);
            sum += di;
            square += slope * slope;
            to[row] = di;
            to[rows + row] = hi;
        }
        db[j] = sum;
        total[j] = square;
    }
}
#undef SLOPE
#undef BENT
#undef LOW
#undef HIGH
#undef MIXED
#undef WIDTH
#undef PARTS
#undef REGISTER
#undef LANES
#undef NAME
#undef NAMED
#undef PASTE
