// The level of every value between its channel's thresholds, levels of neighbouring channels packed into one byte.
//
// x[rows, channels], thresholds[levels - 1, channels] rising along the first axis -> codes[rows, groups]. The level of x
// is the number of its channel's thresholds below it; channel i of a piece holds bits [i * bits, (i + 1) * bits) of the
// code. NaN is below every threshold, and *bad is set when a value is not finite.
// Cost: rows * channels * (levels - 1) comparisons, kLanes at a time.
#include <omp.h>

#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

typedef int32_t VecI __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(4), may_alias));

constexpr int kRows = 4;  // rows that share one reading of the thresholds

// Levels of N rows for the kLanes channels that begin at c; returns whether a value is not finite.
template <int N>
inline VecI vector_levels(const float* x, int64_t channels, int64_t c, const float* thresholds, int64_t cuts,
                          int32_t* levels) {
    Vec value[N];
    VecI count[N];
    VecI bad = {};
    for (int r = 0; r < N; ++r) {
        value[r] = load(x + r * channels + c);
        count[r] = VecI{};
        bad |= (value[r] - value[r]) != Vec{};
    }
    for (int64_t k = 0; k < cuts; ++k) {
        const Vec cut = load(thresholds + k * channels + c);
        for (int r = 0; r < N; ++r) count[r] -= value[r] > cut;
    }
    for (int r = 0; r < N; ++r) *reinterpret_cast<VecI*>(levels + r * channels + c) = count[r];
    return bad;
}

// Levels of N rows; the few channels beyond the last full vector one by one.
template <int N>
inline bool rows_levels(const float* x, int64_t channels, const float* thresholds, int64_t cuts, int32_t* levels) {
    VecI bad = {};
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) bad |= vector_levels<N>(x, channels, c, thresholds, cuts, levels);
    int32_t any = 0;
    for (; c < channels; ++c) {
        for (int r = 0; r < N; ++r) {
            const float value = x[r * channels + c];
            int32_t count = 0;
            for (int64_t k = 0; k < cuts; ++k) count += value > thresholds[k * channels + c];
            levels[r * channels + c] = count;
            any |= (value - value) != 0.0f;
        }
    }
    for (int i = 0; i < kLanes; ++i) any |= bad[i];
    return any != 0;
}

inline void pack(const int32_t* levels, int64_t channels, int64_t length, int64_t bits, uint8_t* codes) {
    if (length == 1) {
        for (int64_t c = 0; c < channels; ++c) codes[c] = static_cast<uint8_t>(levels[c]);
        return;
    }
    for (int64_t c = 0, g = 0; c < channels; c += length, ++g) {
        int32_t code = 0;
        for (int64_t i = 0; i < length && c + i < channels; ++i) code |= levels[c + i] << (i * bits);
        codes[g] = static_cast<uint8_t>(code);
    }
}

}  // namespace

void level_codes(const float* x, int64_t rows, int64_t channels, const float* thresholds, int64_t length, int64_t bits,
                 uint8_t* codes, int32_t* bad) {
    const int64_t groups = (channels + length - 1) / length, cuts = (int64_t{1} << bits) - 1;
    // So many rows laid end to end fill whole vectors, whatever the number of channels.
    const int64_t joined = channels % kLanes == 0 ? 1 : kLanes, wide = joined * channels;
    Scratch<float> cuts_of(cuts * wide);
    float* repeated = cuts_of;
    for (int64_t k = 0; k < cuts; ++k)
        for (int64_t i = 0; i < wide; ++i) repeated[k * wide + i] = thresholds[k * channels + i % channels];
    const int64_t unit = kRows * joined, blocks = (rows + unit - 1) / unit;
    Scratch<int32_t> levels_of(omp_get_max_threads() * unit * channels);
    int32_t* all_levels = levels_of;
    int32_t any = 0;
#pragma omp parallel reduction(| : any)
    {
        int32_t* levels = all_levels + omp_get_thread_num() * unit * channels;
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t first = block * unit;
            const int64_t count = rows - first < unit ? rows - first : unit;
            const float* from = x + first * channels;
            if (count == unit) {
                any |= rows_levels<kRows>(from, wide, repeated, cuts, levels);
            } else {
                for (int64_t r = 0; r < count; ++r)
                    any |= rows_levels<1>(from + r * channels, channels, thresholds, cuts, levels + r * channels);
            }
            for (int64_t r = 0; r < count; ++r)
                pack(levels + r * channels, channels, length, bits, codes + (first + r) * groups);
        }
    }
    *bad = any;
}

}  // namespace thrifty::THRIFTY_ISA
