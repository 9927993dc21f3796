// relu_unpool against plain loops, and both pooling kernels in bfloat16 against their float32 answers.
#include <cmath>
#include <cstring>

#include "pools.h"

namespace {

using check::Pair;

uint16_t rounded(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float widened(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

struct Problem {
    Pair map;
    int64_t images, channels;
    thrifty::Pool pool;
    check::Array<float> gradient;
    check::Pooled pooled;

    Problem(Pair size, int64_t n, int64_t c, const thrifty::Pool& p, unsigned seed)
        : map(size), images(n), channels(c), pool(p),
          gradient(check::sparse(n * p.out_h * p.out_w * c, 0.7, seed)),
          pooled{check::Array<float>(0), check::Array<uint8_t>(0)} {
        check::Array<float> y = check::normal(n * size.h * size.w * c, seed + 1);
        pooled = check::relu_pooled(y, n, size, c, p);
    }

    int64_t values() const { return images * map.h * map.w * channels; }

    thrifty::Source source() { return {gradient.data(), pooled.out.data(), pooled.index.data(), pool}; }

    std::vector<double> wanted() {
        std::vector<double> y(static_cast<std::size_t>(values()));
        for (int64_t i = 0; i < gradient.size(); ++i) {
            if (pooled.out[i] <= 0.0f) continue;
            const int64_t c = i % channels, w = i / channels % pool.out_w, h = i / channels / pool.out_w % pool.out_h;
            const int64_t n = i / channels / pool.out_w / pool.out_h, k = pooled.index[i];
            const int64_t row = h * pool.stride_h - pool.pad_h + k / pool.kernel_w;
            const int64_t column = w * pool.stride_w - pool.pad_w + k % pool.kernel_w;
            y[static_cast<std::size_t>(((n * map.h + row) * map.w + column) * channels + c)] +=
                static_cast<double>(gradient[i]);
        }
        return y;
    }
};

}  // namespace

THRIFTY_TEST(relu_unpool_agrees_with_plain_loops) {
    unsigned seed = 0;
    for (const Pair map : {Pair{1, 1}, {5, 4}, {7, 9}}) {
        for (const thrifty::Pool& p : check::pools(map)) {
            for (const auto& [images, channels] : {std::pair{0, 3}, {1, 7}, {2, 65}}) {
                Problem problem(map, images, channels, p, seed += 2);
                const thrifty::Source source = problem.source();
                check::Array<float> y(problem.values(), NAN);
                check::Array<uint16_t> half(problem.values(), 0xffff);
                thrifty::kernels().relu_unpool(&source, false, images, map.h, map.w, channels, y.data());
                thrifty::kernels().relu_unpool(&source, true, images, map.h, map.w, channels, half.data());
                const std::vector<double> wanted = problem.wanted();
                for (int64_t i = 0; i < y.size(); ++i) {
                    CHECK_NEAR(y[i], wanted[static_cast<std::size_t>(i)], 1e-5);
                    CHECK_EQUAL(half[i], rounded(y[i]));
                }
            }
        }
    }
}

THRIFTY_TEST(relu_unpool_without_a_pool_masks_the_gradient) {
    check::Array<float> gradient = check::normal(60, 1), output = check::sparse(60, 0.5, 2), y(60, NAN);
    output[0] = NAN, output[1] = -1.0f;
    const thrifty::Source source{gradient.data(), output.data(), nullptr, {}};
    thrifty::kernels().relu_unpool(&source, false, 2, 3, 2, 5, y.data());
    for (int64_t i = 0; i < 60; ++i) CHECK_EQUAL(y[i], output[i] <= 0.0f ? 0.0f : gradient[i]);
}

THRIFTY_TEST(relu_unpool_keeps_nan_in_bfloat16) {
    check::Array<float> gradient(3, NAN), output(3, 1.0f);
    check::Array<uint16_t> y(3, 0);
    const thrifty::Source source{gradient.data(), output.data(), nullptr, {}};
    thrifty::kernels().relu_unpool(&source, true, 1, 1, 1, 3, y.data());
    for (int64_t i = 0; i < 3; ++i) CHECK(std::isnan(widened(y[i])));
}

THRIFTY_TEST(relu_pool_in_bfloat16_is_the_pool_of_the_same_numbers) {
    const Pair map{7, 9};
    for (const thrifty::Pool& p : check::pools(map)) {
        check::Array<float> y = check::normal(2 * map.h * map.w * 70, 3);
        check::Array<uint16_t> half(y.size());
        for (int64_t i = 0; i < y.size(); ++i) half[i] = rounded(y[i]), y[i] = widened(half[i]);
        check::Pooled wanted = check::relu_pooled(y, 2, map, 70, p);
        check::Array<uint16_t> out(wanted.out.size());
        check::Array<uint8_t> index(wanted.out.size());
        thrifty::kernels().relu_pool(half.data(), true, 2, map.h, map.w, 70, &p, out.data(), index.data());
        CHECK(index == wanted.index);
        for (int64_t i = 0; i < out.size(); ++i) CHECK_EQUAL(widened(out[i]), wanted.out[i]);
    }
}
