// A convolution, or its adjoint, over the nonzeros of its source: the products.
//
// Every nonzero multiplies one row of the weight, and the sums are held in registers. The weight lies packed so that the
// rows in use stay in a cache: in L1 where a slice of a pixel has many nonzeros, else those of several taps in L2, so that
// a pixel's sums are fetched seldom. Cost: the share of nonzeros times the dense multiply-adds, at the speed of the loads.
// Where the taps of a kernel row see neighbouring pixels, their nonzeros are one run, and one loop takes them all.
#pragma once

#include "thrifty/nonzeros.h"
#include "thrifty/simd.h"

#ifdef THRIFTY_ISA
namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int kMostVectors = 8;  // of accumulators
constexpr int64_t kNearBytes = 26 * 1024;  // of packed weight used at a time: most of an L1 cache,
constexpr int64_t kFarBytes = 384 * 1024;  // or of an L2 cache
constexpr int kNearVectors = 8;
constexpr double kMany = 10;  // nonzeros of a slice of a pixel, from which on L1 pays
constexpr int64_t kTileBytes = 128 * 1024;    // of results that are added to at a time
constexpr int64_t kMostRuns = 64;

// One axis: source coordinate = (result * up - pad + tap * dilation) / down, where that divides.
struct Axis {
    int64_t source, result, taps, up, down, pad, dilation;
};

Axis axis_of(int64_t in, int64_t out, int64_t taps, int64_t stride, int64_t pad, int64_t dilation, bool transpose) {
    // The adjoint sees through the taps in reverse order, so that its coordinate rises with the tap as well.
    if (transpose) return {out, in, taps, 1, stride, (taps - 1) * dilation - pad, dilation};
    return {in, out, taps, stride, 1, pad, dilation};
}

inline int64_t source_of(const Axis& axis, int64_t result, int64_t tap) {
    const int64_t at = result * axis.up - axis.pad + tap * axis.dilation;
    if (at < 0) return -1;
    if (axis.down != 1 && at % axis.down) return -1;
    const int64_t source = axis.down == 1 ? at : at / axis.down;
    return source < axis.source ? source : -1;
}

// Nonzeros [begin, end), each of which multiplies packed row `first + index`.
struct Run {
    int64_t begin, end, first;
};

template <int N>
inline void add_runs(const Run* runs, int64_t count, const int32_t* index, const float* value, const float* weight,
                     const float* start, float* out) {
    constexpr int kPairs = N <= 4 ? N : 0;  // few sums: a second set hides the latency of the first
    Vec sum[N], more[kPairs ? kPairs : 1];
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) sum[v] = load(start + v * kLanes);
    for (int v = 0; v < kPairs; ++v) more[v] = Vec{};
    for (int64_t i = 0; i < count; ++i) {
        const float* rows = weight + runs[i].first * (N * kLanes);
        int64_t e = runs[i].begin;
        const int64_t end = runs[i].end;
        if (kPairs > 0) {
            for (; e + 1 < end; e += 2) {
                const float* one = rows + static_cast<int64_t>(index[e]) * (N * kLanes);
                const float* two = rows + static_cast<int64_t>(index[e + 1]) * (N * kLanes);
#pragma GCC unroll 8
                for (int v = 0; v < kPairs; ++v) {
                    sum[v] += value[e] * load(one + v * kLanes);
                    more[v] += value[e + 1] * load(two + v * kLanes);
                }
            }
        }
        for (; e < end; ++e) {
            const float* row = rows + static_cast<int64_t>(index[e]) * (N * kLanes);
#pragma GCC unroll 8
            for (int v = 0; v < N; ++v) sum[v] += value[e] * load(row + v * kLanes);
        }
    }
    for (int v = 0; v < kPairs; ++v) sum[v] += more[v];
    for (int v = 0; v < N; ++v) store(out + v * kLanes, sum[v]);
}

struct Problem {
    Axis h, w;
    int64_t channels, width;  // of a slice of the source, of the result
    const int64_t* starts;    // of that slice
    const int32_t* index;
    const float* value;
    float* result;
};

