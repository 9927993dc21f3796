// The signs of projections, packed into one code per table: SimHash after its matrix product.
//
// projections[rows, tables * bits], thresholds[tables * bits] -> codes[rows, tables]; bit b of a code is set iff the
// projection is above its threshold, so NaN gives no bit. Memory-bound: one pass.
#include "thrifty/kernels.h"

namespace thrifty::THRIFTY_ISA {

void pack_signs(const float* projections, int64_t rows, int64_t tables, int64_t bits, const float* thresholds,
                int32_t* codes) {
#pragma omp parallel for schedule(static) if (rows * tables * bits > 1 << 15)
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t t = 0; t < tables; ++t) {
            const float* values = projections + (r * tables + t) * bits;
            const float* limits = thresholds + t * bits;
            int32_t code = 0;
            for (int64_t b = 0; b < bits; ++b) code |= static_cast<int32_t>(values[b] > limits[b]) << b;
            codes[r * tables + t] = code;
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
