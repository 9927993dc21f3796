// Convolution shapes with the corners that go wrong: strides that leave pixels out, padding beyond the kernel's reach,
// dilation, one pixel, one line.
#pragma once

#include "thrifty/geometry.h"

namespace check {

inline thrifty::Geometry geometry(int64_t h, int64_t w, int64_t kernel_h, int64_t kernel_w, int64_t stride,
                                  int64_t padding, int64_t dilation) {
    const int64_t out_h = (h + 2 * padding - dilation * (kernel_h - 1) - 1) / stride + 1;
    const int64_t out_w = (w + 2 * padding - dilation * (kernel_w - 1) - 1) / stride + 1;
    return {h, w, out_h, out_w, kernel_h, kernel_w, stride, stride, padding, padding, dilation, dilation};
}

inline const thrifty::Geometry kGeometries[] = {
    geometry(1, 1, 1, 1, 1, 0, 1), geometry(1, 1, 3, 3, 1, 1, 1), geometry(5, 4, 3, 3, 1, 1, 1),
    geometry(7, 5, 3, 2, 2, 0, 1), geometry(6, 9, 1, 1, 2, 0, 1), geometry(8, 7, 3, 3, 1, 2, 2),
    geometry(1, 11, 1, 5, 3, 0, 1), geometry(4, 4, 2, 2, 3, 3, 1),
};

// The input coordinate that a tap sees from an output coordinate, or -1 for padding.
inline int64_t seen(int64_t out, int64_t tap, int64_t stride, int64_t padding, int64_t dilation, int64_t size) {
    const int64_t at = out * stride - padding + tap * dilation;
    return at >= 0 && at < size ? at : -1;
}

}  // namespace check
