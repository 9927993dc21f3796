// A max pool and a ReLU in one: the maximum of the ReLUs is the ReLU of the maximum.
//
// y[images, h, w, channels], float32 or (half) bfloat16 as its bits -> out[images, pool.out_h, pool.out_w, channels] of the
// same type, and index: where in its window the first
// maximum lies, r * kernel_w + s. NaN wins over every number, as in torch. Padding is never a maximum.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int64_t kChannels = 64;  // worked on at a time

inline float widen(float value) { return value; }
inline float widen(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return value;
}

template <typename T>
void window(const T* y, const Pool& p, int64_t top, int64_t left, int64_t height, int64_t width, int64_t channels,
            int64_t count, T* out, uint8_t* index) {
    T best[kChannels];
    int32_t at[kChannels];
    bool begun = false;
    for (int64_t r = 0; r < p.kernel_h; ++r) {
        if (top + r < 0 || top + r >= height) continue;
        for (int64_t s = 0; s < p.kernel_w; ++s) {
            if (left + s < 0 || left + s >= width) continue;
            const T* from = y + ((top + r) * width + left + s) * channels;
            const int32_t here = static_cast<int32_t>(r * p.kernel_w + s);
            if (!begun) {
                for (int64_t c = 0; c < count; ++c) best[c] = from[c], at[c] = here;
                begun = true;
                continue;
            }
            for (int64_t c = 0; c < count; ++c) {
                const float value = widen(from[c]);
                const bool better = value > widen(best[c]) || value != value;
                best[c] = better ? from[c] : best[c];
                at[c] = better ? here : at[c];
            }
        }
    }
    for (int64_t c = 0; c < count; ++c) {
        out[c] = widen(best[c]) < 0.0f ? T{} : best[c];
        index[c] = static_cast<uint8_t>(at[c]);
    }
}

template <typename T>
void pool_all(const T* y, int64_t images, int64_t height, int64_t width, int64_t channels, const Pool& p, T* out,
              uint8_t* index) {
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < images * p.out_h; ++line) {
        const int64_t image = line / p.out_h, top = line % p.out_h * p.stride_h - p.pad_h;
        for (int64_t w = 0; w < p.out_w; ++w) {
            const int64_t to = (line * p.out_w + w) * channels;
            for (int64_t c = 0; c < channels; c += kChannels)
                window(y + image * height * width * channels + c, p, top, w * p.stride_w - p.pad_w, height, width,
                       channels, least(kChannels, channels - c), out + to + c, index + to + c);
        }
    }
}

}  // namespace

void relu_pool(const void* y, bool half, int64_t images, int64_t height, int64_t width, int64_t channels,
               const Pool* pool, void* out, uint8_t* index) {
    if (half)
        pool_all(static_cast<const uint16_t*>(y), images, height, width, channels, *pool, static_cast<uint16_t*>(out),
                 index);
    else
        pool_all(static_cast<const float*>(y), images, height, width, channels, *pool, static_cast<float*>(out), index);
}

}  // namespace thrifty::THRIFTY_ISA
