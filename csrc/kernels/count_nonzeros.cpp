// How many values of every `step`-th row of x[rows, width] are not zero. NaN counts as a nonzero.
#include "thrifty/kernels.h"

namespace thrifty::THRIFTY_ISA {

void count_nonzeros(const float* x, int64_t rows, int64_t width, int64_t step, int64_t* count) {
    int64_t total = 0;
    if (step > rows) step = rows > 0 ? rows : 1;  // a step beyond the last row could overflow
#pragma omp parallel for schedule(static) reduction(+ : total)
    for (int64_t row = 0; row < rows; row += step) {
        const float* at = x + row * width;
        int32_t found = 0;
        for (int64_t c = 0; c < width; ++c) found += at[c] != 0.0f;
        total += found;
    }
    *count = total;
}

}  // namespace thrifty::THRIFTY_ISA
