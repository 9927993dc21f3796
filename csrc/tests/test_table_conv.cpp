// level_codes and table_conv against plain loops: equal codes, equal sums, whatever the shape, and with either way.
#include <cmath>

#include "problems.h"

namespace {

// What a test hands to the kernel must begin at a multiple of 64 bytes, as the binding makes sure of.
struct Table {
    explicit Table(int64_t size) : rows(static_cast<int16_t*>(thrifty::allocate(size * 2))) {}
    ~Table() { thrifty::release(rows); }
    int16_t* rows;
};

}  // namespace

THRIFTY_TEST(level_codes_count_the_thresholds_below) {
    unsigned seed = 0;
    for (const int64_t rows : {0, 1, 4, 63, 150}) {
        for (const int64_t channels : {1, 3, 16, 37}) {
            for (const auto& [length, bits] : {std::pair{1, 4}, {2, 3}, {3, 2}, {8, 1}}) {
                const int64_t cuts = (1 << bits) - 1, groups = (channels + length - 1) / length;
                check::Array<float> x = check::normal(rows * channels, ++seed);
                check::Array<float> thresholds = check::normal(cuts * channels, ++seed);
                check::Array<uint8_t> codes(rows * groups, 255);
                int32_t bad = -1;
                thrifty::kernels().level_codes(x.data(), rows, channels, thresholds.data(), length, bits, codes.data(), &bad);
                CHECK_EQUAL(bad, 0);
                for (int64_t i = 0; i < rows * groups; ++i) {
                    int code = 0;
                    for (int64_t l = 0; l < length && i % groups * length + l < channels; ++l) {
                        const int64_t c = i % groups * length + l;
                        int level = 0;
                        for (int64_t k = 0; k < cuts; ++k) level += x[i / groups * channels + c] > thresholds[k * channels + c];
                        code |= level << (l * bits);
                    }
                    CHECK_EQUAL(codes[i], code);
                }
            }
        }
    }
}

THRIFTY_TEST(table_conv_adds_the_rows_that_codes_name) {
    unsigned seed = 0;
    for (const thrifty::Geometry& shape : check::geometries()) {
        for (const int64_t outputs : {5, 64, 130}) {
            for (const int64_t entries : {4, 256}) {
                const int64_t images = 3, groups = 5, width = outputs == 130 ? 96 : 64, taps = shape.kernel_h * shape.kernel_w;
                const int64_t blocks = (outputs + width - 1) / width, rows = groups * entries;
                const thrifty::Geometry pool = check::geometry({shape.out_h, shape.out_w}, {1, 1}, {1, 1}, {0, 0}, {1, 1});
                Table table(blocks * taps * rows * width);
                check::Array<int32_t> drawn = check::whole(blocks * taps * rows * width, 200, ++seed);
                for (int64_t i = 0; i < drawn.size(); ++i)
                    table.rows[i] = i / width % entries == 0 ? 0 : static_cast<int16_t>(drawn[i] - 100);
                const int64_t pixels = shape.in_h * shape.in_w, outs = images * shape.out_h * shape.out_w;
                check::Array<int32_t> named = check::whole(images * pixels * groups, entries, ++seed);
                check::Array<uint8_t> codes(named.size());
                for (int64_t i = 0; i < named.size(); ++i) codes[i] = static_cast<uint8_t>(named[i]);
                check::Array<float> scale(outputs, 0.5f), bias = check::normal(outputs, ++seed);
                for (const int64_t skip : {0, 1}) {
                    check::Array<float> y(outs * outputs, NAN);
                    thrifty::kernels().table_conv(table.rows, scale.data(), bias.data(), codes.data(), &shape, &pool, images,
                                                  groups, entries, outputs, width, skip, 0, y.data());
                    for (int64_t i = 0; i < y.size(); ++i) {
                        const int64_t m = i % outputs, o = i / outputs, spot = o % (shape.out_h * shape.out_w);
                        int64_t sum = 0;
                        for (int64_t tap = 0; tap < taps; ++tap) {
                            const int64_t seen = check::pixel_seen(shape, spot / shape.out_w, spot % shape.out_w, tap);
                            if (seen < 0) continue;
                            const int64_t pixel = o / (shape.out_h * shape.out_w) * pixels + seen;
                            for (int64_t g = 0; g < groups; ++g) {
                                const int64_t row = g * entries + codes[pixel * groups + g];
                                sum += table.rows[((m / width * taps + tap) * rows + row) * width + m % width];
                            }
                        }
                        CHECK_NEAR(y[i], static_cast<double>(sum) * 0.5 + static_cast<double>(bias[m]), 1e-3);
                    }
                }
            }
        }
    }
}
