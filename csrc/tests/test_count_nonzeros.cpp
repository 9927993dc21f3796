// count_nonzeros against a plain count.
#include <cmath>
#include <limits>

#include "pools.h"

namespace {

int64_t run(check::Array<float>& x, int64_t rows, int64_t width, int64_t step) {
    int64_t count = -1;
    thrifty::kernels().count_nonzeros(x.data(), rows, width, step, &count);
    return count;
}

}  // namespace

THRIFTY_TEST(count_nonzeros_agrees_with_a_plain_count) {
    unsigned seed = 0;
    for (const int64_t rows : {0, 1, 2, 7, 100}) {
        for (const int64_t width : {0, 1, 15, 16, 33, 200}) {
            for (const double density : {0.0, 0.3, 1.0}) {
                check::Array<float> x = check::sparse(rows * width, density, ++seed);
                for (const int64_t step : {1, 2, 3, 7, 99, 100, 1000}) {
                    int64_t wanted = 0;
                    for (int64_t row = 0; row < rows; row += step)
                        for (int64_t c = 0; c < width; ++c) wanted += x[row * width + c] != 0.0f;
                    CHECK_EQUAL(run(x, rows, width, step), wanted);
                }
            }
        }
    }
}

THRIFTY_TEST(count_nonzeros_takes_any_step) {
    check::Array<float> x(6 * 5, 1.0f);
    CHECK_EQUAL(run(x, 6, 5, std::numeric_limits<int64_t>::max()), 5);
    CHECK_EQUAL(run(x, 0, 5, std::numeric_limits<int64_t>::max()), 0);
}

THRIFTY_TEST(count_nonzeros_counts_what_is_no_number_and_no_zero_of_either_sign) {
    check::Array<float> x(40, -0.0f);
    x[0] = NAN;
    x[17] = INFINITY;
    x[39] = std::numeric_limits<float>::denorm_min();
    CHECK_EQUAL(run(x, 1, 40, 1), 3);
    CHECK_EQUAL(run(x, 8, 5, 2), 1);  // rows 0, 2, 4, 6: without the last and without the fourth
}
