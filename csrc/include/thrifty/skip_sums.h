// A convolution's weight gradient over the nonzeros of the output's gradient: the sums.
//
// The nonzeros are sorted by output channel within blocks of lines. Of x, some channels of what such a block sees lie
// together, so that they stay in the L1 cache, or in L2 where a block that small would hold too few nonzeros. For one
// output channel the sums of some taps are held in registers while its nonzeros pass: each adds a run of x (the taps of
// a kernel row see neighbouring pixels, so they are one run). Every sum is formed by one thread in the order of the
// pixels: the result does not depend on the number of threads.
#pragma once

#include "thrifty/nonzeros.h"
#include "thrifty/simd.h"

#ifdef THRIFTY_ISA
namespace thrifty::THRIFTY_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kMostSums = 20;  // accumulators held in registers, of 32
#else
constexpr int kMostSums = 10;  // of 16
#endif
constexpr int64_t kSlice = 64;             // channels of x that lie together
constexpr int64_t kNearTile = 40 * 1024;  // of x that a block of lines sees: about an L1 cache,
constexpr int64_t kFarTile = 192 * 1024;  // or a part of an L2 cache, if fewer than
constexpr int64_t kFewNonzeros = 12;       // nonzeros of an output channel would lie in the smaller block
constexpr int64_t kSumBytes = 512 * 1024;  // of sums that a thread works on at a time

// How x lies for the sums: padded and cut to what the outputs see, in slices[count][images, h, w, channels] of some
// channels each, with zeros in the last slice behind the last channel.
struct Slices {
    int64_t count, channels, h, w;
    float* x;

    int64_t floats(int64_t images) const { return images * h * w * channels; }
};

void fill(const float* x, const Geometry& g, int64_t images, int64_t channels, const Slices& to) {
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < images * to.h; ++line) {
        const int64_t row = line % to.h - g.pad_top;
        const bool inside = row >= 0 && row < g.in_h;
        const float* from = x + ((line / to.h) * g.in_h + row) * g.in_w * channels;
        for (int64_t slice = 0; slice < to.count; ++slice) {
            float* out = to.x + slice * to.floats(images) + line * to.w * to.channels;
            const int64_t first = slice * to.channels, some = least(to.channels, channels - first);
            for (int64_t w = 0; w < to.w; ++w) {
                const int64_t column = w - g.pad_left;
                const bool seen = inside && column >= 0 && column < g.in_w;
                const int64_t copied = seen ? some : 0;
                for (int64_t c = 0; c < copied; ++c) out[w * to.channels + c] = from[column * channels + first + c];
                for (int64_t c = copied; c < to.channels; ++c) out[w * to.channels + c] = 0.0f;
            }
        }
    }
}

// The nonzeros of lines [first, last), sorted by channel: those of channel m are at[begin[m]] up to begin[m + 1]; `at` is where in a slice of x, from the block's first line, the taps of the nonzero's
// pixel begin.
void sort_block(const Nonzeros& y, const Geometry& g, int64_t outputs, const Slices& x, int64_t first, int64_t last,
                int64_t* begin, int32_t* at, float* by) {
    for (int64_t m = 0; m <= outputs; ++m) begin[m] = 0;
    for (int64_t line = first; line < last; ++line) {
        for (int64_t s = 0; s < y.slices; ++s) {
            const int64_t* starts = y.line(s, line);
            for (int64_t w = 0; w < g.out_w; ++w)
                for (int64_t e = starts[w]; e < starts[w + 1]; ++e) ++begin[y.index[e] + (s - w) * y.channels + 1];
        }
    }
    const int64_t place = first * g.out_w * outputs;  // as far apart as the lines of y
    begin[0] = place;
    for (int64_t m = 0; m < outputs; ++m) begin[m + 1] += begin[m];
    const int64_t base = (first / g.out_h * x.h + first % g.out_h * g.stride_h) * x.w;
    for (int64_t line = first; line < last; ++line) {
        const int64_t row = (line / g.out_h * x.h + line % g.out_h * g.stride_h) * x.w - base;
        for (int64_t s = 0; s < y.slices; ++s) {
            const int64_t* starts = y.line(s, line);
            for (int64_t w = 0; w < g.out_w; ++w) {
                const int32_t pixel = static_cast<int32_t>((row + w * g.stride_w) * x.channels);
                for (int64_t e = starts[w]; e < starts[w + 1]; ++e) {
                    const int64_t to = begin[y.index[e] + (s - w) * y.channels]++;
                    at[to] = pixel;
                    by[to] = y.value[e];
                }
            }
        }
    }
    for (int64_t m = outputs; m > 0; --m) begin[m] = begin[m - 1];  // each was moved to the next one's place
    begin[0] = place;
}

