// Vectors of floats as wide as the ISA's registers, and the one loop that most kernels are made of: the sum of rows.
#pragma once

#include <cstdint>

#include "thrifty/kernels.h"

#ifdef THRIFTY_ISA
namespace thrifty::THRIFTY_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kBlock = 8;  // accumulators held in registers at a time, of 32
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kBlock = 8;  // of 16
#else
constexpr int kLanes = 4;
constexpr int kBlock = 8;  // of 16 (SSE2) or 32 (NEON)
#endif

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }  // rounded up

// aligned(4): rows start anywhere; may_alias: they are read as floats elsewhere.
typedef float Vec __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

// out[0 .. N vectors) = (start + sum of rows) * scale, over columns that begin at `column`.
template <int N>
inline void sum_block(const float* const* rows, int64_t count, int64_t column, const float* start, float scale,
                      float* out) {
    Vec sum[N];
    for (int v = 0; v < N; ++v) sum[v] = start ? load(start + column + v * kLanes) : Vec{};
    for (int64_t i = 0; i < count; ++i) {
        const float* row = rows[i] + column;
        for (int v = 0; v < N; ++v) sum[v] += load(row + v * kLanes);
    }
    for (int v = 0; v < N; ++v) store(out + column + v * kLanes, sum[v] * scale);
}

// out[c] = (start[c] + sum over i of rows[i][c]) * scale for c in [0, width); start may be null (zeros) or out itself.
inline void sum_rows(const float* const* rows, int64_t count, int64_t width, const float* start, float scale,
                     float* out) {
    int64_t c = 0;
    for (; c + kBlock * kLanes <= width; c += kBlock * kLanes) sum_block<kBlock>(rows, count, c, start, scale, out);
    for (; c + 4 * kLanes <= width; c += 4 * kLanes) sum_block<4>(rows, count, c, start, scale, out);
    for (; c + kLanes <= width; c += kLanes) sum_block<1>(rows, count, c, start, scale, out);
    for (; c < width; ++c) {
        float sum = start ? start[c] : 0.0f;
        for (int64_t i = 0; i < count; ++i) sum += rows[i][c];
        out[c] = sum * scale;
    }
}

// The sum of a[c] * b[c] for c in [0, width), in four interleaved partial sums.
inline float dot(const float* a, const float* b, int64_t width) {
    Vec sum[4] = {Vec{}, Vec{}, Vec{}, Vec{}};
    int64_t c = 0;
    for (; c + 4 * kLanes <= width; c += 4 * kLanes)
        for (int v = 0; v < 4; ++v) sum[v] += load(a + c + v * kLanes) * load(b + c + v * kLanes);
    for (; c + kLanes <= width; c += kLanes) sum[0] += load(a + c) * load(b + c);
    const Vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    float total = 0.0f;
    for (int i = 0; i < kLanes; ++i) total += all[i];
    for (; c < width; ++c) total += a[c] * b[c];
    return total;
}

}  // namespace thrifty::THRIFTY_ISA
#endif
