// Output pixels from the table of shared products.
//
// table[clusters, taps, outputs], bias[outputs], ids[groups, images * pixels] ->
// y[images, out_h, out_w, outputs] = bias + the rows that the taps pick; padding picks none.
// groups * taps rows are added per output pixel, with the sums in registers; bound by the loads of those rows.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {

void gather_add(const float* table, const float* bias, const int32_t* ids, const Geometry* geometry, int64_t images,
                int64_t groups, int64_t outputs, float* y) {
    const Geometry shape = *geometry;
    const int64_t taps = shape.kernel_h * shape.kernel_w, pixels = shape.in_h * shape.in_w;
    const int64_t lines = images * shape.out_h;
    const int64_t most = groups * taps;
#pragma omp parallel
    {
        // One thread's list of rows; a parallel region must not throw, so the stack holds the usual size.
        constexpr int64_t kRows = 2048;
        const float* rows[kRows];
#pragma omp for schedule(static)
        for (int64_t line = 0; line < lines; ++line) {
            const int64_t n = line / shape.out_h, oh = line % shape.out_h;
            for (int64_t ow = 0; ow < shape.out_w; ++ow) {
                float* out = y + (line * shape.out_w + ow) * outputs;
                int64_t count = 0;
                bool begun = false;
                for (int64_t r = 0; r < shape.kernel_h; ++r) {
                    const int64_t h = oh * shape.stride_h - shape.pad_top + r * shape.dilation_h;
                    if (h < 0 || h >= shape.in_h) continue;
                    for (int64_t s = 0; s < shape.kernel_w; ++s) {
                        const int64_t w = ow * shape.stride_w - shape.pad_left + s * shape.dilation_w;
                        if (w < 0 || w >= shape.in_w) continue;
                        const int64_t tap = r * shape.kernel_w + s;
                        const int32_t* id = ids + n * pixels + h * shape.in_w + w;
                        for (int64_t g = 0; g < groups; ++g) {
                            const int64_t k = id[g * images * pixels];
                            rows[count++] = table + (k * taps + tap) * outputs;
                            if (count == kRows && most > kRows) {
                                sum_rows(rows, count, outputs, begun ? out : bias, 1.0f, out);
                                begun = true;
                                count = 0;
                            }
                        }
                    }
                }
                if (count > 0 || !begun) sum_rows(rows, count, outputs, begun ? out : bias, 1.0f, out);
            }
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
