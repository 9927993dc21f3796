// relu_pool against plain loops.
#include <cmath>

#include "pools.h"

namespace {

using check::Pair;

check::Pooled run(check::Array<float>& y, int64_t images, Pair map, int64_t channels, const thrifty::Pool& p) {
    const int64_t size = images * p.out_h * p.out_w * channels;
    check::Pooled got{check::Array<float>(size, NAN), check::Array<uint8_t>(size, 255)};
    thrifty::kernels().relu_pool(y.data(), false, images, map.h, map.w, channels, &p, got.out.data(), got.index.data());
    return got;
}

void agree(check::Array<float>& y, int64_t images, Pair map, int64_t channels, const thrifty::Pool& p) {
    check::Pooled got = run(y, images, map, channels, p);
    check::Pooled wanted = check::relu_pooled(y, images, map, channels, p);
    CHECK(got.index == wanted.index);
    for (int64_t i = 0; i < got.out.size(); ++i)
        CHECK(got.out[i] == wanted.out[i] || (std::isnan(got.out[i]) && std::isnan(wanted.out[i])));
}

}  // namespace

THRIFTY_TEST(relu_pool_agrees_with_plain_loops) {
    unsigned seed = 0;
    for (const Pair map : {Pair{1, 1}, {2, 3}, {5, 4}, {7, 9}}) {
        for (const thrifty::Pool& p : check::pools(map)) {
            for (const int64_t images : {0, 1, 3}) {
                for (const int64_t channels : {1, 7, 16, 64, 65, 200}) {
                    check::Array<float> y = check::normal(images * map.h * map.w * channels, ++seed);
                    agree(y, images, map, channels, p);
                }
            }
        }
    }
}

// Whole numbers tie often; the first of equals wins.
THRIFTY_TEST(relu_pool_takes_the_first_of_equals) {
    const Pair map{7, 9};
    for (const thrifty::Pool& p : check::pools(map)) {
        check::Array<int32_t> whole = check::whole(2 * map.h * map.w * 70, 5, 1);
        check::Array<float> y(whole.size());
        for (int64_t i = 0; i < y.size(); ++i) y[i] = static_cast<float>(whole[i] - 2);
        agree(y, 2, map, 70, p);
    }
    check::Array<float> same(16, 3.0f);
    CHECK_EQUAL(run(same, 1, {4, 4}, 1, check::pool({4, 4}, {4, 4}, {1, 1}, {0, 0})).index[0], 0);
}

THRIFTY_TEST(relu_pool_answers_zero_where_nothing_is_positive) {
    const Pair map{7, 9};
    for (const thrifty::Pool& p : check::pools(map)) {
        check::Array<float> y = check::normal(map.h * map.w * 33, 2);
        for (int64_t i = 0; i < y.size(); ++i) y[i] = -std::abs(y[i]) - 0.5f;
        y[0] = -INFINITY;
        agree(y, 1, map, 33, p);
        check::Pooled got = run(y, 1, map, 33, p);
        for (int64_t i = 0; i < got.out.size(); ++i) CHECK_EQUAL(got.out[i], 0.0f);
    }
}

THRIFTY_TEST(relu_pool_keeps_nan) {
    const Pair map{5, 6};
    for (const thrifty::Pool& p : check::pools(map)) {
        check::Array<float> y = check::normal(2 * map.h * map.w * 20, 3);
        for (int64_t i = 0; i < y.size(); i += 37) y[i] = NAN;
        agree(y, 2, map, 20, p);
    }
    check::Array<float> y(4, 1.0f);
    y[1] = y[2] = NAN;
    check::Pooled got = run(y, 1, {2, 2}, 1, check::pool({2, 2}, {2, 2}, {2, 2}, {0, 0}));
    CHECK(std::isnan(got.out[0]));
    CHECK_EQUAL(got.index[0], 2);  // the last one, as in torch
}

THRIFTY_TEST(relu_pool_does_not_depend_on_threads) {
    const Pair map{31, 29};
    const thrifty::Pool p = check::pool(map, {3, 3}, {2, 2}, {1, 1});
    check::Array<float> y = check::normal(2 * map.h * map.w * 70, 4);
    check::Array<float> one(0), four(0);
    check::with_threads(1, [&] { one = run(y, 2, map, 70, p).out; });
    check::with_threads(4, [&] { four = run(y, 2, map, 70, p).out; });
    CHECK(one == four);
}
