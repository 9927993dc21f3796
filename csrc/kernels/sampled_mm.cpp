// Single entries of a matrix product: y[i] = x[row] . weight[columns[i]] for the entries offsets[row] .. offsets[row + 1].
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {

void sampled_mm(const float* x, int64_t rows, int64_t channels, const float* weight, const int64_t* offsets,
                const int32_t* columns, float* y) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i)
            y[i] = dot(x + r * channels, weight + static_cast<int64_t>(columns[i]) * channels, channels);
}

}  // namespace thrifty::THRIFTY_ISA
