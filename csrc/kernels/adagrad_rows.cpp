// One step of Adagrad on the rows that have a gradient: an accumulator an entry, or (`rowwise`) one a row.
//
// gradient[count, channels] belongs to rows[count] (each once) of p[classes, channels]; sum is [classes, channels], or
// [classes, 1] holding the mean square of the row's gradients. p -= rate * g / (sqrt(sum + g^2) + eps).
#include <cmath>

#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {

void adagrad_rows(const int64_t* rows, const float* gradient, int64_t count, int64_t channels, double rate, double eps,
                  bool rowwise, float* p, float* sum) {
    const float lr = static_cast<float>(rate), small = static_cast<float>(eps);
#pragma omp parallel for schedule(static) if (count * channels > 1 << 14)
    for (int64_t i = 0; i < count; ++i) {
        const int64_t row = rows[i];
        const float* g = gradient + i * channels;
        float* __restrict pr = p + row * channels;
        if (rowwise) {
            sum[row] += dot(g, g, channels) / static_cast<float>(channels);
            const float scale = lr / (std::sqrt(sum[row]) + small);
            for (int64_t e = 0; e < channels; ++e) pr[e] -= scale * g[e];
        } else {
            float* __restrict sr = sum + row * channels;
            for (int64_t e = 0; e < channels; ++e) {
                sr[e] += g[e] * g[e];
                pr[e] -= lr * g[e] / (std::sqrt(sr[e]) + small);
            }
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
