// The nearest codebook entry of every piece: a matrix product with the running maximum kept in registers.
//
// x[rows, channels], codebook[groups, entries, length] -> codes[groups, rows], the entry with the largest
// x . c - |c|^2 / 2; the first of equals. Compute-bound: rows * channels * entries multiply-adds, no scores are stored.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

typedef int32_t VecI __attribute__((vector_size(kLanes * sizeof(int32_t))));

#if defined(__AVX512F__)
constexpr int kRows = 6, kVecs = 4;
#elif defined(__AVX__)
constexpr int kRows = 6, kVecs = 2;
#else
constexpr int kRows = 3, kVecs = 2;
#endif
constexpr int kTile = kVecs * kLanes;  // entries scored together

// Scores N rows against every tile and keeps the best: tiles[tiles][length][kTile], halves[tiles][kTile] = -|c|^2 / 2.
template <int N>
inline void search(const float* x, int64_t stride, int64_t width, const float* tiles, const float* halves,
                   int64_t tile_count, int64_t length, int32_t* codes) {
    Vec best[N];
    VecI best_at[N], lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    for (int r = 0; r < N; ++r) {
        best[r] = Vec{} - __builtin_inff();
        best_at[r] = VecI{};
    }
    for (int64_t tile = 0; tile < tile_count; ++tile) {
        const float* entries = tiles + tile * length * kTile;
        Vec score[N][kVecs];
        for (int r = 0; r < N; ++r)
            for (int v = 0; v < kVecs; ++v) score[r][v] = load(halves + tile * kTile + v * kLanes);
        for (int64_t l = 0; l < width; ++l) {
            Vec entry[kVecs];
            for (int v = 0; v < kVecs; ++v) entry[v] = load(entries + l * kTile + v * kLanes);
            for (int r = 0; r < N; ++r)
                for (int v = 0; v < kVecs; ++v) score[r][v] += x[r * stride + l] * entry[v];
        }
        for (int v = 0; v < kVecs; ++v) {
            const VecI at = lane + static_cast<int32_t>(tile * kTile + v * kLanes);
            for (int r = 0; r < N; ++r) {
                const VecI better = score[r][v] > best[r];
                best[r] = better ? score[r][v] : best[r];
                best_at[r] = better ? at : best_at[r];
            }
        }
    }
    for (int r = 0; r < N; ++r) {
        int32_t at = best_at[r][0];
        float most = best[r][0];
        for (int i = 1; i < kLanes; ++i) {
            const bool better = best[r][i] > most || (best[r][i] == most && best_at[r][i] < at);
            most = better ? best[r][i] : most;
            at = better ? best_at[r][i] : at;
        }
        codes[r] = at;
    }
}

// Lays one group's entries out in tiles; entries beyond the last score minus infinity.
void lay_out(const float* codebook, int64_t entries, int64_t length, int64_t tile_count, float* tiles, float* halves) {
    for (int64_t e = 0; e < tile_count * kTile; ++e) {
        const bool real = e < entries;
        float square = 0.0f;
        for (int64_t l = 0; l < length; ++l) {
            const float value = real ? codebook[e * length + l] : 0.0f;
            tiles[(e / kTile * length + l) * kTile + e % kTile] = value;
            square += value * value;
        }
        halves[e] = real ? -0.5f * square : -__builtin_inff();
    }
}

}  // namespace

void nearest_centroid(const float* x, int64_t rows, int64_t channels, const float* codebook, int64_t groups,
                      int64_t entries, int64_t length, int32_t* codes) {
    const int64_t tile_count = (entries + kTile - 1) / kTile;
    Scratch<float> tiles_of(groups * tile_count * kTile * length);
    Scratch<float> halves_of(groups * tile_count * kTile);
    float* tiles = tiles_of;
    float* halves = halves_of;

#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups; ++g)
            lay_out(codebook + g * entries * length, entries, length, tile_count, tiles + g * tile_count * kTile * length,
                    halves + g * tile_count * kTile);
        // Groups outside, so that one group's tiles stay in the cache while its rows pass by.
        constexpr int64_t kBlock = 16 * kRows;
        const int64_t blocks = (rows + kBlock - 1) / kBlock;
#pragma omp for schedule(static)
        for (int64_t item = 0; item < groups * blocks; ++item) {
            const int64_t g = item / blocks, first = item % blocks * kBlock;
            const int64_t last = first + kBlock < rows ? first + kBlock : rows;
            const int64_t width = channels - g * length < length ? channels - g * length : length;
            const float* piece = x + g * length;
            const float* t = tiles + g * tile_count * kTile * length;
            const float* h = halves + g * tile_count * kTile;
            int64_t r = first;
            for (; r + kRows <= last; r += kRows)
                search<kRows>(piece + r * channels, channels, width, t, h, tile_count, length, codes + g * rows + r);
            for (; r < last; ++r)
                search<1>(piece + r * channels, channels, width, t, h, tile_count, length, codes + g * rows + r);
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
