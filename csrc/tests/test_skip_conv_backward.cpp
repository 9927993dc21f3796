// skip_conv_backward against plain loops in double, for each of its sources.
#include <cmath>

#include "pools.h"

namespace {

using thrifty::Geometry;

enum class From { Values, Relu, Pool };

struct Gradients {
    check::Array<float> dx, dw, db;
};

struct Problem {
    Geometry s;
    int64_t images, channels, outputs;
    thrifty::Source source;
    check::Array<float> x, weight, values, output;
    check::Array<uint8_t> index;

    Problem(const Geometry& of, int64_t n, int64_t c, int64_t m, double density, unsigned seed, From from = From::Values,
            const thrifty::Pool& pool = {})
        : s(of), images(n), channels(c), outputs(m), source{nullptr, nullptr, nullptr, {}},
          x(check::normal(n * of.in_h * of.in_w * c, seed)),
          weight(check::normal(m * of.kernel_h * of.kernel_w * c, seed + 1)), values(0), output(0), index(0) {
        int64_t size = n * of.out_h * of.out_w * m;
        if (from != From::Values) output = check::normal(size, seed + 2);
        if (from == From::Pool) {
            check::Pooled pooled = check::relu_pooled(output, n, {of.out_h, of.out_w}, m, pool);
            output = pooled.out;
            index = pooled.index;
            size = output.size();
            source.index = index.data();
            source.pool = pool;
        }
        for (int64_t i = 0; i < output.size(); ++i) output[i] = output[i] < 0.0f ? 0.0f : output[i];
        if (from != From::Values) source.output = output.data();
        values = check::sparse(size, density, seed + 3);
        source.values = values.data();
    }
    Problem(const Problem&) = delete;

    Gradients run(double share, bool dx = true, bool dw = true, bool db = true) {
        Gradients got{check::Array<float>(dx ? x.size() : 0, NAN), check::Array<float>(dw ? weight.size() : 0, NAN),
                      check::Array<float>(db ? outputs : 0, NAN)};
        thrifty::kernels().skip_conv_backward(&source, x.data(), weight.data(), &s, images, outputs, channels, share,
                                              dx ? got.dx.data() : nullptr, dw ? got.dw.data() : nullptr,
                                              db ? got.db.data() : nullptr);
        return got;
    }
};

using Doubles = std::vector<double>;

double& at(Doubles& values, int64_t i) { return values[static_cast<std::size_t>(i)]; }

// The gradient of the convolution's output, with every zero written out.
Doubles dense(Problem& p) {
    const Geometry& s = p.s;
    const thrifty::Pool& pool = p.source.pool;
    Doubles y(static_cast<std::size_t>(p.images * s.out_h * s.out_w * p.outputs), 0.0);
    for (int64_t i = 0; i < p.values.size(); ++i) {
        if (p.source.output && p.output[i] <= 0.0f) continue;
        int64_t to = i;
        if (p.source.index) {
            const int64_t m = i % p.outputs, w = i / p.outputs % pool.out_w, h = i / p.outputs / pool.out_w % pool.out_h;
            const int64_t n = i / p.outputs / pool.out_w / pool.out_h;
            const int64_t row = h * pool.stride_h - pool.pad_h + p.index[i] / pool.kernel_w;
            const int64_t column = w * pool.stride_w - pool.pad_w + p.index[i] % pool.kernel_w;
            to = ((n * s.out_h + row) * s.out_w + column) * p.outputs + m;
        }
        at(y, to) += static_cast<double>(p.values[i]);
    }
    return y;
}

struct Expected {
    Doubles dx, dw, db;
    double largest;  // of the gradient of the convolution's output: what overlapping windows add up to, at least 1
};

Expected expected(Problem& p) {
    const Geometry& s = p.s;
    const int64_t taps = s.kernel_h * s.kernel_w;
    Doubles y = dense(p);
    Expected made{Doubles(static_cast<std::size_t>(p.x.size()), 0.0), Doubles(static_cast<std::size_t>(p.weight.size()), 0.0),
                  Doubles(static_cast<std::size_t>(p.outputs), 0.0), 1.0};
    for (int64_t i = 0; i < static_cast<int64_t>(y.size()); ++i) {
        const double value = at(y, i);
        if (value == 0.0) continue;
        const int64_t m = i % p.outputs, ow = i / p.outputs % s.out_w, oh = i / p.outputs / s.out_w % s.out_h;
        const int64_t n = i / p.outputs / s.out_w / s.out_h;
        at(made.db, m) += value;
        made.largest = std::max(made.largest, std::abs(value));
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t pixel = check::pixel_seen(s, oh, ow, tap);
            if (pixel < 0) continue;
            const int64_t from = (n * s.in_h * s.in_w + pixel) * p.channels, row = (m * taps + tap) * p.channels;
            for (int64_t c = 0; c < p.channels; ++c) {
                at(made.dx, from + c) += value * static_cast<double>(p.weight[row + c]);
                at(made.dw, row + c) += value * static_cast<double>(p.x[from + c]);
            }
        }
    }
    return made;
}

