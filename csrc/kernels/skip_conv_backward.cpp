// A convolution's gradients over nothing but the nonzeros of its output's gradient, which are packed once for all three.
//
// source: of the output's gradient, [images, out_h, out_w, outputs]; x[images, in_h, in_w, channels],
// weight[outputs, taps, channels] -> dx[images, in_h, in_w, channels], dw[outputs, taps, channels], db[outputs]; each of
// these may be null, and is then not computed. weight is read for dx only, x for dw only.
// `share`: about how much of the gradient is not zero; it decides how memory is blocked, not what comes out.
#include "thrifty/skip_products.h"
#include "thrifty/skip_sums.h"

namespace thrifty::THRIFTY_ISA {
namespace {

// In double, line by line: the sum does not depend on the number of threads.
void sum_channels(const Nonzeros& y, int64_t outputs, float* db) {
    constexpr int64_t kParts = 64;  // summed apart: their number decides the order of the sums
    Scratch<double> partial(kParts * outputs);
    double* const sums = partial;
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < kParts; ++part) {
        double* const sum = sums + part * outputs;
        for (int64_t m = 0; m < outputs; ++m) sum[m] = 0.0;
        for (int64_t l = y.lines * part / kParts; l < y.lines * (part + 1) / kParts; ++l) {
            for (int64_t s = 0; s < y.slices; ++s) {
                const int64_t* starts = y.line(s, l);
                for (int64_t w = 0; w < y.width; ++w)
                    for (int64_t e = starts[w]; e < starts[w + 1]; ++e)
                        sum[y.index[e] + (s - w) * y.channels] += static_cast<double>(y.value[e]);
            }
        }
    }
    for (int64_t m = 0; m < outputs; ++m) {
        double sum = 0.0;
        for (int64_t part = 0; part < kParts; ++part) sum += sums[part * outputs + m];
        db[m] = static_cast<float>(sum);
    }
}

}  // namespace

void skip_conv_backward(const Source* source, const float* x, const float* weight, const Geometry* geometry,
                        int64_t images, int64_t outputs, int64_t channels, double share, float* dx, float* dw, float* db) {
    const Geometry& g = *geometry;
    const Packed packed(*source, images, g.out_h, g.out_w, outputs, slice_for(share, outputs));
    if (dx) multiply_nonzeros(packed.nonzeros(), weight, nullptr, g, images, outputs, channels, true, dx);
    if (dw) sum_nonzeros(packed.nonzeros(), x, g, images, outputs, channels, dw);
    if (db) sum_channels(packed.nonzeros(), outputs, db);
}

}  // namespace thrifty::THRIFTY_ISA
