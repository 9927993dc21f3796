// What the tests of the skipping kernels have in common: arrays with zeros, shapes of pools, and a pool the slow way.
#pragma once

#include <cmath>
#include <vector>

#include "problems.h"
#include "thrifty/source.h"

namespace check {

// Standard normal values, of which about `density` are kept and the others are zeros of either sign.
inline Array<float> sparse(int64_t size, double density, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> draw;
    std::uniform_real_distribution<double> chance;
    Array<float> values(size);
    for (int64_t i = 0; i < size; ++i) {
        const float value = draw(generator);
        values[i] = chance(generator) < density ? value : std::copysign(0.0f, value);
    }
    return values;
}

inline thrifty::Pool pool(Pair map, Pair kernel, Pair stride, Pair pad) {
    return {(map.h + 2 * pad.h - kernel.h) / stride.h + 1, (map.w + 2 * pad.w - kernel.w) / stride.w + 1,
            kernel.h, kernel.w, stride.h, stride.w, pad.h, pad.w};
}

// Those of a number of pools that fit a map: side by side, overlapping, with gaps, mostly padding, of the most pixels.
inline std::vector<thrifty::Pool> pools(Pair map) {
    struct Shape {
        Pair kernel, stride, pad;
    };
    std::vector<thrifty::Pool> fitting;
    for (const Shape& s : {Shape{{1, 1}, {1, 1}, {0, 0}}, {{2, 2}, {2, 2}, {0, 0}}, {{3, 3}, {2, 2}, {1, 1}},
                           {{3, 2}, {1, 1}, {1, 0}}, {{2, 1}, {3, 4}, {0, 0}}, {{4, 5}, {2, 3}, {3, 4}},
                           {{15, 17}, {1, 2}, {14, 16}}}) {
        if (map.h + 2 * s.pad.h >= s.kernel.h && map.w + 2 * s.pad.w >= s.kernel.w)
            fitting.push_back(pool(map, s.kernel, s.stride, s.pad));
    }
    return fitting;
}

struct Pooled {
    Array<float> out;
    Array<uint8_t> index;
};

// The max pool of the ReLUs of y[images, map, channels]; index is where the first maximum of y itself lies, or the last
// NaN.
inline Pooled relu_pooled(Array<float>& y, int64_t images, Pair map, int64_t channels, const thrifty::Pool& p) {
    const int64_t size = images * p.out_h * p.out_w * channels;
    Pooled made{Array<float>(size), Array<uint8_t>(size)};
    for (int64_t i = 0; i < size; ++i) {
        const int64_t c = i % channels, w = i / channels % p.out_w, h = i / channels / p.out_w % p.out_h;
        const int64_t n = i / channels / p.out_w / p.out_h;
        float best = -INFINITY;
        int64_t at = -1;
        for (int64_t k = 0; k < p.kernel_h * p.kernel_w; ++k) {
            const int64_t row = h * p.stride_h - p.pad_h + k / p.kernel_w, column = w * p.stride_w - p.pad_w + k % p.kernel_w;
            if (row < 0 || row >= map.h || column < 0 || column >= map.w) continue;
            const float value = y[((n * map.h + row) * map.w + column) * channels + c];
            if (at >= 0 && !(value > best) && !std::isnan(value)) continue;
            best = value;
            at = k;
        }
        made.out[i] = best < 0.0f ? 0.0f : best;
        made.index[i] = static_cast<uint8_t>(at);
    }
    return made;
}

// Shapes beyond problems.h: more taps than one pass over the nonzeros takes, kernel rows cut into passes, and blocks of
// lines that reach over images.
inline std::vector<thrifty::Geometry> large_geometries() {
    return {
        geometry({70, 2}, {70, 1}, {1, 1}, {3, 0}, {1, 1}),
        geometry({10, 20}, {9, 9}, {1, 1}, {4, 8}, {1, 2}),
        geometry({12, 30}, {2, 7}, {1, 1}, {1, 3}, {1, 1}),
        geometry({40, 9}, {3, 3}, {1, 1}, {1, 1}, {1, 1}),
        geometry({33, 21}, {3, 3}, {2, 2}, {1, 1}, {2, 1}),
    };
}

}  // namespace check