// sum[s][n] += value * x[at + s * step ..] over nonzeros [begin, end), for S runs of N vectors.
template <int S, int N>
void add_nonzeros(const float* x, int64_t step, const int32_t* at, const float* by, int64_t begin, int64_t end,
                  int64_t stride, float* sums) {
    Vec sum[S * N];  // the pragmas keep them in registers: the compiler stops unrolling at 16
#pragma GCC unroll 32
    for (int i = 0; i < S * N; ++i) sum[i] = load(sums + i / N * stride + i % N * kLanes);
    for (int64_t e = begin; e < end; ++e) {
        const float* from = x + at[e];
        const float value = by[e];
#pragma GCC unroll 32
        for (int i = 0; i < S * N; ++i) sum[i] += value * load(from + i / N * step + i % N * kLanes);
    }
#pragma GCC unroll 32
    for (int i = 0; i < S * N; ++i) store(sums + i / N * stride + i % N * kLanes, sum[i]);
}

using RunAdder = void (*)(const float*, int64_t, const int32_t*, const float*, int64_t, int64_t, int64_t, float*);

// How many runs are taken at a time, for runs of so many vectors.
constexpr int runs_for(int vectors) {
    return 5 * vectors <= kMostSums ? 5 : 3 * vectors <= kMostSums ? 3 : 2 * vectors <= kMostSums ? 2 : 1;
}

template <int N>
void fill_run_adders(RunAdder (*run_adders)[kMostSums + 1]) {
    run_adders[1][N] = add_nonzeros<1, N>;
    run_adders[0][N] = add_nonzeros<runs_for(N), N>;
    if constexpr (N > 1) fill_run_adders<N - 1>(run_adders);
}

// How the sums of one output channel and one slice lie: runs of `stride` floats. A run covers the taps of a kernel row
// where those see neighbouring pixels, else one tap; it is worked on in pieces of `each` vectors.
struct Plan {
    int64_t runs, run, stride, pieces, each, together;
    int64_t across, step_h, step_w;  // runs in a kernel row; floats of x between kernel rows, and between taps in one
};

Plan plan_of(const Geometry& g, const Slices& x) {
    Plan p;
    const bool rows = g.dilation_w == 1;
    p.across = rows ? 1 : g.kernel_w;
    p.runs = g.kernel_h * p.across;
    p.run = rows ? g.kernel_w * x.channels : x.channels;
    const int64_t vectors = parts(p.run, kLanes);
    p.pieces = parts(vectors, kMostSums);
    p.each = parts(vectors, p.pieces);
    p.stride = p.pieces * p.each * kLanes;
    p.together = rows ? runs_for(static_cast<int>(p.each)) : 1;
    p.step_h = g.dilation_h * x.w * x.channels;
    p.step_w = g.dilation_w * x.channels;
    return p;
}

// Adds a block's nonzeros, of output channels [from, to), to their sums of one slice; `x` is the block's first line of it.
void add_block(const Plan& p, RunAdder (*run_adders)[kMostSums + 1], const float* x, const int64_t* begin, const int32_t* at,
               const float* by, int64_t from, int64_t to, int64_t width, float* sums) {
    for (int64_t run = 0; run < p.runs;) {
        const bool all = p.together > 1 && run + p.together <= p.runs;
        const RunAdder add = run_adders[all ? 0 : 1][p.each];
        const float* seen = x + run / p.across * p.step_h + run % p.across * p.step_w;
        for (int64_t piece = 0; piece < p.pieces; ++piece) {
            const int64_t column = piece * p.each * kLanes;
            for (int64_t m = from; m < to; ++m)
                if (begin[m] < begin[m + 1])
                    add(seen + column, p.step_h, at, by, begin[m], begin[m + 1], p.stride,
                        sums + m * width + run * p.stride + column);
        }
        run += all ? p.together : 1;
    }
}

