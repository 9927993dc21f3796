// Sum and sum of squares of every channel: x[rows, channels] -> sum[channels], sumsq[channels], in double.
//
// One pass over x, so memory-bound: 4 bytes read per value. Rows are cut into blocks of fixed size whose partial sums
// are combined in order, so the result does not depend on the number of threads.
#include "thrifty/kernels.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int64_t kBlockRows = 1024;

// Adds rows [0, rows) of x to sum and sumsq; four rows at a time, so that the accumulators are loaded and stored once
// per four rows.
void add_rows(const float* __restrict x, int64_t rows, int64_t channels, double* __restrict sum,
              double* __restrict sumsq) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const float* __restrict x0 = x + r * channels;
        const float* __restrict x1 = x0 + channels;
        const float* __restrict x2 = x1 + channels;
        const float* __restrict x3 = x2 + channels;
        for (int64_t c = 0; c < channels; ++c) {
            const double a = x0[c], b = x1[c], d = x2[c], e = x3[c];
            sum[c] += (a + b) + (d + e);
            sumsq[c] += (a * a + b * b) + (d * d + e * e);
        }
    }
    for (; r < rows; ++r) {
        for (int64_t c = 0; c < channels; ++c) {
            const double a = x[r * channels + c];
            sum[c] += a;
            sumsq[c] += a * a;
        }
    }
}

}  // namespace

void channel_moments(const float* x, int64_t rows, int64_t channels, double* sum, double* sumsq) {
    const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
    Scratch<double> partial(blocks * 2 * channels);  // [block][sum, sumsq][channel]

#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
        double* block_sum = partial + block * 2 * channels;
        for (int64_t i = 0; i < 2 * channels; ++i) block_sum[i] = 0.0;
        const int64_t first = block * kBlockRows;
        const int64_t count = rows - first < kBlockRows ? rows - first : kBlockRows;
        add_rows(x + first * channels, count, channels, block_sum, block_sum + channels);
    }

    for (int64_t c = 0; c < channels; ++c) sum[c] = sumsq[c] = 0.0;
    for (int64_t block = 0; block < blocks; ++block) {
        const double* block_sum = partial + block * 2 * channels;
        for (int64_t c = 0; c < channels; ++c) {
            sum[c] += block_sum[c];
            sumsq[c] += block_sum[channels + c];
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
