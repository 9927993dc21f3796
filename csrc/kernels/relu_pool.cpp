// A max pool and a ReLU in one: the maximum of the ReLUs is the ReLU of the maximum.
//
// y[images, h, w, channels] -> out[images, pool.out_h, pool.out_w, channels], and index: where in its window the first
// maximum lies, r * kernel_w + s. NaN wins over every number, as in torch. Padding is never a maximum.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int64_t kChannels = 64;  // worked on at a time

void window(const float* y, const Pool& p, int64_t top, int64_t left, int64_t height, int64_t width, int64_t channels,
            int64_t count, float* out, uint8_t* index) {
    float best[kChannels];
    int32_t at[kChannels];
    bool begun = false;
    for (int64_t r = 0; r < p.kernel_h; ++r) {
        if (top + r < 0 || top + r >= height) continue;
        for (int64_t s = 0; s < p.kernel_w; ++s) {
            if (left + s < 0 || left + s >= width) continue;
            const float* from = y + ((top + r) * width + left + s) * channels;
            const int32_t here = static_cast<int32_t>(r * p.kernel_w + s);
            if (!begun) {
                for (int64_t c = 0; c < count; ++c) best[c] = from[c], at[c] = here;
                begun = true;
                continue;
            }
            for (int64_t c = 0; c < count; ++c) {
                const bool better = from[c] > best[c] || from[c] != from[c];
                best[c] = better ? from[c] : best[c];
                at[c] = better ? here : at[c];
            }
        }
    }
    for (int64_t c = 0; c < count; ++c) {
        out[c] = best[c] < 0.0f ? 0.0f : best[c];
        index[c] = static_cast<uint8_t>(at[c]);
    }
}

}  // namespace

void relu_pool(const float* y, int64_t images, int64_t height, int64_t width, int64_t channels, const Pool* pool,
               float* out, uint8_t* index) {
    const Pool p = *pool;
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

}  // namespace thrifty::THRIFTY_ISA