// One output channel's sums[slice][run] -> dw[taps, channels].
void take(const Plan& p, const float* sums, const Slices& x, int64_t channels, int64_t taps, float* dw) {
    const int64_t each = taps / p.runs;  // taps of a run
    for (int64_t slice = 0; slice < x.count; ++slice) {
        const int64_t some = least(x.channels, channels - slice * x.channels);
        for (int64_t tap = 0; tap < taps; ++tap) {
            const float* from = sums + (slice * p.runs + tap / each) * p.stride + tap % each * x.channels;
            for (int64_t c = 0; c < some; ++c) dw[tap * channels + slice * x.channels + c] = from[c];
        }
    }
}

// Where a pixel has so few channels that the sums of all outputs fit an L1 cache, nothing is sorted: the nonzeros of a
// pixel pass in turn, and the R runs that its taps see, one vector each, stay in registers instead of the sums.
constexpr int64_t kFewBytes = 40 * 1024;
constexpr int kMostRunsSeen = 7;
constexpr int64_t kPortions = 32;  // of the lines, summed apart: their number decides the order of the sums

template <int R>
void add_pixels(const Nonzeros& y, const Geometry& g, const Slices& x, int64_t step_h, int64_t first, int64_t last,
                float* sums) {
    for (int64_t line = first; line < last; ++line) {
        const float* row = x.x + (line / g.out_h * x.h + line % g.out_h * g.stride_h) * x.w * x.channels;
        for (int64_t s = 0; s < y.slices; ++s) {
            const int64_t* starts = y.line(s, line);
            for (int64_t w = 0; w < g.out_w; ++w) {
                if (starts[w] == starts[w + 1]) continue;
                Vec seen[R];
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) seen[r] = load(row + w * g.stride_w * x.channels + r * step_h);
                for (int64_t e = starts[w]; e < starts[w + 1]; ++e) {
                    float* sum = sums + (y.index[e] + (s - w) * y.channels) * (R * kLanes);
                    const float value = y.value[e];
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r) store(sum + r * kLanes, load(sum + r * kLanes) + value * seen[r]);
                }
            }
        }
    }
}

using PixelAdder = void (*)(const Nonzeros&, const Geometry&, const Slices&, int64_t, int64_t, int64_t, float*);
constexpr PixelAdder kPixelAdders[kMostRunsSeen + 1] = {nullptr,       add_pixels<1>, add_pixels<2>, add_pixels<3>,
                                                        add_pixels<4>, add_pixels<5>, add_pixels<6>, add_pixels<7>};

void sum_few(const Nonzeros& y, const Geometry& g, const Slices& x, const Plan& plan, int64_t outputs,
             int64_t channels, int64_t taps, float* dw) {
    const int64_t width = plan.runs * kLanes;
    Scratch<float> scratch(kPortions * outputs * width);
    float* const sums = scratch;
#pragma omp parallel
    {
#pragma omp for schedule(dynamic)
        for (int64_t portion = 0; portion < kPortions; ++portion) {
            float* const mine = sums + portion * outputs * width;
            for (int64_t i = 0; i < outputs * width; ++i) mine[i] = 0.0f;
            kPixelAdders[plan.runs](y, g, x, plan.step_h, y.lines * portion / kPortions,
                                    y.lines * (portion + 1) / kPortions, mine);
        }
#pragma omp for schedule(static)
        for (int64_t m = 0; m < outputs; ++m) {
            float* const sum = sums + m * width;
            for (int64_t portion = 1; portion < kPortions; ++portion)
                for (int64_t i = 0; i < width; ++i) sum[i] += sums[(portion * outputs + m) * width + i];
            take(plan, sum, x, channels, taps, dw + m * taps * channels);
        }
    }
}

