// pull_sums against a loop that pushes every output to the clusters it sees.
#include <cmath>

#include "clusters.h"
#include "geometries.h"

namespace {

void compare(const thrifty::Geometry& shape, int64_t images, int64_t groups, int64_t outputs, int32_t distinct) {
    const int64_t inside = shape.in_h * shape.in_w, pixels = images * inside, taps = shape.kernel_h * shape.kernel_w;
    check::Array<int32_t> codes = check::codes(groups * pixels, distinct, 41);
    check::Clusters made = check::cluster(codes, groups, pixels, pixels + 1);
    check::Array<float> y = check::normal(images * shape.out_h * shape.out_w * outputs, 42);
    check::Array<float> sums(made.count * taps * outputs, NAN);
    thrifty::kernels().pull_sums(y.data(), made.order.data(), made.starts.data(), made.count, &shape, outputs,
                                 sums.data());
    check::Array<double> wanted(made.count * taps * outputs);
    for (int64_t line = 0; line < images * shape.out_h; ++line) {
        const int64_t n = line / shape.out_h, oh = line % shape.out_h;
        for (int64_t ow = 0; ow < shape.out_w; ++ow) {
            for (int64_t tap = 0; tap < taps; ++tap) {
                const int64_t h = check::seen(oh, tap / shape.kernel_w, shape.stride_h, shape.pad_top,
                                              shape.dilation_h, shape.in_h);
                const int64_t w = check::seen(ow, tap % shape.kernel_w, shape.stride_w, shape.pad_left,
                                              shape.dilation_w, shape.in_w);
                for (int64_t g = 0; g < groups && h >= 0 && w >= 0; ++g) {
                    const int64_t k = made.ids[g * pixels + n * inside + h * shape.in_w + w];
                    for (int64_t m = 0; m < outputs; ++m) {
                        wanted[(k * taps + tap) * outputs + m] +=
                            static_cast<double>(y[(line * shape.out_w + ow) * outputs + m]);
                    }
                }
            }
        }
    }
    for (int64_t i = 0; i < wanted.size(); ++i) CHECK_NEAR(sums[i], wanted[i], 1e-3);
}

}  // namespace

THRIFTY_TEST(pull_sums_agrees_with_a_plain_loop) {
    for (const thrifty::Geometry& shape : check::kGeometries) {
        for (const int64_t images : {0, 1, 3}) {
            for (const int64_t groups : {1, 4}) {
                for (const int64_t outputs : {1, 5, 16, 67}) compare(shape, images, groups, outputs, 6);
            }
        }
    }
}

THRIFTY_TEST(pull_sums_splits_large_clusters_and_keeps_small_ones) {
    compare(check::geometry(72, 72, 3, 3, 1, 1, 1), 1, 1, 3, 1);  // one cluster of 5184 members
    compare(check::geometry(80, 80, 2, 2, 1, 0, 1), 1, 2, 3, 100000);
}
