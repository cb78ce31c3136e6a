/* Group norm, modulation and SiLU of images that are channels last, forward and backward; norms.py
   has the formulas. Compiled with HALF=1 for images of bfloat16, HALF=0 for float32, in which all
   of them are computed.

   An example is read twice, the second time from a cache where it fits. Sums are taken over fixed
   parts of an image, and added in double precision, so that a result depends neither on the number
   of threads nor on the rest of the batch. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if __AVX512F__
#define W 16 /* channels of a vector, as many numbers as the processor computes at once */
#elif __AVX2__
#define W 8
#else
#error "torch's operations are faster than this without AVX2"
#endif
#define TILE 16  /* pixels of which some channels are read before the next ones: they fit a cache */
#define PARTS 16 /* of an image, at most; each is the work of one thread */
#define FETCH(from) __builtin_prefetch(from) /* of the tile to come: the order is not foreseen */
#define INLINE static inline __attribute__((always_inline))

typedef float V __attribute__((vector_size(4 * W)));
typedef float F __attribute__((vector_size(2 * W)));  /* half of them, */
typedef double D __attribute__((vector_size(4 * W))); /* in double precision */
typedef union { D half[2]; double at[W]; } Doubles;
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));
typedef uint16_t H __attribute__((vector_size(2 * W)));
#if HALF
typedef uint16_t Element;
#else
typedef float Element;
#endif

typedef struct { /* arguments; arrays are (examples, ...) */
  const Element *x, *dy;             /* (pixels, channels) */
  Element *y;                        /* what is written: y, or dx */
  const float *weight, *bias, *film; /* film: (2, channels), scale and shift; or NULL */
  double *stats;                     /* (groups, 2): mean and 1 / std */
  float *sums;                       /* (2, channels): of dz and dz n over pixels */
  long pixels, channels, groups, silu;
  double eps;
  long part, parts; /* pixels of a part; number of parts */
  double *partial;  /* (parts, 2, channels): two sums over the pixels of a part */
  float *factors;   /* (6, channels): mean, a, b of z = a (x - mean) + b; then those of dx */
} Call;

enum { MEAN, A, B, DX_A, DX_B, SLOPE, FACTORS };

/* -- vectors of n <= W numbers ------------------------------------------------------------------ */

INLINE V load_float(const float *from, long n) {
  V v = {0};
  memcpy(&v, from, 4 * n);
  return v;
}

#if HALF
INLINE V load(const Element *from, long n) {
  H h = {0};
  memcpy(&h, from, 2 * n);
  return (V)(__builtin_convertvector(h, U) << 16);
}

INLINE void store(Element *to, V v, long n) { /* rounded to nearest, ties to even */
  U bits = (U)v, nan = (U)(v != v);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  H h = __builtin_convertvector((bits & ~nan) | (nan & 0x7fc0), H);
  memcpy(to, &h, 2 * n);
}
#else
INLINE V load(const Element *from, long n) { return load_float(from, n); }
INLINE void store(Element *to, V v, long n) { memcpy(to, &v, 4 * n); }
#endif

INLINE V at_most(V v, float most) { /* `most` also where v is NaN */
  V limit = (V){0} + most;
  I mask = v < limit;
  return (V)(((I)v & mask) | ((I)limit & ~mask));
}

INLINE V sigmoid(V z) { /* 1 / (1 + e^-z); e^t = 2^k e^r, |r| < ln(2) / 2, to 2e-7 */
  const float rounding = 12582912; /* 1.5 2^23: a sum with it is rounded to a whole number */
  V t = at_most(-at_most(z, 87), 87);
  V whole = t * 1.44269504f + rounding, k = whole - rounding;
  V r = t - k * 0.693359375f + k * 2.12194440e-4f;
  V p = 1.381454e-3f * r + 8.368745e-3f;
  p = p * r + 4.166839e-2f;
  p = p * r + 1.6666521e-1f;
  p = p * r + 4.9999994e-1f;
  V power = (V)(((U)whole << 23) + 0x3f800000); /* 2^k */
  return 1 / (1 + (p * (r * r) + r + 1) * power);
}

/* -- tiles: n channels, from the one at `at`, of some pixels ------------------------------------ */

typedef void Tile(const Call *c, long at, long pixels, long n, const float *f, double *sums);

#define ADD(sums, values, n) \
  for (long j = 0; j < (n); j++) (sums)[j] += (values)[j]

