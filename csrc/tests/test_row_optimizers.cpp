// The optimizers of single rows against every step done by itself, in double.
#include <cmath>
#include <vector>

#include "problems.h"

namespace {

constexpr int64_t kRows = 5;

struct State {
    std::vector<double> p, m, v;
};

State wide(check::Array<float>& p, check::Array<float>& m, check::Array<float>& v) {
    State s;
    for (int64_t i = 0; i < p.size(); ++i) {
        s.p.push_back(p[i]);
        s.m.push_back(m[i]);
        s.v.push_back(v[i]);
    }
    return s;
}

}  // namespace

THRIFTY_TEST(adam_skip_is_every_step_done_by_itself) {
    for (const int64_t channels : {1, 64, 70}) {
        for (const auto& [beta1, beta2] : {std::pair<double, double>{0.9, 0.999}, {0.0, 0.99}, {0.8, 0.6}, {0.995, 0.999}}) {
            const int64_t now = 900;
            check::Array<double> rate(now + 1), root(now + 1), shrink(now + 1);
            for (int64_t j = 1; j <= now; ++j) {
                rate[j] = 1e-3 * (1 + std::sin(static_cast<double>(j))) / (1 - std::pow(beta1, j));
                root[j] = 1 / std::sqrt(1 - std::pow(beta2, j));
                shrink[j] = shrink[j - 1] + std::log(1 - 1e-4);
            }
            check::Array<float> p = check::normal(kRows * channels, 1), m = check::normal(kRows * channels, 2);
            check::Array<float> v = check::normal(kRows * channels, 3);
            for (int64_t i = 0; i < v.size(); ++i) v[i] = v[i] * v[i];
            v[0] = m[0] = 0;
            check::Array<int32_t> last(kRows);
            last[0] = 3, last[1] = 899, last[2] = 900, last[3] = 500, last[4] = 1;
            check::Array<int64_t> rows(kRows);
            for (int64_t r = 0; r < kRows; ++r) rows[r] = kRows - 1 - r;
            State s = wide(p, m, v);
            for (int64_t i = 0; i < p.size(); ++i) {
                for (int64_t j = last[i / channels] + 1; j <= now; ++j) {
                    s.m[i] *= beta1;
                    s.v[i] *= beta2;
                    s.p[i] = s.p[i] * (1 - 1e-4) - rate[j] * s.m[i] / (root[j] * std::sqrt(s.v[i]) + 1e-8);
                }
            }
            thrifty::kernels().adam_skip(rows.data(), kRows, channels, now, rate.data(), root.data(), shrink.data(), beta1,
                                         beta2, 1e-8, p.data(), m.data(), v.data(), last.data());
            for (int64_t i = 0; i < p.size(); ++i) {
                CHECK_NEAR(p[i], s.p[i], 2e-5 * (1 + std::fabs(s.p[i])));
                CHECK_NEAR(m[i], s.m[i], 1e-5);
                CHECK_NEAR(v[i], s.v[i], 1e-5 * (1 + s.v[i]));
            }
            for (int64_t r = 0; r < kRows; ++r) CHECK_EQUAL(last[r], now);
        }
    }
}

THRIFTY_TEST(adam_rows_is_one_step_of_the_named_rows) {
    const int64_t channels = 37;
    check::Array<float> p = check::normal(kRows * channels, 1), m = check::normal(kRows * channels, 2);
    check::Array<float> v(kRows * channels, 0.5f), g = check::normal(2 * channels, 4);
    check::Array<int32_t> last(kRows, 6);
    check::Array<int64_t> rows(2);
    rows[0] = 4, rows[1] = 1;
    State s = wide(p, m, v);
    thrifty::kernels().adam_rows(rows.data(), g.data(), 2, channels, 7, 0.99, 0.01, 1.5, 0.9, 0.99, 1e-8, p.data(),
                                 m.data(), v.data(), last.data());
    for (int64_t i = 0; i < p.size(); ++i) {
        const int64_t row = i / channels, at = row == 4 ? 0 : row == 1 ? 1 : -1;
        if (at >= 0) {
            const double gradient = g[at * channels + i % channels];
            s.m[i] = 0.9 * s.m[i] + 0.1 * gradient;
            s.v[i] = 0.99 * s.v[i] + 0.01 * gradient * gradient;
            s.p[i] = s.p[i] * 0.99 - 0.01 * s.m[i] / (1.5 * std::sqrt(s.v[i]) + 1e-8);
        }
        CHECK_NEAR(p[i], s.p[i], 1e-5);
        CHECK_EQUAL(last[row], at >= 0 ? 7 : 6);
    }
}

