// gather_add against a loop over outputs, taps and groups.
#include <cmath>

#include "clusters.h"
#include "geometries.h"

namespace {

void compare(const thrifty::Geometry& shape, int64_t images, int64_t groups, int64_t outputs) {
    const int64_t inside = shape.in_h * shape.in_w, pixels = images * inside, taps = shape.kernel_h * shape.kernel_w;
    check::Array<int32_t> codes = check::codes(groups * pixels, 6, 31);
    check::Clusters made = check::cluster(codes, groups, pixels, pixels + 1);
    check::Array<float> table = check::normal(made.count * taps * outputs, 32), bias = check::normal(outputs, 33);
    check::Array<float> y(images * shape.out_h * shape.out_w * outputs, NAN);
    thrifty::kernels().gather_add(table.data(), bias.data(), made.ids.data(), &shape, images, groups, outputs,
                                  y.data());
    int64_t at = 0;
    for (int64_t n = 0; n < images; ++n) {
        for (int64_t oh = 0; oh < shape.out_h; ++oh) {
            for (int64_t ow = 0; ow < shape.out_w; ++ow) {
                for (int64_t m = 0; m < outputs; ++m) {
                    double wanted = static_cast<double>(bias[m]);
                    for (int64_t tap = 0; tap < taps; ++tap) {
                        const int64_t h = check::seen(oh, tap / shape.kernel_w, shape.stride_h, shape.pad_top,
                                                      shape.dilation_h, shape.in_h);
                        const int64_t w = check::seen(ow, tap % shape.kernel_w, shape.stride_w, shape.pad_left,
                                                      shape.dilation_w, shape.in_w);
                        for (int64_t g = 0; g < groups && h >= 0 && w >= 0; ++g) {
                            const int64_t k = made.ids[g * pixels + n * inside + h * shape.in_w + w];
                            wanted += static_cast<double>(table[(k * taps + tap) * outputs + m]);
                        }
                    }
                    CHECK_NEAR(y[at++], wanted, 1e-3);
                }
            }
        }
    }
}

}  // namespace

THRIFTY_TEST(gather_add_agrees_with_a_plain_loop) {
    for (const thrifty::Geometry& shape : check::kGeometries) {
        for (const int64_t images : {0, 1, 3}) {
            for (const int64_t groups : {1, 4}) {
                for (const int64_t outputs : {1, 5, 16, 67, 150}) compare(shape, images, groups, outputs);
            }
        }
    }
}

THRIFTY_TEST(gather_add_takes_more_rows_than_its_list_holds) { compare(check::geometry(4, 4, 3, 3, 1, 1, 1), 1, 300, 17); }
