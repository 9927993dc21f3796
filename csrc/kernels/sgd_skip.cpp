// Brings rows up to date with SGD: what momentum and weight decay would have done while their gradient was zero.
//
// rows[count] of p and buffer[classes, channels]; last[classes] is the step that a row has seen, `now` the one it should
// see; rate[j] is the learning rate of step j. A skipped step is linear in (p, buffer):
//     buffer = momentum * buffer + decay * p;   p -= lr_j * (nesterov ? decay * p + momentum * buffer : buffer)
// so the steps of a row multiply to one 2x2 matrix, which rows that were last seen together share.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

struct Matrix {  // (p, buffer) -> (pp p + pb buffer, bp p + bb buffer)
    double pp = 1, pb = 0, bp = 0, bb = 1;
};

Matrix skipped_steps(const double* rate, int64_t since, int64_t now, double momentum, double decay, bool nesterov) {
    Matrix all;
    for (int64_t j = since + 1; j <= now; ++j) {
        const double bp = momentum * all.bp + decay * all.pp, bb = momentum * all.bb + decay * all.pb;
        const double dp = nesterov ? decay * all.pp + momentum * bp : bp;
        const double db = nesterov ? decay * all.pb + momentum * bb : bb;
        all = {all.pp - rate[j] * dp, all.pb - rate[j] * db, bp, bb};
        // What is left of the buffer no longer moves anything, and no decay makes it anew.
        if (decay == 0.0 && all.bb < 1e-15) return {all.pp, all.pb, 0.0, 0.0};
    }
    return all;
}

}  // namespace

void sgd_skip(const int64_t* rows, int64_t count, int64_t channels, int64_t now, const double* rate, double momentum,
              double decay, bool nesterov, float* p, float* buffer, int32_t* last) {
#pragma omp parallel if (count > 128)
    {
        int64_t shared = -1;
        Matrix matrix;
#pragma omp for schedule(dynamic, 64)
        for (int64_t i = 0; i < count; ++i) {
            const int64_t row = rows[i], since = last[row];
            if (since >= now) continue;
            if (since != shared) matrix = skipped_steps(rate, shared = since, now, momentum, decay, nesterov);
            last[row] = static_cast<int32_t>(now);
            const float pp = static_cast<float>(matrix.pp), pb = static_cast<float>(matrix.pb);
            const float bp = static_cast<float>(matrix.bp), bb = static_cast<float>(matrix.bb);
            float *__restrict pr = p + row * channels, *__restrict br = buffer + row * channels;
            for (int64_t e = 0; e < channels; ++e) {
                const float value = pr[e], moving = br[e];
                pr[e] = pp * value + pb * moving;
                br[e] = bp * value + bb * moving;
            }
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
