// nearest_centroid against plain loops in double: the entry named must be as near as the nearest, up to rounding.
#include <cmath>

#include "problems.h"

namespace {

struct Problem {
    int64_t rows, channels, length, entries;
    int64_t groups() const { return (channels + length - 1) / length; }
};

check::Array<int32_t> run(const Problem& p, check::Array<float>& x, check::Array<float>& codebook) {
    check::Array<int32_t> codes(p.groups() * p.rows, -1);
    thrifty::kernels().nearest_centroid(x.data(), p.rows, p.channels, codebook.data(), p.groups(), p.entries, p.length,
                                        codes.data());
    return codes;
}

// x . c - |c|^2 / 2 for row r's piece g and entry e. The last piece may be shorter: what it lacks counts as zero.
double score(const Problem& p, check::Array<float>& x, check::Array<float>& codebook, int64_t g, int64_t r, int64_t e) {
    double sum = 0;
    for (int64_t l = 0; l < p.length; ++l) {
        const double c = static_cast<double>(codebook[(g * p.entries + e) * p.length + l]);
        const int64_t at = g * p.length + l;
        sum += (at < p.channels ? static_cast<double>(x[r * p.channels + at]) * c : 0.0) - c * c / 2;
    }
    return sum;
}

}  // namespace

THRIFTY_TEST(nearest_centroid_names_an_entry_as_near_as_the_nearest) {
    unsigned seed = 0;
    for (const int64_t rows : {0, 1, 5, 6, 7, 97, 200}) {
        for (const int64_t entries : {1, 2, 31, 32, 33, 64, 65, 200}) {
            for (const auto& [channels, length] : {std::pair{1, 1}, {3, 8}, {7, 3}, {33, 16}}) {
                const Problem p{rows, channels, length, entries};
                check::Array<float> x = check::normal(rows * channels, ++seed);
                check::Array<float> codebook = check::normal(p.groups() * entries * length, ++seed);
                check::Array<int32_t> codes = run(p, x, codebook);
                for (int64_t i = 0; i < codes.size(); ++i) {
                    const int64_t g = i / rows, r = i % rows;
                    CHECK(codes[i] >= 0 && codes[i] < entries);
                    double best = -INFINITY;
                    for (int64_t e = 0; e < entries; ++e) best = std::fmax(best, score(p, x, codebook, g, r, e));
                    CHECK_NEAR(score(p, x, codebook, g, r, codes[i]), best, 1e-4);
                }
            }
        }
    }
}

THRIFTY_TEST(nearest_centroid_names_the_first_of_equal_entries) {
    const Problem p{20, 10, 5, 150};
    check::Array<float> x = check::normal(p.rows * p.channels, 1), codebook = check::normal(2 * 150 * 5, 2);
    for (int64_t g = 0; g < 2; ++g)
        for (int64_t i = 75 * 5; i < 150 * 5; ++i) codebook[g * 750 + i] = codebook[g * 750 + i - 75 * 5];
    check::Array<int32_t> codes = run(p, x, codebook);
    for (int64_t i = 0; i < codes.size(); ++i) CHECK(codes[i] < 75);
}

THRIFTY_TEST(nearest_centroid_gives_equal_pieces_equal_codes) {
    const Problem p{29, 21, 21, 90};
    check::Array<float> piece = check::normal(21, 3), x(29 * 21), codebook = check::normal(90 * 21, 4);
    for (int64_t i = 0; i < x.size(); ++i) x[i] = piece[i % 21];
    check::Array<int32_t> codes = run(p, x, codebook);
    for (int64_t r = 1; r < p.rows; ++r) CHECK_EQUAL(codes[r], codes[0]);
}

THRIFTY_TEST(nearest_centroid_keeps_codes_in_range_on_nan_and_infinity) {
    const Problem p{15, 7, 4, 40};
    check::Array<float> x = check::normal(p.rows * p.channels, 5), codebook = check::normal(2 * 40 * 4, 6);
    x[0] = NAN;
    x[8] = INFINITY;
    x[100] = -INFINITY;
    codebook[3] = NAN;
    codebook[50] = 1e30f;  // its square is infinite
    codebook[200] = INFINITY;
    check::Array<int32_t> codes = run(p, x, codebook);
    for (int64_t i = 0; i < codes.size(); ++i) CHECK(codes[i] >= 0 && codes[i] < 40);
}

THRIFTY_TEST(nearest_centroid_does_not_depend_on_threads) {
    const Problem p{1001, 19, 8, 100};
    check::Array<float> x = check::normal(p.rows * p.channels, 7), codebook = check::normal(3 * 100 * 8, 8);
    check::Array<int32_t> one(0), four(0);
    check::with_threads(1, [&] { one = run(p, x, codebook); });
    check::with_threads(4, [&] { four = run(p, x, codebook); });
    CHECK(one == four);
}
