// The mean of the members of every cluster.
//
// x[pixels, channels] cut into pieces of `length` channels, order[groups, pixels], starts[clusters + 1] and
// offsets[groups + 1] -> centroids[clusters, length], zeros beyond the last channel. Members are added in order, so the
// result does not depend on the number of threads. Memory-bound: every value of x is read once.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int64_t kChunk = 512;  // rows added up at a time, then added to the total: short sums lose less

void mean_of(const float* piece, int64_t channels, const int32_t* members, int64_t count, int64_t width, float* out) {
    const float* rows[kChunk];
    for (int64_t done = 0; done < count; done += kChunk) {
        const int64_t now = count - done < kChunk ? count - done : kChunk;
        for (int64_t i = 0; i < now; ++i) rows[i] = piece + static_cast<int64_t>(members[done + i]) * channels;
        const bool last = done + now == count;
        sum_rows(rows, now, width, done ? out : nullptr, last ? 1.0f / static_cast<float>(count) : 1.0f, out);
    }
}

}  // namespace

void cluster_mean(const float* x, int64_t channels, const int32_t* order, const int64_t* starts,
                  const int64_t* offsets, int64_t groups, int64_t length, float* centroids) {
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t width = channels - g * length < length ? channels - g * length : length;
        const float* piece = x + g * length;
#pragma omp parallel for schedule(dynamic, 16)
        for (int64_t k = offsets[g]; k < offsets[g + 1]; ++k) {
            float* out = centroids + k * length;
            mean_of(piece, channels, order + starts[k], starts[k + 1] - starts[k], width, out);
            for (int64_t c = width; c < length; ++c) out[c] = 0.0f;
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
