// cluster_mean against sums in double.
#include <cmath>

#include "clusters.h"

namespace {

void compare(int64_t pixels, int64_t channels, int64_t length, int32_t distinct) {
    const int64_t groups = check::pieces(channels, length);
    check::Array<int32_t> codes = check::codes(groups * pixels, distinct, 11);
    check::Clusters made = check::cluster(codes, groups, pixels, pixels + 1);
    check::Array<float> x = check::normal(pixels * channels, 12), centroids(made.count * length, NAN);
    thrifty::kernels().cluster_mean(x.data(), channels, made.order.data(), made.starts.data(), made.offsets.data(),
                                    groups, length, centroids.data());
    for (int64_t g = 0; g < groups; ++g) {
        for (int64_t k = made.offsets[g]; k < made.offsets[g + 1]; ++k) {
            const int64_t members = made.starts[k + 1] - made.starts[k];
            for (int64_t l = 0; l < length; ++l) {
                const int64_t c = g * length + l;
                double sum = 0;
                for (int64_t i = made.starts[k]; i < made.starts[k + 1] && c < channels; ++i) {
                    sum += static_cast<double>(x[made.order[i] * channels + c]);
                }
                CHECK_NEAR(centroids[k * length + l], sum / static_cast<double>(members), 1e-5);
            }
        }
    }
}

}  // namespace

THRIFTY_TEST(cluster_mean_agrees_with_sums_in_double) {
    for (const int64_t pixels : {0, 1, 5, 513, 1300}) {
        for (const int64_t channels : {1, 7, 16, 150}) {
            for (const int64_t length : {1, 3, 16, 64, 200}) {
                for (const int32_t distinct : {1, 9, 100000}) compare(pixels, channels, length, distinct);
            }
        }
    }
}

THRIFTY_TEST(cluster_mean_of_one_member_is_that_member) {
    check::Array<int32_t> codes = check::codes(40, 1 << 30, 13);
    check::Clusters made = check::cluster(codes, 1, 40, 1);
    check::Array<float> x = check::normal(40 * 19, 14), centroids(40 * 19, NAN);
    thrifty::kernels().cluster_mean(x.data(), 19, made.order.data(), made.starts.data(), made.offsets.data(), 1, 19,
                                    centroids.data());
    for (int64_t i = 0; i < x.size(); ++i) CHECK_EQUAL(centroids[i], x[i]);
}
