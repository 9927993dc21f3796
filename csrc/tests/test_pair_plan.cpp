// pair_plan against every plan there is.
#include <limits>

#include "check.h"

namespace {

struct Problem {
    int64_t n;
    check::Array<double> ready, startup, wire;
};

Problem draw(int64_t n, unsigned seed) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int> gap(0, 4), size(0, 6);
    Problem of{n, check::Array<double>(n), check::Array<double>((n + 1) * (n + 1)),
               check::Array<double>((n + 1) * (n + 1))};
    double at = 0;
    for (int64_t i = 0; i < n; ++i) of.ready[i] = at += gap(generator);
    const double start = size(generator);
    for (int64_t i = 0; i <= n; ++i)
        for (int64_t j = i + 1; j <= n; ++j) {
            of.startup[i * (n + 1) + j] = start + 0.25 * gap(generator);
            of.wire[i * (n + 1) + j] = 0.5 * static_cast<double>(j - i) * size(generator);
        }
    return of;
}

double end_of(Problem& of, const std::vector<int64_t>& counts) {
    double before = 0, last = 0;
    int64_t i = 0;
    for (const int64_t count : counts) {
        const int64_t j = i + count, at = i * (of.n + 1) + j;
        const double begun = std::max(of.ready[j - 1], before) + of.startup[at];
        before = last;
        last = std::max(begun, last) + of.wire[at];
        i = j;
    }
    return last;
}

double best_of(Problem& of) {
    double best = std::numeric_limits<double>::infinity();
    for (int64_t cuts = 0; cuts < (int64_t{1} << (of.n - 1)); ++cuts) {
        std::vector<int64_t> counts{1};
        for (int64_t i = 0; i + 1 < of.n; ++i) {
            if (cuts >> i & 1) {
                counts.push_back(1);
            } else {
                ++counts.back();
            }
        }
        best = std::min(best, end_of(of, counts));
    }
    return best;
}

std::vector<int64_t> plan(Problem& of, double limit) {
    check::Array<int64_t> counts(of.n);
    int64_t buckets = -1;
    thrifty::kernels().pair_plan(of.ready.data(), of.startup.data(), of.wire.data(), of.n, limit, counts.data(),
                                 &buckets);
    return std::vector<int64_t>(counts.data(), counts.data() + buckets);
}

}  // namespace

THRIFTY_TEST(pair_plan_is_the_best_of_all_plans) {
    for (unsigned seed = 0; seed < 60; ++seed) {
        Problem of = draw(1 + seed % 9, seed);
        const double best = best_of(of);
        for (const double limit : {best, best + 1, 1e9}) {
            const std::vector<int64_t> counts = plan(of, limit);
            int64_t sum = 0;
            for (const int64_t count : counts) sum += count;
            CHECK_EQUAL(sum, of.n);
            CHECK_NEAR(end_of(of, counts), best, 1e-12);
        }
        CHECK_EQUAL(static_cast<int64_t>(plan(of, best - 1e-3).size()), 0);
    }
}

THRIFTY_TEST(pair_plan_takes_many_gradients_and_none) {
    Problem of = draw(120, 7);
    int64_t sum = 0;
    for (const int64_t count : plan(of, std::numeric_limits<double>::infinity())) sum += count;
    CHECK_EQUAL(sum, 120);
    Problem none = draw(0, 1);
    CHECK_EQUAL(static_cast<int64_t>(plan(none, 1.0).size()), 0);
}
