// skip_conv against plain loops in double.
#include <cmath>

#include "pools.h"

namespace {

using thrifty::Geometry;

struct Problem {
    Geometry s;
    int64_t images, channels, outputs;
    check::Array<float> x, weight, bias;

    Problem(const Geometry& of, int64_t n, int64_t c, int64_t m, double density, unsigned seed)
        : s(of), images(n), channels(c), outputs(m), x(check::sparse(n * of.in_h * of.in_w * c, density, seed)),
          weight(check::normal(m * of.kernel_h * of.kernel_w * c, seed + 1)), bias(check::normal(m, seed + 2)) {}

    check::Array<float> run(double share) {
        check::Array<float> y(images * s.out_h * s.out_w * outputs, NAN);
        thrifty::kernels().skip_conv(x.data(), weight.data(), bias.data(), &s, images, outputs, channels, share, y.data());
        return y;
    }
};

std::vector<double> expected(Problem& p) {
    const Geometry& s = p.s;
    const int64_t taps = s.kernel_h * s.kernel_w;
    std::vector<double> wanted;
    for (int64_t at = 0; at < p.images * s.out_h * s.out_w; ++at) {
        const int64_t n = at / (s.out_h * s.out_w), oh = at / s.out_w % s.out_h, ow = at % s.out_w;
        std::vector<double> sums;
        for (int64_t m = 0; m < p.outputs; ++m) sums.push_back(static_cast<double>(p.bias[m]));
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t pixel = check::pixel_seen(s, oh, ow, tap);
            if (pixel < 0) continue;
            const float* x = p.x.data() + (n * s.in_h * s.in_w + pixel) * p.channels;
            for (int64_t m = 0; m < p.outputs; ++m) {
                const float* row = p.weight.data() + (m * taps + tap) * p.channels;
                double sum = 0;
                for (int64_t c = 0; c < p.channels; ++c) sum += static_cast<double>(x[c]) * static_cast<double>(row[c]);
                sums[static_cast<std::size_t>(m)] += sum;
            }
        }
        wanted.insert(wanted.end(), sums.begin(), sums.end());
    }
    return wanted;
}

// Whatever share is told: it says how memory is blocked.
void agree(Problem p) {
    const std::vector<double> wanted = expected(p);
    const double tolerance = 1e-6 * static_cast<double>(p.channels * p.s.kernel_h * p.s.kernel_w) + 1e-6;
    for (const double share : {0.0, 0.5, 1.0}) {
        check::Array<float> got = p.run(share);
        CHECK_EQUAL(got.size(), static_cast<int64_t>(wanted.size()));
        for (int64_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], wanted[static_cast<std::size_t>(i)], tolerance);
    }
}

}  // namespace

THRIFTY_TEST(skip_conv_agrees_with_plain_loops) {
    unsigned seed = 0;
    for (const Geometry& s : check::geometries()) {
        for (const int64_t images : {0, 1, 3}) {
            for (const auto& [channels, outputs, density] :
                 {std::tuple{1, 1, 0.5}, {3, 7, 1.0}, {17, 33, 0.1}, {33, 16, 1.0}}) {
                agree(Problem(s, images, channels, outputs, density, seed += 3));
            }
        }
    }
}

// Channels that are cut into slices of unequal size, outputs that are cut into chunks, and few or many nonzeros each.
THRIFTY_TEST(skip_conv_takes_any_number_of_channels) {
    unsigned seed = 1000;
    for (const Geometry& s : {check::geometries()[2], check::geometries()[5]}) {
        for (const auto& [channels, outputs] : {std::pair{52, 128}, {53, 129}, {109, 5}, {130, 100}, {200, 200}}) {
            for (const double density : {0.05, 0.4, 1.0}) agree(Problem(s, 1, channels, outputs, density, seed += 3));
        }
    }
}

THRIFTY_TEST(skip_conv_takes_large_kernels_and_many_lines) {
    unsigned seed = 2000;
    for (const Geometry& s : check::large_geometries()) {
        agree(Problem(s, 1, 2, 3, 0.5, seed += 3));
        agree(Problem(s, 1, 50, 19, 0.9, seed += 3));
        agree(Problem(s, 2, 70, 9, 0.1, seed += 3));
    }
}

THRIFTY_TEST(skip_conv_answers_the_bias_where_nothing_is_seen) {
    for (const auto& [channels, outputs] : {std::pair{0, 20}, {1, 1}, {70, 20}, {130, 150}}) {
        Problem p(check::geometries()[5], 2, channels, outputs, 0.0, 5);
        for (const double share : {0.0, 1.0}) {
            check::Array<float> y = p.run(share);
            for (int64_t i = 0; i < y.size(); ++i) CHECK_EQUAL(y[i], p.bias[i % outputs]);
        }
    }
}

THRIFTY_TEST(skip_conv_takes_no_outputs) {
    CHECK_EQUAL(Problem(check::geometries()[2], 2, 5, 0, 0.5, 6).run(1.0).size(), 0);
    CHECK_EQUAL(Problem(check::geometries()[2], 2, 0, 0, 0.5, 6).run(0.0).size(), 0);
}

THRIFTY_TEST(skip_conv_keeps_nan_and_infinity_of_its_input) {
    for (const int64_t channels : {5, 40, 130}) {
        for (const float stain : {NAN, INFINITY}) {
            Problem p(check::geometry({5, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}), 1, channels, 37, 0.3, 7);
            p.x[(2 * 6 + 3) * channels + channels - 1] = stain;  // row 2, column 3
            for (const double share : {0.0, 1.0}) {
                check::Array<float> y = p.run(share);
                for (int64_t i = 0; i < y.size(); ++i) {
                    const int64_t row = i / 37 / 6, column = i / 37 % 6;
                    const bool seen = std::abs(row - 2) <= 1 && std::abs(column - 3) <= 1;
                    CHECK_EQUAL(std::isfinite(y[i]), !seen);
                }
            }
        }
    }
}

THRIFTY_TEST(skip_conv_does_not_depend_on_threads) {
    for (const double density : {0.1, 1.0}) {
        for (const double share : {0.0, 1.0}) {
            Problem p(check::geometry({33, 20}, {3, 3}, {1, 1}, {1, 1}, {1, 1}), 3, 70, 150, density, 8);
            check::Array<float> one(0), four(0);
            check::with_threads(1, [&] { one = p.run(share); });
            check::with_threads(4, [&] { four = p.run(share); });
            CHECK(one == four);
        }
    }
}
