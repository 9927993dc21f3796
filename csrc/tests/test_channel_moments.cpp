// channel_moments against a plain loop.
#include <cmath>

#include "check.h"

namespace {

struct Moments {
    check::Array<double> sum, sumsq;
};

Moments run(check::Array<float>& x, int64_t rows, int64_t channels) {
    // Outputs start as NaN: a value that the kernel forgets to write shows.
    Moments m{check::Array<double>(channels, NAN), check::Array<double>(channels, NAN)};
    thrifty::kernels().channel_moments(x.data(), rows, channels, m.sum.data(), m.sumsq.data());
    return m;
}

}  // namespace

THRIFTY_TEST(channel_moments_agrees_with_a_plain_loop) {
    for (const int64_t rows : {0, 1, 3, 5, 1023, 1024, 1025, 4099}) {
        for (const int64_t channels : {0, 1, 3, 7, 16, 31, 64}) {
            check::Array<float> x = check::normal(rows * channels, static_cast<unsigned>(rows + channels));
            Moments got = run(x, rows, channels);
            for (int64_t c = 0; c < channels; ++c) {
                double sum = 0, sumsq = 0;
                for (int64_t r = 0; r < rows; ++r) {
                    const double value = x[r * channels + c];
                    sum += value;
                    sumsq += value * value;
                }
                CHECK_NEAR(got.sum[c], sum, 1e-9);
                CHECK_NEAR(got.sumsq[c], sumsq, 1e-9);
            }
        }
    }
}

THRIFTY_TEST(channel_moments_keeps_nan_and_infinity_visible) {
    check::Array<float> x(3 * 2, 1.0f);
    x[2] = NAN;
    x[5] = INFINITY;
    Moments got = run(x, 3, 2);
    CHECK(std::isnan(got.sum[0]) && std::isnan(got.sumsq[0]));
    CHECK(std::isinf(got.sum[1]) && std::isinf(got.sumsq[1]));
}
