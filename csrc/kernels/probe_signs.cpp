// The buckets to look into for a query: its own code in every table, and its neighbours across the nearest planes.
//
// projections[rows, tables * bits], thresholds[tables * bits] -> codes[rows, tables, probes]. flips[probes, width] says
// which bits a probe flips, by rank of margin: 0 is the plane nearest to the row, -1 fills up. Ranks are below `ranks`.
#include "thrifty/kernels.h"

namespace thrifty::THRIFTY_ISA {

void probe_signs(const float* projections, int64_t rows, int64_t tables, int64_t bits, const float* thresholds,
                 const int32_t* flips, int64_t probes, int64_t width, int64_t ranks, int32_t* codes) {
    constexpr int64_t kMostRanks = 32;
#pragma omp parallel for schedule(static) if (rows > 4)
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t t = 0; t < tables; ++t) {
            const float* values = projections + (r * tables + t) * bits;
            const float* limits = thresholds + t * bits;
            float margins[kMostRanks];
            int32_t nearest[kMostRanks], code = 0;
            int64_t known = 0;
            for (int64_t b = 0; b < bits; ++b) {
                code |= static_cast<int32_t>(values[b] > limits[b]) << b;
                const float margin = __builtin_fabsf(values[b] - limits[b]);
                int64_t at = known;
                while (at > 0 && margin < margins[at - 1]) --at;  // of equals, the lower bit first
                if (at >= ranks) continue;
                known = known < ranks ? known + 1 : ranks;
                for (int64_t i = known - 1; i > at; --i) {
                    margins[i] = margins[i - 1];
                    nearest[i] = nearest[i - 1];
                }
                margins[at] = margin;
                nearest[at] = static_cast<int32_t>(b);
            }
            for (int64_t p = 0; p < probes; ++p) {
                int32_t probe = code;
                for (int64_t w = 0; w < width && flips[p * width + w] >= 0; ++w)
                    probe ^= 1 << nearest[flips[p * width + w]];
                codes[(r * tables + t) * probes + p] = probe;
            }
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