void near(check::Array<float>& got, Doubles& wanted, double tolerance) {
    CHECK_EQUAL(got.size(), static_cast<int64_t>(wanted.size()));
    for (int64_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], at(wanted, i), tolerance);
}

void agree(Problem& p) {
    Expected wanted = expected(p);
    const int64_t taps = p.s.kernel_h * p.s.kernel_w, pixels = p.images * p.s.out_h * p.s.out_w;
    const double least = 1e-6 * wanted.largest;
    for (const double share : {0.0, 0.5, 1.0}) {
        Gradients got = p.run(share);
        near(got.dx, wanted.dx, least * static_cast<double>(p.outputs * taps + 1));
        near(got.dw, wanted.dw, least * static_cast<double>(pixels + 1));
        near(got.db, wanted.db, least * static_cast<double>(pixels + 1));
    }
}

void agree(const Geometry& s, int64_t images, int64_t channels, int64_t outputs, double density, unsigned seed) {
    Problem values(s, images, channels, outputs, density, seed), relu(s, images, channels, outputs, density, seed, From::Relu);
    agree(values);
    agree(relu);
}

}  // namespace

THRIFTY_TEST(skip_conv_backward_agrees_with_plain_loops) {
    unsigned seed = 0;
    for (const Geometry& s : check::geometries()) {
        for (const int64_t images : {0, 1, 3}) {
            for (const auto& [channels, outputs, density] :
                 {std::tuple{1, 1, 0.5}, {3, 7, 1.0}, {16, 33, 0.1}, {33, 17, 1.0}}) {
                agree(s, images, channels, outputs, density, seed += 4);
            }
        }
    }
}

THRIFTY_TEST(skip_conv_backward_takes_any_number_of_channels) {
    unsigned seed = 1000;
    for (const Geometry& s : {check::geometries()[2], check::geometries()[5]}) {
        for (const auto& [channels, outputs] : {std::pair{64, 52}, {65, 53}, {100, 128}, {129, 130}, {200, 200}}) {
            for (const double density : {0.05, 1.0}) agree(s, 1, channels, outputs, density, seed += 4);
        }
    }
}

THRIFTY_TEST(skip_conv_backward_takes_large_kernels_and_many_lines) {
    unsigned seed = 2000;
    for (const Geometry& s : check::large_geometries()) {
        agree(s, 1, 2, 3, 0.5, seed += 4);
        agree(s, 2, 70, 9, 0.05, seed += 4);
        agree(s, 1, 64, 11, 0.9, seed += 4);
    }
}

THRIFTY_TEST(skip_conv_backward_through_pools_agrees_with_plain_loops) {
    unsigned seed = 3000;
    for (const Geometry& s : check::geometries()) {
        for (const thrifty::Pool& pool : check::pools({s.out_h, s.out_w})) {
            for (const auto& [images, channels, outputs, density] :
                 {std::tuple{0, 3, 4, 1.0}, {1, 5, 1, 1.0}, {2, 3, 17, 0.5}, {1, 17, 70, 1.0}}) {
                Problem p(s, images, channels, outputs, density, seed += 4, From::Pool, pool);
                agree(p);
            }
        }
    }
    const Geometry s = check::geometry({33, 21}, {3, 3}, {1, 1}, {1, 1}, {1, 1});
    for (const thrifty::Pool& pool : check::pools({s.out_h, s.out_w})) {
        Problem p(s, 2, 9, 65, 0.9, seed += 4, From::Pool, pool);
        agree(p);
    }
}

THRIFTY_TEST(skip_conv_backward_computes_what_is_asked_for_and_the_same) {
    const Geometry s = check::geometry({9, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1});
    Problem p(s, 2, 20, 37, 0.8, 1, From::Pool, check::pool({s.out_h, s.out_w}, {3, 3}, {2, 2}, {1, 1}));
    for (const double share : {0.0, 1.0}) {
        Gradients all = p.run(share);
        for (int asked = 0; asked < 8; ++asked) {
            const bool dx = asked & 1, dw = asked & 2, db = asked & 4;
            Gradients some = p.run(share, dx, dw, db);
            CHECK(!dx || some.dx == all.dx);
            CHECK(!dw || some.dw == all.dw);
            CHECK(!db || some.db == all.db);
        }
    }
}

