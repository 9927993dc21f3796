// One step of Adam or AdamW on the rows that have a gradient, in one pass over them.
//
// gradient[count, channels] belongs to rows[count] (each once) of p, m, v[classes, channels]; last[classes] becomes `now`.
//     p = p * keep;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  p -= rate m / (root sqrt(v) + eps)
// with rate = lr / (1 - beta1^now), root = 1 / sqrt(1 - beta2^now). Bound by memory: four rows read, three written.
#include <cmath>

#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {

void adam_rows(const int64_t* rows, const float* gradient, int64_t count, int64_t channels, int64_t now, double keep,
               double rate, double root, double beta1, double beta2, double eps, float* p, float* m, float* v,
               int32_t* last) {
    const float kept = static_cast<float>(keep), step = static_cast<float>(rate), scale = static_cast<float>(root);
    const float b1 = static_cast<float>(beta1), b2 = static_cast<float>(beta2), small = static_cast<float>(eps);
    const float n1 = static_cast<float>(1.0 - beta1), n2 = static_cast<float>(1.0 - beta2);
#pragma omp parallel for schedule(static) if (count * channels > 1 << 14)
    for (int64_t i = 0; i < count; ++i) {
        const int64_t row = rows[i];
        const float* g = gradient + i * channels;
        float *__restrict pr = p + row * channels, *__restrict mr = m + row * channels, *__restrict vr = v + row * channels;
        for (int64_t e = 0; e < channels; ++e) {
            const float first = b1 * mr[e] + n1 * g[e], second = b2 * vr[e] + n2 * g[e] * g[e];
            mr[e] = first;
            vr[e] = second;
            pr[e] = pr[e] * kept - step * first / (scale * std::sqrt(second) + small);
        }
        last[row] = static_cast<int32_t>(now);
    }
}

}  // namespace thrifty::THRIFTY_ISA
