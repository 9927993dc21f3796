// Where the values come from that a skipping kernel packs: an array, or what comes back through a ReLU and a max pool.
#pragma once

#include <cstdint>

namespace thrifty {

// A max pool over a map: window position (r, s) of output (h, w) is (h * stride_h - pad_h + r, w * stride_w - pad_w + s).
struct Pool {
    int64_t out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};

// values[images, h, w, channels] as they are; or, with `output` of the same shape, those of them whose output a ReLU let
// through; or, with `index` too, all three of the shape of the pool's output, each at the window position
// index = r * kernel_w + s of its window.
struct Source {
    const float* values;
    const float* output;
    const uint8_t* index;
    Pool pool;
};

}  // namespace thrifty
