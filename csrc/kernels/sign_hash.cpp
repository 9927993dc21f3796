// The sign of every piece's projection on every hyperplane, packed into one code.
//
// x[rows, channels], planes[groups, length, bits], thresholds[groups, bits] -> codes[groups, rows]; bit b is set iff
// x_piece . plane_b > threshold_b. Compute-bound: rows * channels * 16-lane multiply-adds per 16 bits, several rows at a
// time so that the additions of one row do not wait for each other.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int kBits = 16;  // hyperplanes handled together
constexpr int kVecs = kBits / kLanes;
#if defined(__AVX512F__)
constexpr int kRows = 8;
#elif defined(__AVX__)
constexpr int kRows = 4;
#else
constexpr int kRows = 2;
#endif

// Codes of N rows against 16 hyperplanes; planes[length][16], thresholds[16].
template <int N>
inline void hash_rows(const float* x, int64_t stride, int64_t length, const float* planes, const float* thresholds,
                      int32_t* codes, int shift) {
    Vec sum[N][kVecs];
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < kVecs; ++v) sum[r][v] = Vec{};
    for (int64_t l = 0; l < length; ++l) {
        for (int v = 0; v < kVecs; ++v) {
            const Vec plane = load(planes + l * kBits + v * kLanes);
            for (int r = 0; r < N; ++r) sum[r][v] += x[r * stride + l] * plane;
        }
    }
    for (int r = 0; r < N; ++r) {
        float projections[kBits];
        for (int v = 0; v < kVecs; ++v) store(projections + v * kLanes, sum[r][v]);
        int32_t code = 0;
        for (int b = 0; b < kBits; ++b) code |= static_cast<int32_t>(projections[b] > thresholds[b]) << b;
        codes[r] |= code << shift;
    }
}

}  // namespace

void sign_hash(const float* x, int64_t rows, int64_t channels, const float* planes, const float* thresholds,
               int64_t groups, int64_t length, int64_t bits, int32_t* codes) {
    const int64_t blocks = (bits + kBits - 1) / kBits;
    Scratch<float> packed(groups * blocks * length * kBits);  // [group][block][length][16], zeros beyond `bits`
    Scratch<float> limits(groups * blocks * kBits);           // infinity beyond `bits`: never exceeded
    for (int64_t g = 0; g < groups; ++g) {
        for (int64_t b = 0; b < blocks * kBits; ++b) {
            const bool real = b < bits;
            const int64_t at = g * blocks + b / kBits, lane = b % kBits;
            limits[at * kBits + lane] = real ? thresholds[g * bits + b] : __builtin_inff();
            for (int64_t l = 0; l < length; ++l)
                packed[(at * length + l) * kBits + lane] = real ? planes[(g * length + l) * bits + b] : 0.0f;
        }
    }
    const float* planes_at = packed;
    const float* limits_at = limits;

#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < rows; first += kRows) {
        const int64_t count = rows - first < kRows ? rows - first : kRows;
        for (int64_t g = 0; g < groups; ++g) {
            int32_t* out = codes + g * rows + first;
            for (int64_t r = 0; r < count; ++r) out[r] = 0;
            const int64_t width = channels - g * length < length ? channels - g * length : length;
            const float* piece = x + first * channels + g * length;
            for (int64_t block = 0; block < blocks; ++block) {
                const float* p = planes_at + (g * blocks + block) * length * kBits;
                const float* t = limits_at + (g * blocks + block) * kBits;
                const int shift = static_cast<int>(block) * kBits;
                if (count == kRows) {
                    hash_rows<kRows>(piece, channels, width, p, t, out, shift);
                } else {
                    for (int64_t r = 0; r < count; ++r)
                        hash_rows<1>(piece + r * channels, channels, width, p, t, out + r, shift);
                }
            }
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