// The taps that a pass covers: kernel rows [row, row + rows), in each the columns [column, column + columns).
struct Taps {
    int64_t row, rows, column, columns;
};

inline int64_t runs_of(const Problem& p, const Taps& taps, int64_t image, int64_t h, int64_t w, Run* runs) {
    int64_t count = 0;
    for (int64_t r = taps.row; r < taps.row + taps.rows; ++r) {
        const int64_t line = source_of(p.h, h, r);
        if (line < 0) continue;
        const int64_t* at = p.starts + (image * p.h.source + line) * (p.w.source + 1);
        if (p.w.down == 1 && p.w.dilation == 1) {
            const int64_t base = w * p.w.up - p.w.pad;
            int64_t from = base + taps.column, to = from + taps.columns;
            if (from < 0) from = 0;
            if (to > p.w.source) to = p.w.source;
            if (from < to && at[from] < at[to]) runs[count++] = {at[from], at[to], (r * p.w.taps - base) * p.channels};
            continue;
        }
        for (int64_t s = taps.column; s < taps.column + taps.columns; ++s) {
            const int64_t pixel = source_of(p.w, w, s);
            if (pixel >= 0 && at[pixel] < at[pixel + 1])
                runs[count++] = {at[pixel], at[pixel + 1], (r * p.w.taps + s - pixel) * p.channels};
        }
    }
    return count;
}

// Adds what `taps` see to the results of lines [first, last), columns [column, column + N vectors).
template <int N>
void add_taps(const Problem& p, const Taps& taps, bool begin, const float* bias, const float* weight, int64_t column,
              int64_t first, int64_t last) {
    const int64_t wide = p.width - column < N * kLanes ? p.width - column : N * kLanes;
    float edge[N * kLanes] = {};
    Run runs[kMostRuns];
    for (int64_t line = first; line < last; ++line) {
        const int64_t image = line / p.h.result, h = line % p.h.result;
        for (int64_t w = 0; w < p.w.result; ++w) {
            float* out = p.result + (line * p.w.result + w) * p.width + column;
            const int64_t count = runs_of(p, taps, image, h, w, runs);
            if (count == 0 && !begin) continue;
            if (wide == N * kLanes) {
                add_runs<N>(runs, count, p.index, p.value, weight, begin ? bias : out, out);
                continue;
            }
            if (!begin)
                for (int64_t c = 0; c < wide; ++c) edge[c] = out[c];
            add_runs<N>(runs, count, p.index, p.value, weight, begin ? bias : edge, edge);
            for (int64_t c = 0; c < wide; ++c) out[c] = edge[c];
        }
    }
}

using Adder = void (*)(const Problem&, const Taps&, bool, const float*, const float*, int64_t, int64_t, int64_t);
constexpr Adder kAdders[kMostVectors] = {add_taps<1>, add_taps<2>, add_taps<3>, add_taps<4>,
                                         add_taps<5>, add_taps<6>, add_taps<7>, add_taps<8>};

// weight[outputs, taps, channels] -> packed[chunk][slice][tap][channel of the slice][lanes]; rows and lanes behind the
// last channel are zeros or never read.
void pack(const float* weight, int64_t outputs, int64_t taps, int64_t channels, bool transpose, int64_t lanes,
          int64_t chunks, int64_t slices, int64_t slice, float* packed) {
    const int64_t from = transpose ? outputs : channels, to = transpose ? channels : outputs;
    const int64_t step_from = transpose ? taps * channels : 1, step_to = transpose ? 1 : taps * channels;
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t part = 0; part < chunks * slices; ++part) {
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t column = part / slices * lanes, row = part % slices * slice;
            const int64_t wide = least(lanes, to - column), high = least(slice, from - row);
            const float* at = weight + (transpose ? taps - 1 - tap : tap) * channels + row * step_from + column * step_to;
            float* rows = packed + (part * taps + tap) * slice * lanes;
            for (int64_t i = 0; i < high; ++i) {
                for (int64_t j = 0; j < wide; ++j) rows[i * lanes + j] = at[i * step_from + j * step_to];
                for (int64_t j = wide; j < lanes; ++j) rows[i * lanes + j] = 0.0f;
            }
        }
    }
}

