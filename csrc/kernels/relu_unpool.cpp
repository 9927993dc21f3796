// The dense gradient of a convolution's output, from what comes back through the ReLU and max pool behind it.
//
// source: with output, and with index where there is a pool -> y[images, h, w, channels], float32 or (half) bfloat16 as
// its bits, rounded to nearest even.
#include "thrifty/nonzeros.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

inline void narrow(const float* from, int64_t count, uint16_t* to) {
    for (int64_t i = 0; i < count; ++i) {
        uint32_t bits;
        __builtin_memcpy(&bits, from + i, sizeof bits);
        const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        to[i] = static_cast<uint16_t>(from[i] != from[i] ? 0x7fc0u : rounded);
    }
}

}  // namespace

void relu_unpool(const Source* source, bool half, int64_t images, int64_t height, int64_t width, int64_t channels,
                 void* y) {
    const Source from = *source;
    const int64_t line = width * channels;
    Scratch<float> scratch(line * omp_get_max_threads());
    float* const lines = scratch;
#pragma omp parallel for schedule(static)
    for (int64_t l = 0; l < images * height; ++l) {
        float* const wide = half ? lines + omp_get_thread_num() * line : static_cast<float*>(y) + l * line;
        if (from.index) {
            unpool_line(from, l / height, l % height, width, channels, wide);
        } else {
            const float *value = from.values + l * line, *output = from.output + l * line;
            for (int64_t i = 0; i < line; ++i) wide[i] = output[i] <= 0.0f ? 0.0f : value[i];
        }
        if (half) narrow(wide, line, static_cast<uint16_t*>(y) + l * line);
    }
}

}  // namespace thrifty::THRIFTY_ISA
