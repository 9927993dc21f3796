// A convolution over nothing but the nonzeros of its input.
//
// x[images, in_h, in_w, channels], weight[outputs, taps, channels], bias[outputs] ->
// y[images, out_h, out_w, outputs] = bias + x * weight. `share`: about how much of x is not zero; it decides how memory is
// blocked, not what comes out.
#include "thrifty/skip_products.h"

namespace thrifty::THRIFTY_ISA {

void skip_conv(const float* x, const float* weight, const float* bias, const Geometry* geometry, int64_t images,
               int64_t outputs, int64_t channels, double share, float* y) {
    const Source source{x, nullptr, nullptr, {}};
    const Packed packed(source, images, geometry->in_h, geometry->in_w, channels,
                        slice_for(share, channels));
    multiply_nonzeros(packed.nonzeros(), weight, bias, *geometry, images, outputs, channels, false, y);
}

}  // namespace thrifty::THRIFTY_ISA