// The taps of pass number `pass`, when `room` taps fit a pass; or none behind the last.
Taps taps_of(const Problem& p, int64_t room, int64_t pass) {
    const int64_t wide = p.w.taps;
    if (p.w.down != 1 || p.w.dilation != 1) room = least(room, kMostRuns);  // there each tap is a run
    if (room >= wide) {
        const int64_t rows = least(least(room / wide, kMostRuns), p.h.taps), row = pass * rows;
        return {row, row < p.h.taps ? least(rows, p.h.taps - row) : 0, 0, wide};
    }
    const int64_t passes = parts(wide, room), row = pass / passes, column = pass % passes * room;
    return {row, row < p.h.taps ? 1 : 0, column, least(room, wide - column)};
}

// How many channels of the source make a slice, for this share of nonzeros.
int64_t slice_for(double share, int64_t channels) {
    const int64_t near = kNearBytes / (kNearVectors * kLanes * 4);
    const int64_t slice = parts(channels, most(1, parts(channels, near)));
    return share * static_cast<double>(slice) >= kMany ? slice : channels;
}

// weight[outputs, taps, channels], bias[width of the result] or null; result as skip_conv has it.
void multiply_nonzeros(const Nonzeros& nonzeros, const float* weight, const float* bias, const Geometry& g,
                       int64_t images, int64_t outputs, int64_t channels, bool transpose, float* result) {
    Problem p;
    p.h = axis_of(g.in_h, g.out_h, g.kernel_h, g.stride_h, g.pad_top, g.dilation_h, transpose);
    p.w = axis_of(g.in_w, g.out_w, g.kernel_w, g.stride_w, g.pad_left, g.dilation_w, transpose);
    p.channels = nonzeros.channels;
    p.width = transpose ? channels : outputs;
    p.index = nonzeros.index, p.value = nonzeros.value, p.result = result;
    if (p.width == 0) return;
    const double pixels = static_cast<double>(nonzeros.lines * nonzeros.width * nonzeros.slices);
    const bool near = p.channels * kNearVectors * kLanes * 4 <= kNearBytes &&
                      static_cast<double>(nonzeros.count) >= kMany * pixels;

    const int64_t vectors = parts(p.width, kLanes), chunks = parts(vectors, near ? kNearVectors : kMostVectors);
    const int64_t each = parts(vectors, chunks), lanes = each * kLanes;
    const int64_t taps = g.kernel_h * g.kernel_w, part = taps * p.channels * lanes;
    Scratch<float> packed(chunks * nonzeros.slices * part);
    pack(weight, outputs, taps, channels, transpose, lanes, chunks, nonzeros.slices, p.channels, packed);
    Scratch<float> begin(chunks * lanes);
    for (int64_t c = 0; c < chunks * lanes; ++c) begin[c] = bias && c < p.width ? bias[c] : 0.0f;

    const int64_t lines = images * p.h.result, line_bytes = p.w.result * lanes * 4;
    const int64_t block = most(1, kTileBytes / most(1, line_bytes)), blocks = parts(lines, block);
    const int64_t tap_bytes = p.channels * lanes * 4;
    const int64_t room = most(1, (near ? kNearBytes : kFarBytes) / most(1, tap_bytes));
    const float *rows = packed, *bias_at = begin;
#pragma omp parallel for schedule(dynamic)
    for (int64_t task = 0; task < chunks * blocks; ++task) {
        const int64_t chunk = task / blocks, line = task % blocks * block;
        Problem mine = p;
        for (int64_t slice = 0; slice < nonzeros.slices; ++slice) {
            mine.starts = nonzeros.line(slice, 0);
            for (int64_t pass = 0;; ++pass) {
                const Taps now = taps_of(p, room, pass);
                if (now.rows == 0) break;
                kAdders[each - 1](mine, now, slice == 0 && pass == 0, bias_at + chunk * lanes,
                                  rows + (chunk * nonzeros.slices + slice) * part, chunk * lanes, line,
                                  least(line + block, lines));
            }
        }
    }
}

}  // namespace
}  // namespace thrifty::THRIFTY_ISA
#endif
