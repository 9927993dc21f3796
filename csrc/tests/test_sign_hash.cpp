// sign_hash against plain loops in double; a bit whose projection is too close to its threshold to tell is not compared.
#include <cmath>

#include "problems.h"

namespace {

struct Problem {
    int64_t rows, channels, length, bits;
    int64_t groups() const { return (channels + length - 1) / length; }
};

check::Array<int32_t> run(const Problem& p, check::Array<float>& x, check::Array<float>& planes,
                          check::Array<float>& thresholds) {
    check::Array<int32_t> codes(p.groups() * p.rows, -1);
    thrifty::kernels().sign_hash(x.data(), p.rows, p.channels, planes.data(), thresholds.data(), p.groups(), p.length,
                                 p.bits, codes.data());
    return codes;
}

void agree(const Problem& p, unsigned seed) {
    check::Array<float> x = check::normal(p.rows * p.channels, seed);
    check::Array<float> planes = check::normal(p.groups() * p.length * p.bits, seed + 1);
    check::Array<float> thresholds = check::normal(p.groups() * p.bits, seed + 2);
    check::Array<int32_t> codes = run(p, x, planes, thresholds);
    for (int64_t g = 0; g < p.groups(); ++g) {
        for (int64_t r = 0; r < p.rows; ++r) {
            const int32_t code = codes[g * p.rows + r];
            CHECK(code >= 0 && (code >> p.bits) == 0);
            for (int64_t b = 0; b < p.bits; ++b) {
                double projection = 0, size = 1;
                for (int64_t l = 0; l < p.length && g * p.length + l < p.channels; ++l) {
                    const double term = static_cast<double>(x[r * p.channels + g * p.length + l]) *
                                        static_cast<double>(planes[(g * p.length + l) * p.bits + b]);
                    projection += term;
                    size += std::fabs(term);
                }
                const double above = projection - static_cast<double>(thresholds[g * p.bits + b]);
                if (std::fabs(above) > 1e-5 * size) CHECK_EQUAL(code >> b & 1, above > 0 ? 1 : 0);
            }
        }
    }
}

}  // namespace

THRIFTY_TEST(sign_hash_agrees_with_plain_loops) {
    unsigned seed = 0;
    for (const int64_t rows : {0, 1, 2, 7, 8, 9, 33}) {
        for (const int64_t bits : {1, 15, 16, 17, 30}) {
            for (const auto& [channels, length] : {std::pair{1, 1}, {3, 8}, {7, 3}, {32, 16}, {33, 16}, {20, 1}}) {
                agree({rows, channels, length, bits}, seed += 3);
            }
        }
    }
}

THRIFTY_TEST(sign_hash_keeps_codes_in_range_on_nan_and_infinity) {
    const Problem p{9, 5, 3, 18};
    check::Array<float> x = check::normal(p.rows * p.channels, 1);
    x[0] = NAN;
    x[7] = INFINITY;
    x[44] = -INFINITY;
    check::Array<float> planes = check::normal(p.groups() * p.length * p.bits, 2);
    check::Array<float> thresholds(p.groups() * p.bits, 0.0f);
    check::Array<int32_t> codes = run(p, x, planes, thresholds);
    for (int64_t i = 0; i < codes.size(); ++i) CHECK(codes[i] >= 0 && codes[i] < 1 << p.bits);
    CHECK_EQUAL(codes[0], 0);  // no projection of NaN is above its threshold
}

THRIFTY_TEST(sign_hash_gives_no_bit_at_the_threshold) {
    const Problem p{10, 6, 4, 30};
    check::Array<float> x(p.rows * p.channels, 0.0f), thresholds(p.groups() * p.bits, 0.0f);
    check::Array<float> planes = check::normal(p.groups() * p.length * p.bits, 3);
    check::Array<int32_t> codes = run(p, x, planes, thresholds);
    for (int64_t i = 0; i < codes.size(); ++i) CHECK_EQUAL(codes[i], 0);
}

// Rows handled together and the rows left over must not round apart: thresholds at the projections themselves, where the
// slightest difference flips a bit.
THRIFTY_TEST(sign_hash_gives_equal_pieces_equal_codes) {
    const Problem p{29, 21, 21, 30};
    check::Array<float> piece = check::normal(p.channels, 7), x(p.rows * p.channels), thresholds(p.bits, 0.0f);
    check::Array<float> planes = check::normal(p.length * p.bits, 8);
    for (int64_t i = 0; i < x.size(); ++i) x[i] = piece[i % p.channels];
    for (int64_t b = 0; b < p.bits; ++b)
        for (int64_t c = 0; c < p.channels; ++c) thresholds[b] += piece[c] * planes[c * p.bits + b];
    check::Array<int32_t> codes = run(p, x, planes, thresholds);
    for (int64_t r = 1; r < p.rows; ++r) CHECK_EQUAL(codes[r], codes[0]);
}

THRIFTY_TEST(sign_hash_does_not_depend_on_threads) {
    const Problem p{1001, 19, 8, 20};
    check::Array<float> x = check::normal(p.rows * p.channels, 4);
    check::Array<float> planes = check::normal(p.groups() * p.length * p.bits, 5);
    check::Array<float> thresholds = check::normal(p.groups() * p.bits, 6);
    check::Array<int32_t> one(0), four(0);
    check::with_threads(1, [&] { one = run(p, x, planes, thresholds); });
    check::with_threads(4, [&] { four = run(p, x, planes, thresholds); });
    CHECK(one == four);
}
