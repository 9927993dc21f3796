// cluster_spread against plain loops, and as the adjoint of cluster_mean.
#include <cmath>

#include "problems.h"

namespace {

check::Array<float> run(check::Array<float>& c, int64_t channels, int64_t length, check::Clusters& of) {
    check::Array<float> x(of.pixels * channels, NAN);
    thrifty::kernels().cluster_spread(c.data(), of.ids.data(), of.starts.data(), of.count(), of.groups, of.pixels,
                                      channels, length, x.data());
    return x;
}

}  // namespace

THRIFTY_TEST(cluster_spread_agrees_with_plain_loops) {
    unsigned seed = 0;
    for (const int64_t pixels : {0, 1, 3, 17, 200}) {
        for (const int64_t kinds : {1, 4, 1000}) {
            for (const auto& [channels, length] : {std::pair{1, 1}, {3, 8}, {7, 3}, {32, 32}, {33, 16}, {130, 70}}) {
                check::Clusters of = check::some_clusters((channels + length - 1) / length, pixels, kinds, ++seed);
                check::Array<float> c = check::normal(of.count() * length, seed);
                check::Array<float> got = run(c, channels, length, of);
                for (int64_t p = 0; p < pixels; ++p) {
                    for (int64_t at = 0; at < channels; ++at) {
                        const int64_t k = of.ids[at / length * pixels + p];
                        const float members = static_cast<float>(of.starts[k + 1] - of.starts[k]);
                        CHECK_NEAR(got[p * channels + at], c[k * length + at % length] / members, 1e-6);
                    }
                }
            }
        }
    }
}

THRIFTY_TEST(cluster_spread_is_the_adjoint_of_cluster_mean) {
    const int64_t pixels = 150, channels = 37, length = 16;
    check::Clusters of = check::some_clusters(3, pixels, 9, 7);
    check::Array<float> x = check::normal(pixels * channels, 8), c = check::normal(of.count() * length, 9);
    check::Array<float> mean(of.count() * length), spread = run(c, channels, length, of);
    thrifty::kernels().cluster_mean(x.data(), channels, of.order.data(), of.starts.data(), of.offsets.data(),
                                    of.groups, length, mean.data());
    double left = 0, right = 0;
    for (int64_t i = 0; i < mean.size(); ++i) left += static_cast<double>(mean[i]) * static_cast<double>(c[i]);
    for (int64_t i = 0; i < x.size(); ++i) right += static_cast<double>(x[i]) * static_cast<double>(spread[i]);
    CHECK_NEAR(left, right, 1e-4);
}