// x[images, in_h, in_w, channels] and the nonzeros of y[images, out_h, out_w, outputs] -> dw[outputs, taps, channels].
inline void sum_nonzeros(const Nonzeros& y, const float* x, const Geometry& g, int64_t images, int64_t outputs,
                         int64_t channels, float* dw) {
    if (channels == 0) return;
    const int64_t taps = g.kernel_h * g.kernel_w, lines = images * g.out_h, pixels = lines * g.out_w;

    Slices seen;
    seen.count = parts(channels, kSlice);
    seen.channels = seen.count == 1 ? channels : parts(parts(channels, kLanes), seen.count) * kLanes;
    seen.h = (g.out_h - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1;
    seen.w = (g.out_w - 1) * g.stride_w + (g.kernel_w - 1) * g.dilation_w + 1;
    const Plan plan = plan_of(g, seen);
    const int64_t slack = plan.stride - plan.run;  // the last vector of the last run reads beyond it
    Scratch<float> copy(seen.count * seen.floats(images) + slack);
    seen.x = copy;
    fill(x, g, images, channels, seen);
    for (int64_t c = 0; c < slack; ++c) seen.x[seen.count * seen.floats(images) + c] = 0.0f;

    if (plan.stride == kLanes && plan.across == 1 && plan.runs <= kMostRunsSeen &&
        outputs * plan.runs * kLanes * 4 <= kFewBytes) {
        sum_few(y, g, seen, plan, outputs, channels, taps, dw);
        return;
    }

    const int64_t line_bytes = g.stride_h * seen.w * seen.channels * 4;
    const int64_t halo = most(0, (g.kernel_h - 1) * g.dilation_h + 1 - g.stride_h) * seen.w * seen.channels * 4;
    const int64_t near = most(1, (kNearTile - halo) / line_bytes), far = most(1, kFarTile / line_bytes);
    const bool few = near * y.count < kFewNonzeros * lines * outputs;
    const int64_t block = few ? far : near, blocks = parts(lines, block);
    Scratch<int64_t> begins(blocks * (outputs + 1));
    Scratch<int32_t> at(pixels * outputs);
    Scratch<float> by(pixels * outputs);
    const int64_t width = seen.count * plan.runs * plan.stride;  // of an output channel's sums
    Scratch<float> sums(outputs * width);
    int64_t* begins_at = begins;
    int32_t* at_at = at;
    float *by_at = by, *sums_at = sums;

    RunAdder run_adders[2][kMostSums + 1];
    fill_run_adders<kMostSums>(run_adders);
    const int64_t fitting = most(1, kSumBytes / (width * 4));
    const int64_t chunk = most(1, least(fitting, parts(outputs, omp_get_max_threads())));
#pragma omp parallel
    {
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; ++b)
            sort_block(y, g, outputs, seen, b * block, least(lines, (b + 1) * block), begins_at + b * (outputs + 1),
                       at_at, by_at);
#pragma omp for schedule(dynamic)
        for (int64_t c = 0; c < parts(outputs, chunk); ++c) {
            const int64_t from = c * chunk, to = least(outputs, from + chunk);
            for (int64_t i = from * width; i < to * width; ++i) sums_at[i] = 0.0f;
            for (int64_t b = 0; b < blocks; ++b) {
                const int64_t line = b * block;
                const int64_t first = (line / g.out_h * seen.h + line % g.out_h * g.stride_h) * seen.w * seen.channels;
                for (int64_t s = 0; s < seen.count; ++s)
                    add_block(plan, run_adders, seen.x + s * seen.floats(images) + first, begins_at + b * (outputs + 1),
                              at_at, by_at, from, to, width, sums_at + s * plan.runs * plan.stride);
            }
            for (int64_t m = from; m < to; ++m)
                take(plan, sums_at + m * width, seen, channels, taps, dw + m * taps * channels);
        }
    }
}

}  // namespace
}  // namespace thrifty::THRIFTY_ISA
#endif
