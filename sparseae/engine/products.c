/* Matrix products on a CPU as loops in C, and what a training step (step.c) is made of beside them.
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
/* Rows of B that are asked for ahead: a row of W may be a page, where the processor does not do it. */
#define AHEAD 8
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
        for (int v = 0; v < across; v++)
            __builtin_prefetch(B + AHEAD * ldb + v * WIDTH);
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

/* What `encode` takes of x (rows, n), which is turned over into `room`. */
static struct product with_samples(const REAL *x, REAL *room, long rows, long n)
{
    /* A register for one to four samples costs more than they do by themselves. */
    const long whole = rows - rows % LANES, more = rows - whole > 4 ? 0 : rows - whole;
    const long padded = more || whole == rows ? whole : whole + LANES;
    turn(x, room, rows < padded ? rows : padded, n, padded);
    return (struct product){
        .K = n, .a_row = n, .a_column = 1, .ldb = padded, .alpha = 1, .B = room,
        .behind = whole, .more = more, .X = x + whole * n};
}

/* `encode` with samples that lie turned over. */
static void encode_with(
    const struct product *samples, const REAL *W, const REAL *offset, REAL *out, long m, long apart)
{
    struct product p = *samples;
    p.A = W, p.bias = offset, p.C = out, p.ldc = apart;
    multiply(&p, m, p.ldb);
}

/* W x^T + offset as out (m, rows), its rows `apart`, of x (rows, n), W (m, n), offset (m,) or null;
 * `room` is for x turned over, n times rows and padding. Up to LANES - 1 numbers behind a row of out
 * are overwritten, also behind the last. */
void encode(
    const REAL *x, const REAL *W, const REAL *offset, REAL *out, REAL *room, long rows, long m, long n,
    long apart)
{
    const struct product p = with_samples(x, room, rows, n);
    encode_with(&p, W, offset, out, m, apart);
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