INLINE void moments(const Call *c, long at, long pixels, long n, const float *f, double *sums) {
  const long m = c->channels;
  const Element *x = c->x + at;
  Doubles s = {0}, squares = {0};
  for (long i = 0; i < pixels; i++) {
    FETCH(x + (i + TILE) * m);
    const V v = load(x + i * m, n);
    for (int part = 0; part < 2; part++) {
      F half;
      memcpy(&half, (const float *)&v + part * W / 2, sizeof half);
      const D wide = __builtin_convertvector(half, D);
      s.half[part] += wide;
      squares.half[part] += wide * wide;
    }
  }
  ADD(sums, s.at, n);
  ADD(sums + m, squares.at, n);
}

INLINE void outputs(const Call *c, long at, long pixels, long n, const float *f, double *sums) {
  const long m = c->channels, silu = c->silu;
  const V mean = load_float(f + MEAN * m, n), a = load_float(f + A * m, n);
  const V b = load_float(f + B * m, n);
  const Element *x = c->x + at;
  Element *y = c->y + at;
  for (long i = 0; i < pixels; i++) {
    V z = (load(x + i * m, n) - mean) * a + b;
    if (silu) z *= sigmoid(z);
    store(y + i * m, z, n);
  }
}

/* dz in the place of dx, and the sums of dz and dz (x - mean) */
INLINE void gradients(const Call *c, long at, long pixels, long n, const float *f, double *sums) {
  const long m = c->channels, silu = c->silu;
  const V mean = load_float(f + MEAN * m, n), a = load_float(f + A * m, n);
  const V b = load_float(f + B * m, n);
  const Element *x = c->x + at, *dy = c->dy + at;
  Element *dx = c->y + at;
  V s = {0}, products = {0};
  for (long i = 0; i < pixels; i++) {
    FETCH(x + (i + TILE) * m);
    FETCH(dy + (i + TILE) * m);
    V d = load(x + i * m, n) - mean, dz = load(dy + i * m, n);
    if (silu) {
      V z = d * a + b, sigma = sigmoid(z);
      dz *= sigma * (1 + z * (1 - sigma));
      store(dx + i * m, dz, n);
    }
    s += dz;
    products += dz * d;
  }
  ADD(sums, s, n);
  ADD(sums + m, products, n);
}

INLINE void inputs(const Call *c, long at, long pixels, long n, const float *f, double *sums) {
  const long m = c->channels;
  const Element *x = c->x + at, *dz = (c->silu ? c->y : c->dy) + at;
  Element *dx = c->y + at;
  const V mean = load_float(f + MEAN * m, n), a = load_float(f + DX_A * m, n);
  const V b = load_float(f + DX_B * m, n), slope = load_float(f + SLOPE * m, n);
  for (long i = 0; i < pixels; i++)
    store(dx + i * m, load(dz + i * m, n) * a - ((load(x + i * m, n) - mean) * slope + b), n);
}

INLINE void part_of(Tile tile, const Call *c, long image, long part) {
  const long m = c->channels, start = part * c->part;
  const long end = c->pixels - start < c->part ? c->pixels : start + c->part;
  const float *f = c->factors + image * FACTORS * m;
  double *sums = c->partial + (image * c->parts + part) * 2 * m;
  for (long p = start; p < end; p += TILE)
    for (long k = 0; k < m; k += W) {
      const long at = (image * c->pixels + p) * m + k, pixels = end - p < TILE ? end - p : TILE;
      if (m - k >= W)
        tile(c, at, pixels, W, f + k, sums + k);
      else if (m - k == W / 2) /* as fast, where the number is known */
        tile(c, at, pixels, W / 2, f + k, sums + k);
      else
        tile(c, at, pixels, m - k, f + k, sums + k);
    }
}

typedef void Part(const Call *c, long image, long part);
static void moments_of(const Call *c, long image, long part) { part_of(moments, c, image, part); }
static void outputs_of(const Call *c, long image, long part) { part_of(outputs, c, image, part); }
static void gradients_of(const Call *c, long i, long part) { part_of(gradients, c, i, part); }
static void inputs_of(const Call *c, long image, long part) { part_of(inputs, c, image, part); }

/* -- between both readings, of an example ------------------------------------------------------- */

INLINE double summed(const Call *c, long image, long which, long channel) {
  double sum = 0;
  for (long part = 0; part < c->parts; part++)
    sum += c->partial[((image * c->parts + part) * 2 + which) * c->channels + channel];
  return sum;
}

INLINE double factor(const Call *c, long image, long k) { /* of n */
  return c->film ? c->weight[k] * (1 + (double)c->film[image * 2 * c->channels + k]) : c->weight[k];
}

