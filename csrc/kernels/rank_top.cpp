// Exact scores of each row's candidates, and the best k of them.
//
// x[rows, channels] . weight[classes, channels] + bias[classes] (null: none) over ids[rows, limit], of which found[rows] are
// there -> best[rows, k] in falling order (of equals the smaller id first) and scores[rows, k]; -1 and -infinity where
// there are fewer candidates. A NaN score is never among the best. Bound by the random access to the weights.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {

void rank_top(const float* x, int64_t rows, int64_t channels, const float* weight, const float* bias,
              const int32_t* ids, const int64_t* found, int64_t limit, int64_t k, int64_t* best, float* scores) {
    constexpr int64_t kAhead = 8;  // rows of the weight asked for before they are needed
#pragma omp parallel for schedule(dynamic, 1) if (rows > 1)
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + r * channels;
        const int32_t* id = ids + r * limit;
        int64_t* top = best + r * k;
        float* score = scores + r * k;
        for (int64_t i = 0; i < k; ++i) {
            top[i] = -1;
            score[i] = -__builtin_inff();
        }
        for (int64_t i = 0; i < found[r]; ++i) {
            if (i + kAhead < found[r]) {
                const float* next = weight + static_cast<int64_t>(id[i + kAhead]) * channels;
                for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(next + c);
            }
            const int64_t candidate = id[i];
            float s = dot(row, weight + candidate * channels, channels);
            if (bias != nullptr) s += bias[candidate];
            const bool enters = s > score[k - 1] || (s == score[k - 1] && (top[k - 1] < 0 || candidate < top[k - 1]));
            if (!enters) continue;
            int64_t at = k - 1;
            while (at > 0 && (top[at - 1] < 0 || s > score[at - 1] || (s == score[at - 1] && candidate < top[at - 1]))) {
                top[at] = top[at - 1];
                score[at] = score[at - 1];
                --at;
            }
            top[at] = candidate;
            score[at] = s;
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
