// The nonzeros of an activation or gradient, pixel by pixel: what the skipping kernels read instead of the dense array.
#pragma once

#include <omp.h>

#include <cstdint>

#include "thrifty/kernels.h"
#include "thrifty/source.h"

#ifdef THRIFTY_ISA
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace thrifty::THRIFTY_ISA {

// Channels are cut into slices. Those of pixel `w` of line `l` in slice `s` are starts[(s * lines + l) * (width + 1) + w]
// up to the next start; index counts within the line and slice: w * channels + c. Lines lie apart, as if nothing were
// zero, so that one pass over the source writes them all; memory that is never touched costs nothing.
struct Nonzeros {
    const int64_t* starts;
    const int32_t* index;
    const float* value;
    int64_t lines, width, slices, channels;  // channels of a slice
    int64_t count;

    const int64_t* line(int64_t slice, int64_t l) const { return starts + (slice * lines + l) * (width + 1); }
};

namespace {

// Writes exactly the nonzeros of one pixel whose `output`, if there is one, is not stopped by a ReLU; returns their
// number.
inline int64_t pack_pixel(const float* x, const float* output, int64_t channels, int64_t first, int32_t* index,
                          float* value) {
    int64_t c = 0, out = 0;
#ifdef __AVX512F__
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; c + 16 <= channels; c += 16) {
        const __m512 v = _mm512_loadu_ps(x + c);
        __mmask16 some = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        if (output) some &= _mm512_cmp_ps_mask(_mm512_loadu_ps(output + c), _mm512_setzero_ps(), _CMP_NLE_UQ);
        if (some == 0) continue;
        const __m512i at = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int32_t>(first + c)));
        // Compressed in registers, as compressing to memory is slow on some processors. What is written too much lies
        // within the pixel's room: out <= c.
        _mm512_storeu_ps(value + out, _mm512_maskz_compress_ps(some, v));
        _mm512_storeu_si512(index + out, _mm512_maskz_compress_epi32(some, at));
        out += __builtin_popcount(some);
    }
#endif
    for (; c < channels; ++c) {
        if (x[c] == 0.0f || (output && output[c] <= 0.0f)) continue;  // NaN is kept
        value[out] = x[c];
        index[out++] = static_cast<int32_t>(first + c);
    }
    return out;
}

// What comes back to one line through a ReLU and a max pool: line[width, channels], from the windows that look at it.
inline void unpool_line(const Source& source, int64_t image, int64_t h, int64_t width, int64_t channels, float* line) {
    const Pool& pool = source.pool;
    for (int64_t i = 0; i < width * channels; ++i) line[i] = 0.0f;
    for (int64_t r = 0; r < pool.kernel_h; ++r) {
        const int64_t top = h + pool.pad_h - r;
        if (top < 0 || top % pool.stride_h || top / pool.stride_h >= pool.out_h) continue;
        const int64_t row = (image * pool.out_h + top / pool.stride_h) * pool.out_w;
        for (int64_t w = 0; w < pool.out_w; ++w) {
            const int64_t at = (row + w) * channels;
            const float *value = source.values + at, *output = source.output + at;
            const uint8_t* index = source.index + at;
            for (int64_t s = 0; s < pool.kernel_w; ++s) {
                const int64_t column = w * pool.stride_w - pool.pad_w + s;
                if (column < 0 || column >= width) continue;
                float* to = line + column * channels;
                const uint8_t wanted = static_cast<uint8_t>(r * pool.kernel_w + s);
                for (int64_t c = 0; c < channels; ++c)
                    to[c] += index[c] == wanted && !(output[c] <= 0.0f) ? value[c] : 0.0f;
            }
        }
    }
}

// Packs a source of images of `height` lines of all `channels` to starts, index and value of `to`; returns how many
// nonzeros there are.
inline int64_t pack_nonzeros(const Source& source, const Nonzeros& to, int64_t height, int64_t channels,
                             int64_t* starts, int32_t* index, float* value) {
    constexpr int64_t kBlock = 16 * 1024;  // values whose nonzeros lie together
    const int64_t lines = to.lines, width = to.width, line = width * channels, room = width * to.channels;
    const int64_t block = line > 0 && line < kBlock ? kBlock / line : 1;
    Scratch<float> unpooled(source.index ? line * omp_get_max_threads() : 0);
    float* const unpooled_at = unpooled;
    int64_t total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
    for (int64_t first = 0; first < lines; first += block) {
        const int64_t last = first + block < lines ? first + block : lines;
        int64_t filled = 0;
        for (int64_t l = first; l < last; ++l) {
            const float *from = source.values + l * line, *output = source.output ? source.output + l * line : nullptr;
            if (source.index) {
                float* const whole = unpooled_at + omp_get_thread_num() * line;
                unpool_line(source, l / height, l % height, width, channels, whole);
                from = whole;
                output = nullptr;
            }
            for (int64_t s = 0; s < to.slices; ++s) {
                const int64_t column = s * to.channels;
                const int64_t some = channels - column < to.channels ? channels - column : to.channels;
                int64_t* const begin = starts + (s * lines + l) * (width + 1);
                // Behind the block's line before, so that the nonzeros of a block lie together.
                int64_t out = l == first ? (s * lines + l) * room : begin[-1];
                for (int64_t w = 0; w < width; ++w) {
                    const int64_t at = w * channels + column;
                    begin[w] = out;
                    out += pack_pixel(from + at, output ? output + at : nullptr, some, w * to.channels, index + out,
                                      value + out);
                }
                begin[width] = out;
                filled += out - begin[0];
            }
        }
        total += filled;
    }
    return total;
}

}  // namespace

// The nonzeros with their memory. Slices have at most `slice` channels.
class Packed {
public:
    Packed(const Source& source, int64_t images, int64_t height, int64_t width, int64_t channels, int64_t slice)
        : slices_(slice < channels ? (channels + slice - 1) / slice : 1),
          each_((channels + slices_ - 1) / slices_),
          starts_(slices_ * images * height * (width + 1)),
          index_(images * height * width * each_ * slices_),
          value_(images * height * width * each_ * slices_),
          nonzeros_{starts_, index_, value_, images * height, width, slices_, each_, 0} {
        nonzeros_.count = pack_nonzeros(source, nonzeros_, height, channels, starts_, index_, value_);
    }
    const Nonzeros& nonzeros() const { return nonzeros_; }

private:
    int64_t slices_, each_;
    Scratch<int64_t> starts_;
    Scratch<int32_t> index_;
    Scratch<float> value_;
    Nonzeros nonzeros_;
};

}  // namespace thrifty::THRIFTY_ISA
#endif
