// Every member receives its share of what its cluster holds: the adjoint of cluster_mean.
//
// c[clusters, length], ids[groups, pixels], starts[clusters + 1] -> x[pixels, channels],
// x[p, piece g] = c[ids[g, p]] / members. Memory-bound: every value of x is written once.
#include "thrifty/kernels.h"

namespace thrifty::THRIFTY_ISA {

void cluster_spread(const float* c, const int32_t* ids, const int64_t* starts, int64_t clusters, int64_t groups,
                    int64_t pixels, int64_t channels, int64_t length, float* x) {
    Scratch<float> share(clusters);
    for (int64_t k = 0; k < clusters; ++k) share[k] = 1.0f / static_cast<float>(starts[k + 1] - starts[k]);
    const float* share_of = share;

#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t first = g * length;
            const int64_t width = channels - first < length ? channels - first : length;
            const int64_t k = ids[g * pixels + p];
            const float* __restrict from = c + k * length;
            float* __restrict to = x + p * channels + first;
            const float scale = share_of[k];
            for (int64_t l = 0; l < width; ++l) to[l] = from[l] * scale;
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
