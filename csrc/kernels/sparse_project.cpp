// Projections on sparse sign vectors: additions and subtractions of a few coordinates, no products.
//
// x[rows, channels], index[planes, entries], signs[planes, entries] (+1 or -1) -> y[rows, planes].
#include "thrifty/kernels.h"

namespace thrifty::THRIFTY_ISA {

void sparse_project(const float* x, int64_t rows, int64_t channels, const int32_t* index, const float* signs,
                    int64_t planes, int64_t entries, float* y) {
#pragma omp parallel for schedule(static) if (rows * planes * entries > 1 << 15)
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + r * channels;
        for (int64_t p = 0; p < planes; ++p) {
            float sum = 0.0f;
            for (int64_t e = 0; e < entries; ++e) sum += signs[p * entries + e] * row[index[p * entries + e]];
            y[r * planes + p] = sum;
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
