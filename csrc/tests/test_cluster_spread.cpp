// cluster_spread against its definition.
#include <cmath>

#include "clusters.h"

THRIFTY_TEST(cluster_spread_gives_every_member_its_share) {
    for (const int64_t pixels : {0, 1, 5, 130}) {
        for (const int64_t channels : {1, 7, 33}) {
            for (const int64_t length : {1, 4, 16, 40}) {
                const int64_t groups = check::pieces(channels, length);
                check::Array<int32_t> codes = check::codes(groups * pixels, 9, 21);
                check::Clusters made = check::cluster(codes, groups, pixels, 50);
                check::Array<float> c = check::normal(made.count * length, 22), x(pixels * channels, NAN);
                thrifty::kernels().cluster_spread(c.data(), made.ids.data(), made.starts.data(), made.count, groups,
                                                  pixels, channels, length, x.data());
                for (int64_t p = 0; p < pixels; ++p) {
                    for (int64_t i = 0; i < channels; ++i) {
                        const int64_t k = made.ids[i / length * pixels + p];
                        const double members = static_cast<double>(made.starts[k + 1] - made.starts[k]);
                        const double wanted = static_cast<double>(c[k * length + i % length]) / members;
                        CHECK_NEAR(x[p * channels + i], wanted, 1e-6);
                    }
                }
            }
        }
    }
}