THRIFTY_TEST(sgd_skip_and_sgd_rows_are_every_step_done_by_itself) {
    for (const auto& [momentum, decay, nesterov] :
         {std::tuple<double, double, bool>{0, 0, false}, {0.9, 0, false}, {0.9, 0.01, true}, {0, 0.1, false}}) {
        const int64_t channels = 18, now = 400;
        check::Array<double> rate(now + 1);
        for (int64_t j = 1; j <= now; ++j) rate[j] = 0.01 * (1 + 0.5 * std::cos(static_cast<double>(j)));
        check::Array<float> p = check::normal(kRows * channels, 1), buffer = check::normal(kRows * channels, 2);
        check::Array<int32_t> last(kRows);
        for (int32_t r = 0; r < kRows; ++r) last[r] = 100 * r;
        check::Array<int64_t> rows(kRows);
        for (int64_t r = 0; r < kRows; ++r) rows[r] = r;
        State s = wide(p, buffer, buffer);
        const auto step = [&, m = momentum, d = decay, n = nesterov](int64_t i, double lr, double given) {
            const double g = given + d * s.p[i];
            s.m[i] = m * s.m[i] + g;
            s.p[i] -= lr * (n ? g + m * s.m[i] : s.m[i]);
        };
        for (int64_t i = 0; i < p.size(); ++i)
            for (int64_t j = last[i / channels] + 1; j <= now; ++j) step(i, rate[j], 0);
        thrifty::kernels().sgd_skip(rows.data(), kRows, channels, now, rate.data(), momentum, decay, nesterov, p.data(),
                                    buffer.data(), last.data());
        for (int64_t i = 0; i < p.size(); ++i) CHECK_NEAR(p[i], s.p[i], 1e-5);
        check::Array<float> g = check::normal(kRows * channels, 5);
        for (int64_t i = 0; i < p.size(); ++i) step(i, 0.02, g[i]);
        thrifty::kernels().sgd_rows(rows.data(), g.data(), kRows, channels, now + 1, 0.02, momentum, decay, nesterov,
                                    p.data(), buffer.data(), last.data());
        for (int64_t i = 0; i < p.size(); ++i) CHECK_NEAR(p[i], s.p[i], 1e-5);
    }
}

THRIFTY_TEST(adagrad_rows_is_one_step_of_the_named_rows) {
    const int64_t channels = 33;
    for (const bool rowwise : {false, true}) {
        check::Array<float> p = check::normal(kRows * channels, 1), g = check::normal(channels, 2);
        check::Array<float> sum(rowwise ? kRows : kRows * channels, 0.25f), before = p;
        check::Array<int64_t> rows(1);
        rows[0] = 2;
        double mean = 0;
        for (int64_t c = 0; c < channels; ++c) mean += static_cast<double>(g[c] * g[c]) / static_cast<double>(channels);
        thrifty::kernels().adagrad_rows(rows.data(), g.data(), 1, channels, 0.1, 1e-10, rowwise, p.data(), sum.data());
        for (int64_t i = 0; i < p.size(); ++i) {
            const double gradient = i / channels == 2 ? g[i % channels] : 0.0f;
            const double total = 0.25 + (rowwise ? mean : gradient * gradient);
            CHECK_NEAR(p[i], before[i] - 0.1 * gradient / std::sqrt(total), 1e-5);
        }
    }
}
