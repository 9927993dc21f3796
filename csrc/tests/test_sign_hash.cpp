// sign_hash against projections in double, leaving out those too close to their threshold to be told in float.
#include <cmath>

#include "clusters.h"

namespace {

constexpr double kTooClose = 1e-4;

void compare(int64_t rows, int64_t channels, int64_t length, int64_t bits) {
    const int64_t groups = check::pieces(channels, length);
    check::Array<float> x = check::normal(rows * channels, 1), planes = check::normal(groups * length * bits, 2),
                        thresholds = check::normal(groups * bits, 3);
    check::Array<int32_t> codes(groups * rows, -1);
    thrifty::kernels().sign_hash(x.data(), rows, channels, planes.data(), thresholds.data(), groups, length, bits,
                                 codes.data());
    for (int64_t g = 0; g < groups; ++g) {
        for (int64_t r = 0; r < rows; ++r) {
            const int32_t code = codes[g * rows + r];
            CHECK(code >= 0 && (code >> (bits - 1)) <= 1);  // nothing beyond the last bit
            for (int64_t b = 0; b < bits; ++b) {
                double projection = -static_cast<double>(thresholds[g * bits + b]);
                for (int64_t l = 0; l < length && g * length + l < channels; ++l) {
                    projection += static_cast<double>(x[r * channels + g * length + l]) *
                                  static_cast<double>(planes[(g * length + l) * bits + b]);
                }
                if (std::fabs(projection) > kTooClose) CHECK_EQUAL((code >> b) & 1, projection > 0 ? 1 : 0);
            }
        }
    }
}

}  // namespace

THRIFTY_TEST(sign_hash_agrees_with_projections_in_double) {
    for (const int64_t rows : {0, 1, 7, 8, 9, 67}) {
        for (const int64_t channels : {1, 3, 16, 37}) {
            for (const int64_t length : {1, 5, 16, 40}) {
                for (const int64_t bits : {1, 5, 15, 16, 17, 30}) compare(rows, channels, length, bits);
            }
        }
    }
}

THRIFTY_TEST(sign_hash_gives_equal_pieces_equal_codes) {
    // Rows handled together and rows of the remainder must not round apart.
    const int64_t rows = 29, channels = 21, bits = 30;
    check::Array<float> one = check::normal(channels, 4), x(rows * channels);
    for (int64_t i = 0; i < rows * channels; ++i) x[i] = one[i % channels];
    check::Array<float> planes = check::normal(channels * bits, 5), thresholds(bits);
    check::Array<int32_t> codes(rows, -1);
    // Thresholds at the projections themselves: the slightest difference would flip a bit.
    for (int64_t b = 0; b < bits; ++b) {
        for (int64_t c = 0; c < channels; ++c) thresholds[b] += one[c] * planes[c * bits + b];
    }
    thrifty::kernels().sign_hash(x.data(), rows, channels, planes.data(), thresholds.data(), 1, channels, bits,
                                 codes.data());
    for (int64_t r = 1; r < rows; ++r) CHECK_EQUAL(codes[r], codes[0]);
}
