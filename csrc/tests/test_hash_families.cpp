// The hash kernels against plain loops.
#include <cmath>
#include <vector>

#include "problems.h"

THRIFTY_TEST(pack_signs_agrees_with_plain_loops) {
    for (const int64_t rows : {0, 1, 5, 700}) {
        for (const auto& [tables, bits] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {2, 30}, {12, 16}}) {
            check::Array<float> projections = check::normal(rows * tables * bits, 1);
            check::Array<float> thresholds = check::normal(tables * bits, 2);
            if (rows > 0) projections[0] = NAN;
            check::Array<int32_t> codes(rows * tables, -1);
            thrifty::kernels().pack_signs(projections.data(), rows, tables, bits, thresholds.data(), codes.data());
            for (int64_t i = 0; i < rows * tables * bits; ++i) {
                const int64_t plane = i % (tables * bits);
                CHECK_EQUAL(codes[i / bits] >> (plane % bits) & 1, projections[i] > thresholds[plane] ? 1 : 0);
            }
        }
    }
}

THRIFTY_TEST(probe_signs_flips_the_nearest_bits) {
    for (const int64_t bits : {1, 2, 17, 30}) {
        const int64_t rows = 9, tables = 3, probes = bits < 2 ? 2 : 4;
        check::Array<float> projections = check::normal(rows * tables * bits, 1), thresholds(tables * bits, 0.0f);
        projections[0] = NAN;
        check::Array<int32_t> flips(probes * 2, -1), codes(rows * tables * probes, -1), own(rows * tables);
        flips[2] = 0;
        if (bits > 1) flips[4] = 1, flips[6] = 0, flips[7] = 1;
        thrifty::kernels().probe_signs(projections.data(), rows, tables, bits, thresholds.data(), flips.data(), probes, 2,
                                       bits > 1 ? 2 : 1, codes.data());
        thrifty::kernels().pack_signs(projections.data(), rows, tables, bits, thresholds.data(), own.data());
        for (int64_t i = 0; i < rows * tables; ++i) {
            CHECK_EQUAL(codes[i * probes], own[i]);
            int first = 0;
            for (int b = 1; b < bits; ++b)
                if (std::fabs(projections[i * bits + b]) < std::fabs(projections[i * bits + first])) first = b;
            if (i > 0) CHECK_EQUAL(codes[i * probes + 1], own[i] ^ 1 << first);
            if (bits > 1) CHECK_EQUAL(codes[i * probes + 1] ^ codes[i * probes + 2], codes[i * probes + 3] ^ own[i]);
        }
    }
}

THRIFTY_TEST(sparse_project_agrees_with_plain_loops) {
    for (const int64_t rows : {0, 1, 9, 400}) {
        const int64_t channels = 13, planes = 21, entries = 3;
        check::Array<float> x = check::normal(rows * channels, 3), signs = check::normal(planes * entries, 4);
        check::Array<int32_t> index = check::whole(planes * entries, channels, 5);
        check::Array<float> y(rows * planes, NAN);
        thrifty::kernels().sparse_project(x.data(), rows, channels, index.data(), signs.data(), planes, entries, y.data());
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t p = 0; p < planes; ++p) {
                double sum = 0;
                for (int64_t e = 0; e < entries; ++e)
                    sum += static_cast<double>(signs[p * entries + e]) *
                           static_cast<double>(x[r * channels + index[p * entries + e]]);
                CHECK_NEAR(y[r * planes + p], sum, 1e-5);
            }
        }
    }
}

THRIFTY_TEST(wta_hash_finds_the_winners_and_stays_in_range) {
    for (const int64_t rows : {0, 1, 300}) {
        const int64_t channels = 11, tables = 4, bins = 3, size = 5;
        check::Array<float> x = check::normal(rows * channels, 6);
        for (int64_t i = 0; i < x.size(); i += 17) x[i] = NAN;
        check::Array<int32_t> index = check::whole(tables * bins * size, channels, 7);
        check::Array<int32_t> codes(rows * tables, -1);
        thrifty::kernels().wta_hash(x.data(), rows, channels, index.data(), tables, bins, size, 9, codes.data());
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t t = 0; t < tables; ++t) {
                int32_t code = codes[r * tables + t];
                CHECK(code >= 0 && code < 125);
                for (int64_t k = bins - 1; k >= 0; --k, code /= 5) {
                    int best = -1;
                    for (int64_t i = 0; i < size; ++i) {
                        const float value = x[r * channels + index[(t * bins + k) * size + i]];
                        if (std::isnan(value)) continue;
                        if (best < 0 || value > x[r * channels + index[(t * bins + k) * size + best]])
                            best = static_cast<int>(i);
                    }
                    if (best >= 0) CHECK_EQUAL(code % 5, best);
                }
            }
        }
    }
    // rows without features, and no attempts to borrow
    check::Array<float> zeros(40, 0.0f);
    check::Array<int32_t> index = check::whole(2 * 30 * 2, 20, 8), codes(4, -1);
    thrifty::kernels().wta_hash(zeros.data(), 2, 20, index.data(), 2, 30, 2, 0, codes.data());
    for (int64_t i = 0; i < 4; ++i) CHECK_EQUAL(codes[i], 0);
}

THRIFTY_TEST(min_hash_depends_on_the_set_alone) {
    check::Array<int64_t> offsets(5), members(9);
    const int64_t bounds[] = {0, 3, 3, 6, 9}, values[] = {7, -1, 1LL << 50, 1LL << 50, 7, -1, 8, 9, 10};
    for (int64_t i = 0; i < 5; ++i) offsets[i] = bounds[i];
    for (int64_t i = 0; i < 9; ++i) members[i] = values[i];
    check::Array<int32_t> codes(4 * 6, -1);
    thrifty::kernels().min_hash(offsets.data(), members.data(), 4, 6, 5, 6, ~0ull, codes.data());
    int64_t differing = 0;
    for (int64_t t = 0; t < 6; ++t) {
        CHECK_EQUAL(codes[t], codes[2 * 6 + t]);
        CHECK_EQUAL(codes[6 + t], 0);
        CHECK(codes[t] >= 0 && codes[t] < 1 << 30);
        differing += codes[t] != codes[3 * 6 + t];
    }
    CHECK(differing >= 5);
}