static void forward_factors(const Call *c, long image) {
  const long m = c->channels, width = m / c->groups;
  float *f = c->factors + image * FACTORS * m;
  for (long k = 0; k < m; k++) {
    const double *stats = c->stats + (image * c->groups + k / width) * 2;
    const double a = factor(c, image, k) * stats[1], rest = stats[0] - (float)stats[0];
    double b = c->bias[k];
    if (c->film) {
      const float *film = c->film + image * 2 * m;
      b = b * (1 + (double)film[k]) + film[m + k];
    }
    f[MEAN * m + k] = stats[0];
    f[A * m + k] = a;
    f[B * m + k] = b - a * rest;
  }
}

static void statistics(const Call *c, long image) {
  const long width = c->channels / c->groups;
  for (long g = 0; g < c->groups; g++) {
    double s = 0, squares = 0, *stats = c->stats + (image * c->groups + g) * 2;
    for (long k = g * width; k < (g + 1) * width; k++) {
      s += summed(c, image, 0, k);
      squares += summed(c, image, 1, k);
    }
    const double mean = s / (c->pixels * width), square = squares / (c->pixels * width);
    const double variance = square - mean * mean;
    stats[0] = mean;
    stats[1] = 1 / __builtin_sqrt((variance < 0 ? 0 : variance) + c->eps);
  }
}

static void backward_factors(const Call *c, long image) {
  const long m = c->channels, width = m / c->groups;
  float *f = c->factors + image * FACTORS * m, *sums = c->sums + image * 2 * m;
  for (long g = 0; g < c->groups; g++) {
    const double mean = c->stats[(image * c->groups + g) * 2];
    const double rstd = c->stats[(image * c->groups + g) * 2 + 1], rest = mean - (float)mean;
    double means[2] = {0, 0}; /* of a dz and a dz n */
    for (long k = g * width; k < (g + 1) * width; k++) {
      const double s = summed(c, image, 0, k), a = factor(c, image, k) / (c->pixels * width);
      const double products = (summed(c, image, 1, k) - rest * s) * rstd;
      sums[k] = s;
      sums[m + k] = products;
      means[0] += a * s;
      means[1] += a * products;
    }
    const double slope = rstd * rstd * means[1];
    for (long k = g * width; k < (g + 1) * width; k++) {
      f[DX_A * m + k] = rstd * factor(c, image, k);
      f[DX_B * m + k] = rstd * means[0] - slope * rest;
      f[SLOPE * m + k] = slope;
    }
  }
}

/* -- whole batches ------------------------------------------------------------------------------ */

/* The parts of an image by some threads; last: the last one first, which is still in a cache. */
INLINE void parts_of(Part *part, const Call *c, long image, int threads, int last) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long i = 0; i < c->parts; i++) part(c, image, last ? c->parts - 1 - i : i);
}

static void forward(const Call *c, long image, int threads) {
  parts_of(moments_of, c, image, threads, 0);
  statistics(c, image);
  forward_factors(c, image);
  parts_of(outputs_of, c, image, threads, 1);
}

static void backward(const Call *c, long image, int threads) {
  forward_factors(c, image);
  parts_of(gradients_of, c, image, threads, 0);
  backward_factors(c, image);
  parts_of(inputs_of, c, image, threads, 1);
}

/* Threads take an example each or, where there are too few of these, parts of one example. Not 0
   where there is no memory. */
int group_norm(Element *y, double *stats, float *sums, const Element *x, const Element *dy,
               const float *weight, const float *bias, const float *film, double eps, long examples,
               long pixels, long channels, long groups, long silu, long threads) {
  const long least = (pixels + PARTS - 1) / PARTS, part = (least + TILE - 1) / TILE * TILE;
  const long parts = (pixels + part - 1) / part, inner = examples < threads ? threads : 1;
  const size_t partial = 2 * parts * sizeof(double), factors = FACTORS * sizeof(float);
  double *room = calloc(examples * channels, partial + factors);
  if (!room) return 1;
  const Call c = {x, dy, y, weight, bias, film, stats, sums, pixels, channels, groups, silu, eps,
                  part, parts, room, (float *)(room + examples * channels * 2 * parts)};
#pragma omp parallel for num_threads(threads) if (threads > 1 && inner == 1)
  for (long image = 0; image < examples; image++)
    if (dy)
      backward(&c, image, inner);
    else
      forward(&c, image, inner);
  free(room);
  return 0;
}