THRIFTY_TEST(skip_conv_backward_of_zeros_is_zero) {
    for (const Geometry& s : check::geometries()) {
        for (const auto& [channels, outputs] : {std::pair{1, 1}, {0, 3}, {3, 0}, {0, 0}, {130, 70}}) {
            Problem p(s, 2, channels, outputs, 0.0, 2);
            for (const double share : {0.0, 1.0}) {
                Gradients got = p.run(share);
                for (check::Array<float>* each : {&got.dx, &got.dw, &got.db})
                    for (int64_t i = 0; i < each->size(); ++i) CHECK_EQUAL((*each)[i], 0.0f);
            }
        }
    }
}

// A NaN in the gradient, or in the output behind which the gradient passes, is kept; and stains only what it touches.
THRIFTY_TEST(skip_conv_backward_keeps_nan) {
    const Geometry s = check::geometry({5, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1});
    for (const From from : {From::Values, From::Relu, From::Pool}) {
        const int64_t outputs = 37, m = 20;
        Problem p(s, 1, 4, outputs, 0.5, 3, from, check::pool({5, 6}, {1, 1}, {1, 1}, {0, 0}));
        const int64_t place = (2 * 6 + 3) * outputs + m;
        p.values[place] = NAN;
        if (from != From::Values) p.output[place] = NAN;
        for (const double share : {0.0, 1.0}) {
            Gradients got = p.run(share);
            for (int64_t i = 0; i < outputs; ++i) CHECK_EQUAL(std::isnan(got.db[i]), i == m);
            for (int64_t i = 0; i < got.dw.size(); ++i) CHECK_EQUAL(std::isnan(got.dw[i]), i / (9 * 4) == m);
            for (int64_t i = 0; i < got.dx.size(); ++i) {
                const int64_t row = i / 4 / 6, column = i / 4 % 6;
                CHECK_EQUAL(std::isnan(got.dx[i]), std::abs(row - 2) <= 1 && std::abs(column - 3) <= 1);
            }
        }
    }
}

THRIFTY_TEST(skip_conv_backward_lets_the_gradient_of_an_output_that_is_nan_pass) {
    const Geometry s = check::geometry({5, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1});
    for (const From from : {From::Relu, From::Pool}) {
        Problem p(s, 1, 4, 37, 1.0, 4, from, check::pool({5, 6}, {2, 2}, {2, 2}, {0, 0}));
        for (int64_t i = 0; i < p.output.size(); i += 5) p.output[i] = NAN;
        agree(p);
    }
}

THRIFTY_TEST(skip_conv_is_the_adjoint_of_skip_conv_backward) {
    const Geometry s = check::geometry({6, 7}, {3, 2}, {2, 1}, {1, 2}, {1, 2});
    Problem p(s, 2, 19, 21, 0.5, 5);
    check::Array<float> bias(p.outputs, 0.0f), y(p.values.size());
    thrifty::kernels().skip_conv(p.x.data(), p.weight.data(), bias.data(), &s, 2, p.outputs, p.channels, 1.0, y.data());
    Gradients got = p.run(0.5);
    const auto dot = [](check::Array<float>& a, check::Array<float>& b) {
        double sum = 0;
        for (int64_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        return sum;
    };
    CHECK_NEAR(dot(p.values, y), dot(got.dx, p.x), 1e-2);
    CHECK_NEAR(dot(p.values, y), dot(got.dw, p.weight), 1e-2);
}

THRIFTY_TEST(skip_conv_backward_does_not_depend_on_threads) {
    const Geometry s = check::geometry({33, 20}, {3, 3}, {1, 1}, {1, 1}, {1, 1});
    for (const From from : {From::Values, From::Relu, From::Pool}) {
        for (const double density : {0.05, 1.0}) {
            Problem p(s, 4, 70, 60, density, 6, from, check::pool({33, 20}, {3, 3}, {2, 2}, {1, 1}));
            for (const double share : {0.0, 1.0}) {
                Gradients one = p.run(share), four = p.run(share);
                check::with_threads(1, [&] { one = p.run(share); });
                check::with_threads(4, [&] { four = p.run(share); });
                CHECK(one.dx == four.dx);
                CHECK(one.dw == four.dw);
                CHECK(one.db == four.db);
            }
        }
    }
}
