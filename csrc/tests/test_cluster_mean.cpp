// cluster_mean against plain sums in double.
#include <cmath>

#include "problems.h"

namespace {

check::Array<float> run(check::Array<float>& x, int64_t channels, int64_t length, check::Clusters& of) {
    // Outputs start as NaN: a value that the kernel forgets to write shows.
    check::Array<float> centroids(of.count() * length, NAN);
    thrifty::kernels().cluster_mean(x.data(), channels, of.order.data(), of.starts.data(), of.offsets.data(),
                                    of.groups, length, centroids.data());
    return centroids;
}

void agree(int64_t pixels, int64_t channels, int64_t length, int64_t kinds, unsigned seed) {
    check::Array<float> x = check::normal(pixels * channels, seed);
    check::Clusters of = check::some_clusters((channels + length - 1) / length, pixels, kinds, seed + 1);
    check::Array<float> got = run(x, channels, length, of);
    std::vector<double> wanted(static_cast<std::size_t>(of.count() * length), 0.0);
    for (int64_t g = 0; g < of.groups; ++g) {
        for (int64_t p = 0; p < pixels; ++p) {
            const int64_t k = of.ids[g * pixels + p];
            for (int64_t l = 0; l < length && g * length + l < channels; ++l)
                wanted[static_cast<std::size_t>(k * length + l)] +=
                    static_cast<double>(x[p * channels + g * length + l]) /
                    static_cast<double>(of.starts[k + 1] - of.starts[k]);
        }
    }
    for (int64_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], wanted[static_cast<std::size_t>(i)], 1e-5);
}

}  // namespace

THRIFTY_TEST(cluster_mean_agrees_with_plain_sums) {
    unsigned seed = 0;
    for (const int64_t pixels : {0, 1, 3, 17, 200}) {
        for (const int64_t kinds : {1, 4, 1000}) {
            for (const auto& [channels, length] : {std::pair{1, 1}, {3, 8}, {7, 3}, {32, 32}, {33, 16}, {130, 70},
                                                   {257, 256}}) {
                agree(pixels, channels, length, kinds, seed += 2);
            }
        }
    }
}

THRIFTY_TEST(cluster_mean_sums_large_clusters_in_parts) {
    for (const int64_t pixels : {511, 512, 513, 1024, 5000}) agree(pixels, 21, 16, 1, static_cast<unsigned>(pixels));
}

THRIFTY_TEST(cluster_mean_of_equal_pieces_is_that_piece) {
    check::Clusters of = check::some_clusters(2, 3, 1, 1);
    check::Array<float> x(3 * 9, 0.1f);
    check::Array<float> got = run(x, 9, 5, of);
    for (int64_t l = 0; l < 10; ++l) CHECK_NEAR(got[l], l < 9 ? 0.1f : 0.0f, 1e-7);
}

THRIFTY_TEST(cluster_mean_keeps_nan_within_its_cluster) {
    check::Clusters of = check::some_clusters(1, 50, 2, 2);
    check::Array<float> x = check::normal(50 * 4, 3);
    x[0] = NAN;  // pixel 0, channel 0
    check::Array<float> got = run(x, 4, 4, of);
    const int64_t stained = of.ids[0];
    CHECK(std::isnan(got[stained * 4]));
    for (int64_t i = 0; i < got.size(); ++i) CHECK(i == stained * 4 || std::isfinite(got[i]));
}

THRIFTY_TEST(cluster_mean_does_not_depend_on_threads) {
    check::Clusters of = check::some_clusters(3, 3000, 40, 4);
    check::Array<float> x = check::normal(3000 * 50, 5);
    check::Array<float> one(0), four(0);
    check::with_threads(1, [&] { one = run(x, 50, 20, of); });
    check::with_threads(4, [&] { four = run(x, 50, 20, of); });
    CHECK(one == four);
}
