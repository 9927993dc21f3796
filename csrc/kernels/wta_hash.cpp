// Densified winner-take-all hashing: which of a bin's features is largest, for `bins` bins a table.
//
// x[rows, channels], index[tables * bins, size] -> codes[rows, tables]. A feature that is zero is absent. The winners of a
// table's bins are the digits, to the base `size`, of its code, so no code is out of reach whatever the size. An empty
// bin borrows the winner of another one, picked by hashing (bin, attempt): the same one for all rows.
#include "thrifty/kernels.h"
#include "thrifty/mix.h"

namespace thrifty::THRIFTY_ISA {
namespace {

// The position of the largest present feature, the first of equals; -1 for an empty bin.
inline int32_t winner(const float* x, const int32_t* index, int64_t size) {
    int32_t at = -1;
    float best = 0.0f;
    for (int64_t i = 0; i < size; ++i) {
        const float value = x[index[i]];
        if (value != 0.0f && value == value && (at < 0 || value > best)) {
            best = value;
            at = static_cast<int32_t>(i);
        }
    }
    return at;
}

}  // namespace

void wta_hash(const float* x, int64_t rows, int64_t channels, const int32_t* index, int64_t tables, int64_t bins,
              int64_t size, int64_t attempts, int32_t* codes) {
    const int64_t all = tables * bins;
    Scratch<int32_t> winners_of(rows * all);
    int32_t* winners = winners_of;
#pragma omp parallel for schedule(static) if (rows * all * size > 1 << 15)
    for (int64_t r = 0; r < rows; ++r) {
        int32_t* won = winners + r * all;
        for (int64_t b = 0; b < all; ++b) won[b] = winner(x + r * channels, index + b * size, size);
        for (int64_t t = 0; t < tables; ++t) {
            int64_t code = 0;
            for (int64_t k = 0; k < bins; ++k) {
                const int64_t b = t * bins + k;
                int32_t digit = won[b];
                for (int64_t attempt = 0; digit < 0 && attempt < attempts; ++attempt)
                    digit = won[draw_below(mix(static_cast<uint64_t>(b * attempts + attempt)), all)];
                code = code * size + (digit < 0 ? 0 : digit);
            }
            codes[r * tables + t] = static_cast<int32_t>(code);
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
