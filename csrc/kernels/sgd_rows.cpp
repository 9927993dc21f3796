// One step of SGD with momentum, weight decay and nesterov on the rows that have a gradient, in one pass over them.
//
// gradient[count, channels] belongs to rows[count] (each once) of p, buffer[classes, channels]; last[classes] becomes `now`.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {

void sgd_rows(const int64_t* rows, const float* gradient, int64_t count, int64_t channels, int64_t now, double rate,
              double momentum, double decay, bool nesterov, float* p, float* buffer, int32_t* last) {
    const float lr = static_cast<float>(rate), mu = static_cast<float>(momentum), wd = static_cast<float>(decay);
#pragma omp parallel for schedule(static) if (count * channels > 1 << 14)
    for (int64_t i = 0; i < count; ++i) {
        const int64_t row = rows[i];
        const float* given = gradient + i * channels;
        float *__restrict pr = p + row * channels, *__restrict br = buffer + row * channels;
        for (int64_t e = 0; e < channels; ++e) {
            const float g = given[e] + wd * pr[e];
            const float moving = mu * br[e] + g;
            br[e] = moving;
            pr[e] -= lr * (nesterov ? g + mu * moving : moving);
        }
        last[row] = static_cast<int32_t>(now);
    }
}

}  // namespace thrifty::THRIFTY_ISA
