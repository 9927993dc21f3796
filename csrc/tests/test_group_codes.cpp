// group_codes against a sorted map: exactly the same clusters.
#include <cstdint>
#include <limits>

#include "problems.h"

namespace {

void agree(check::Array<int32_t>& codes, int64_t groups, int64_t pixels, int64_t scope) {
    check::Clusters wanted = check::clusters_of(codes, groups, pixels, scope);
    check::Array<int32_t> ids(groups * pixels, -1), order(groups * pixels, -1);
    check::Array<int64_t> starts(groups * pixels + 1, -1), offsets(groups + 1, -1);
    int64_t count = -1;
    thrifty::kernels().group_codes(codes.data(), groups, pixels, scope, ids.data(), order.data(), starts.data(),
                                   offsets.data(), &count);
    CHECK_EQUAL(count, wanted.count());
    if (count != wanted.count()) return;
    for (int64_t i = 0; i < groups * pixels; ++i) {
        CHECK_EQUAL(ids[i], wanted.ids[i]);
        CHECK_EQUAL(order[i], wanted.order[i]);
    }
    for (int64_t k = 0; k <= count; ++k) CHECK_EQUAL(starts[k], wanted.starts[k]);
    for (int64_t g = 0; g <= groups; ++g) CHECK_EQUAL(offsets[g], wanted.offsets[g]);
}

}  // namespace

THRIFTY_TEST(group_codes_agrees_with_a_map) {
    unsigned seed = 0;
    for (const int64_t groups : {1, 3}) {
        for (const int64_t pixels : {0, 1, 2, 24, 25, 49, 300}) {  // around 24 the way of sorting changes
            for (const int64_t scope : {1, 7, 24, 25, 50, 1000}) {
                for (const int64_t kinds : {int64_t{1}, int64_t{5}, int64_t{3000}, int64_t{1} << 30}) {
                    check::Array<int32_t> codes = check::whole(groups * pixels, kinds, ++seed);
                    agree(codes, groups, pixels, scope);
                }
            }
        }
    }
}

THRIFTY_TEST(group_codes_takes_codes_of_every_digit) {
    constexpr int32_t most = std::numeric_limits<int32_t>::max();
    check::Array<int32_t> codes(2 * 60);
    for (int64_t i = 0; i < 120; ++i) {
        const int32_t bit = int32_t{1} << (i % 31);
        codes[i] = i % 3 == 0 ? bit - 1 : i % 3 == 1 ? bit : most - bit + 1;
    }
    agree(codes, 2, 60, 60);
    agree(codes, 2, 60, 31);
}

THRIFTY_TEST(group_codes_takes_a_scope_beyond_every_batch) {
    check::Array<int32_t> codes = check::whole(2 * 40, 6, 1);
    agree(codes, 2, 40, std::numeric_limits<int64_t>::max());
}

THRIFTY_TEST(group_codes_takes_many_equal_codes_and_many_tasks) {
    check::Array<int32_t> same(5000, (1 << 30) - 1);
    agree(same, 1, 5000, 5000);
    check::Array<int32_t> codes = check::whole(7 * 900, 4, 2);
    agree(codes, 7, 900, 1);
    agree(codes, 7, 900, 13);
}
