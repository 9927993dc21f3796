// pull_sums against plain loops in double that push instead of pull.
#include <cmath>

#include "problems.h"

namespace {

using thrifty::Geometry;

check::Array<float> run(check::Array<float>& y, check::Clusters& of, const Geometry& s, int64_t outputs) {
    check::Array<float> sums(of.count() * s.kernel_h * s.kernel_w * outputs, NAN);
    thrifty::kernels().pull_sums(y.data(), of.order.data(), of.starts.data(), of.count(), &s, outputs, sums.data());
    return sums;
}

void agree(const Geometry& s, int64_t images, int64_t groups, int64_t kinds, int64_t outputs, unsigned seed) {
    const int64_t taps = s.kernel_h * s.kernel_w, pixels = images * s.in_h * s.in_w;
    check::Clusters of = check::some_clusters(groups, pixels, kinds, seed);
    check::Array<float> y = check::normal(images * s.out_h * s.out_w * outputs, seed + 1);
    check::Array<float> got = run(y, of, s, outputs);
    std::vector<double> wanted(static_cast<std::size_t>(got.size()), 0.0);
    for (int64_t at = 0; at < images * s.out_h * s.out_w; ++at) {
        const int64_t n = at / (s.out_h * s.out_w), oh = at / s.out_w % s.out_h, ow = at % s.out_w;
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t pixel = check::pixel_seen(s, oh, ow, tap);
            for (int64_t g = 0; pixel >= 0 && g < groups; ++g) {
                const int64_t k = of.ids[g * pixels + n * s.in_h * s.in_w + pixel];
                for (int64_t m = 0; m < outputs; ++m)
                    wanted[static_cast<std::size_t>((k * taps + tap) * outputs + m)] +=
                        static_cast<double>(y[at * outputs + m]);
            }
        }
    }
    const double tolerance = 1e-5 + 1e-7 * static_cast<double>(pixels);
    for (int64_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], wanted[static_cast<std::size_t>(i)], tolerance);
}

}  // namespace

THRIFTY_TEST(pull_sums_agrees_with_plain_loops) {
    unsigned seed = 0;
    for (const Geometry& s : check::geometries()) {
        for (const int64_t images : {0, 1, 3}) {
            for (const auto& [groups, outputs] : {std::pair{1, 1}, {3, 7}, {2, 33}, {1, 150}}) {
                agree(s, images, groups, 5, outputs, seed += 2);
            }
        }
    }
}

// Members are read 256 at a time, and clusters from 4096 members on are shared out by taps.
THRIFTY_TEST(pull_sums_takes_any_number_of_members) {
    for (const int64_t rows : {255, 256, 257, 4095, 4096, 4097})
        agree(check::geometry({rows, 1}, {3, 1}, {1, 1}, {1, 0}, {1, 1}), 1, 1, 1, 5, static_cast<unsigned>(rows));
    agree(check::geometry({64, 65}, {3, 2}, {1, 1}, {1, 1}, {1, 1}), 3, 1, 2, 19, 1);
    agree(check::geometry({70, 70}, {2, 3}, {3, 2}, {1, 2}, {2, 1}), 2, 2, 2, 4, 2);
}

// Large clusters whose first members are seen through no tap: what was never added to must be zero, not left over.
THRIFTY_TEST(pull_sums_writes_zeros_where_nothing_is_seen) {
    agree(check::geometry({5000, 1}, {1, 1}, {4999, 1}, {0, 0}, {1, 1}), 1, 1, 1, 3, 3);
    agree(check::geometry({900, 2}, {2, 2}, {7, 2}, {0, 0}, {300, 1}), 1, 1, 2, 20, 4);
}

THRIFTY_TEST(pull_sums_is_the_adjoint_of_gather_add) {
    const Geometry s = check::geometry({6, 7}, {3, 2}, {2, 1}, {1, 2}, {1, 2});
    const int64_t outputs = 21, images = 2;
    check::Clusters of = check::some_clusters(3, images * 42, 6, 5);
    check::Array<float> table = check::normal(of.count() * 6 * outputs, 6), bias(outputs, 0.0f);
    check::Array<float> y = check::normal(images * s.out_h * s.out_w * outputs, 7), gathered(y.size());
    thrifty::kernels().gather_add(table.data(), bias.data(), of.ids.data(), &s, images, 3, outputs, gathered.data());
    check::Array<float> sums = run(y, of, s, outputs);
    double left = 0, right = 0;
    for (int64_t i = 0; i < y.size(); ++i) left += static_cast<double>(y[i]) * static_cast<double>(gathered[i]);
    for (int64_t i = 0; i < table.size(); ++i) right += static_cast<double>(table[i]) * static_cast<double>(sums[i]);
    CHECK_NEAR(left, right, 1e-3);
}

THRIFTY_TEST(pull_sums_does_not_depend_on_threads) {
    const Geometry s = check::geometry({80, 70}, {3, 3}, {1, 1}, {1, 1}, {1, 1});
    check::Clusters of = check::some_clusters(1, 80 * 70, 1, 8);  // one cluster of 5600
    check::Array<float> y = check::normal(80 * 70 * 20, 9);
    check::Array<float> one(0), four(0);
    check::with_threads(1, [&] { one = run(y, of, s, 20); });
    check::with_threads(4, [&] { four = run(y, of, s, 20); });
    CHECK(one == four);
}
