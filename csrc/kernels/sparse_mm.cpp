// A sparse matrix in rows times a dense one: y[row] = sum of values[i] * b[columns[i]] over offsets[row] .. offsets[row + 1].
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {

void sparse_mm(const int64_t* offsets, const int32_t* columns, const float* values, int64_t rows, const float* b,
               int64_t channels, float* y) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
        float* out = y + r * channels;
        for (int64_t c = 0; c < channels; ++c) out[c] = 0.0f;
        for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
            const float value = values[i];
            const float* row = b + static_cast<int64_t>(columns[i]) * channels;
            int64_t c = 0;
            for (; c + kLanes <= channels; c += kLanes) store(out + c, load(out + c) + value * load(row + c));
            for (; c < channels; ++c) out[c] += value * row[c];
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
