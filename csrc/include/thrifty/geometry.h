// Where a convolution's taps land; the twelve numbers of thrifty.ops.geometry.Geometry.flat, in its order.
#pragma once

#include <cstdint>

namespace thrifty {

struct Geometry {
    int64_t in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
};

}  // namespace thrifty
