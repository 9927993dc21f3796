// gather_add against plain loops in double.
#include <cmath>

#include "problems.h"

namespace {

using thrifty::Geometry;

check::Array<float> run(check::Array<float>& table, check::Array<float>& bias, check::Clusters& of, const Geometry& s,
                        int64_t images, int64_t outputs) {
    check::Array<float> y(images * s.out_h * s.out_w * outputs, NAN);
    thrifty::kernels().gather_add(table.data(), bias.data(), of.ids.data(), &s, images, of.groups, outputs, y.data());
    return y;
}

void agree(const Geometry& s, int64_t images, int64_t groups, int64_t outputs, unsigned seed) {
    const int64_t taps = s.kernel_h * s.kernel_w, pixels = images * s.in_h * s.in_w;
    check::Clusters of = check::some_clusters(groups, pixels, 4, seed);
    check::Array<float> table = check::normal(of.count() * taps * outputs, seed + 1);
    check::Array<float> bias = check::normal(outputs, seed + 2);
    check::Array<float> got = run(table, bias, of, s, images, outputs);
    for (int64_t at = 0; at < images * s.out_h * s.out_w; ++at) {
        const int64_t n = at / (s.out_h * s.out_w), oh = at / s.out_w % s.out_h, ow = at % s.out_w;
        std::vector<double> wanted(static_cast<std::size_t>(outputs));
        for (int64_t m = 0; m < outputs; ++m) wanted[static_cast<std::size_t>(m)] = static_cast<double>(bias[m]);
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t pixel = check::pixel_seen(s, oh, ow, tap);
            for (int64_t g = 0; pixel >= 0 && g < groups; ++g) {
                const int64_t k = of.ids[g * pixels + n * s.in_h * s.in_w + pixel];
                for (int64_t m = 0; m < outputs; ++m)
                    wanted[static_cast<std::size_t>(m)] += static_cast<double>(table[(k * taps + tap) * outputs + m]);
            }
        }
        const double tolerance = 1e-6 * static_cast<double>(groups * taps + 1);
        for (int64_t m = 0; m < outputs; ++m)
            CHECK_NEAR(got[at * outputs + m], wanted[static_cast<std::size_t>(m)], tolerance);
    }
}

}  // namespace

THRIFTY_TEST(gather_add_agrees_with_plain_loops) {
    unsigned seed = 0;
    for (const Geometry& s : check::geometries()) {
        for (const int64_t images : {0, 1, 3}) {
            for (const auto& [groups, outputs] : {std::pair{1, 1}, {3, 7}, {2, 33}, {1, 150}}) {
                agree(s, images, groups, outputs, seed += 3);
            }
        }
    }
}

// The rows of one output are collected 2048 at a time: fewer, exactly as many, and more than one time over.
THRIFTY_TEST(gather_add_takes_any_number_of_rows) {
    agree(check::geometry({7, 7}, {7, 7}, {1, 1}, {1, 1}, {1, 1}), 1, 41, 5, 1);    // 2009
    agree(check::geometry({8, 8}, {8, 8}, {1, 1}, {0, 0}, {1, 1}), 2, 32, 17, 2);   // 2048, no padding
    agree(check::geometry({683, 1}, {683, 1}, {1, 1}, {1, 0}, {1, 1}), 1, 3, 5, 3); // 2049, some of them padding
    agree(check::geometry({9, 8}, {8, 8}, {1, 1}, {0, 0}, {1, 1}), 1, 64, 9, 4);    // 4096
    agree(check::geometry({8, 7}, {7, 7}, {1, 1}, {3, 3}, {1, 1}), 1, 101, 3, 5);   // 4949
}

THRIFTY_TEST(gather_add_answers_the_bias_where_only_padding_is_seen) {
    const Geometry s = check::geometry({2, 2}, {1, 1}, {1, 1}, {3, 3}, {1, 1});
    check::Clusters of = check::some_clusters(2, 4, 2, 6);
    check::Array<float> table(of.count() * 20, NAN), bias = check::normal(20, 7);
    check::Array<float> y = run(table, bias, of, s, 1, 20);
    for (int64_t m = 0; m < 20; ++m) CHECK_EQUAL(y[m], bias[m]);
}

THRIFTY_TEST(gather_add_does_not_depend_on_threads) {
    const Geometry s = check::geometry({13, 9}, {3, 3}, {1, 1}, {1, 1}, {1, 1});
    check::Clusters of = check::some_clusters(4, 2 * 13 * 9, 30, 8);
    check::Array<float> table = check::normal(of.count() * 9 * 50, 9), bias = check::normal(50, 10);
    check::Array<float> one(0), four(0);
    check::with_threads(1, [&] { one = run(table, bias, of, s, 2, 50); });
    check::with_threads(4, [&] { four = run(table, bias, of, s, 2, 50); });
    CHECK(one == four);
}
