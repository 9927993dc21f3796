// group_codes against a map from codes to members.
#include "clusters.h"

namespace {

void compare(int64_t groups, int64_t pixels, int64_t scope, check::Array<int32_t> codes) {
    check::Clusters wanted = check::cluster(codes, groups, pixels, scope);
    check::Array<int32_t> ids(groups * pixels, -1), order(groups * pixels, -1);
    check::Array<int64_t> starts(groups * pixels + 1, -1), offsets(groups + 1, -1);
    int64_t clusters = -1;
    thrifty::kernels().group_codes(codes.data(), groups, pixels, scope, ids.data(), order.data(), starts.data(),
                                   offsets.data(), &clusters);
    CHECK_EQUAL(clusters, wanted.count);
    CHECK(ids == wanted.ids);
    CHECK(order == wanted.order);
    CHECK(offsets == wanted.offsets);
    for (int64_t k = 0; k <= wanted.count && k <= clusters; ++k) CHECK_EQUAL(starts[k], wanted.starts[k]);
}

}  // namespace

THRIFTY_TEST(group_codes_agrees_with_a_map) {
    for (const int64_t pixels : {0, 1, 2, 24, 25, 333, 2050}) {
        for (const int64_t groups : {1, 3}) {
            for (const int64_t scope : {1, 7, 25, 2050, 5000}) {
                for (const int32_t distinct : {1, 5, 3000, 1 << 30}) {
                    compare(groups, pixels, scope, check::codes(groups * pixels, distinct, 7));
                }
            }
        }
    }
}

THRIFTY_TEST(group_codes_takes_the_largest_code) {
    check::Array<int32_t> codes(100, 0x7fffffff);
    for (int64_t i = 0; i < 100; i += 3) codes[i] = 0;
    compare(1, 100, 100, codes);
    compare(2, 50, 50, codes);
}
