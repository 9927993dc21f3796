// What the tests of the reuse kernels have in common: clusters made the slow way, and shapes of convolutions.
#pragma once

#include <omp.h>

#include <cmath>
#include <map>
#include <tuple>
#include <vector>

#include "check.h"
#include "thrifty/geometry.h"

namespace check {

// Whole numbers in [0, below), the same ones for the same seed.
inline Array<int32_t> whole(int64_t size, int64_t below, unsigned seed) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int32_t> draw(0, static_cast<int32_t>(below - 1));
    Array<int32_t> values(size);
    for (int64_t i = 0; i < size; ++i) values[i] = draw(generator);
    return values;
}

// The clusters of codes[groups, pixels]: numbered by group, scope and code, members ascending.
struct Clusters {
    int64_t groups, pixels;
    Array<int32_t> ids, order;
    Array<int64_t> starts, offsets;

    int64_t count() const { return starts.size() - 1; }
};

inline Clusters clusters_of(Array<int32_t>& codes, int64_t groups, int64_t pixels, int64_t scope) {
    std::map<std::tuple<int64_t, int64_t, int32_t>, std::vector<int32_t>> members;  // sorted as they are numbered
    for (int64_t g = 0; g < groups; ++g)
        for (int64_t p = 0; p < pixels; ++p)
            members[{g, p / scope, codes[g * pixels + p]}].push_back(static_cast<int32_t>(p));
    const int64_t count = static_cast<int64_t>(members.size());
    Clusters made{groups, pixels, Array<int32_t>(groups * pixels), Array<int32_t>(groups * pixels),
                  Array<int64_t>(count + 1), Array<int64_t>(groups + 1)};
    int64_t k = 0, at = 0;
    for (const auto& [key, of_cluster] : members) {
        const int64_t g = std::get<0>(key);
        made.starts[k] = at;
        for (const int32_t p : of_cluster) {
            made.ids[g * pixels + p] = static_cast<int32_t>(k);
            made.order[at++] = p;
        }
        made.offsets[g + 1] = ++k;
    }
    made.starts[k] = at;
    return made;
}

// Clusters of random codes below `kinds`, over the whole batch.
inline Clusters some_clusters(int64_t groups, int64_t pixels, int64_t kinds, unsigned seed) {
    Array<int32_t> codes = whole(groups * pixels, kinds, seed);
    return clusters_of(codes, groups, pixels, pixels > 0 ? pixels : 1);
}

struct Pair {
    int64_t h, w;
};

inline thrifty::Geometry geometry(Pair in, Pair kernel, Pair stride, Pair pad, Pair dilation) {
    const auto outputs = [](int64_t size, int64_t taps, int64_t step, int64_t padding, int64_t spread) {
        return (size + 2 * padding - spread * (taps - 1) - 1) / step + 1;
    };
    return {in.h, in.w, outputs(in.h, kernel.h, stride.h, pad.h, dilation.h),
            outputs(in.w, kernel.w, stride.w, pad.w, dilation.w),
            kernel.h, kernel.w, stride.h, stride.w, pad.h, pad.w, dilation.h, dilation.w};
}

// Plain ones and nasty ones: one pixel, rows of a linear layer, steps over pixels, taps that never see the image.
inline std::vector<thrifty::Geometry> geometries() {
    return {
        geometry({1, 1}, {1, 1}, {1, 1}, {0, 0}, {1, 1}),
        geometry({5, 4}, {1, 1}, {1, 1}, {0, 0}, {1, 1}),
        geometry({5, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}),
        geometry({1, 1}, {3, 3}, {1, 1}, {1, 1}, {1, 1}),
        geometry({8, 5}, {2, 4}, {3, 3}, {0, 1}, {1, 1}),
        geometry({9, 9}, {3, 2}, {2, 1}, {2, 3}, {2, 3}),
        geometry({3, 3}, {5, 5}, {1, 2}, {4, 4}, {1, 1}),
        geometry({2, 9}, {1, 5}, {1, 1}, {3, 2}, {1, 2}),
        geometry({4, 4}, {2, 2}, {5, 5}, {0, 0}, {1, 1}),
        geometry({2, 2}, {3, 3}, {1, 1}, {9, 9}, {4, 4}),
    };
}

// The input pixel that an output sees through a tap, or -1 where that is padding.
inline int64_t pixel_seen(const thrifty::Geometry& s, int64_t oh, int64_t ow, int64_t tap) {
    const int64_t h = oh * s.stride_h - s.pad_top + tap / s.kernel_w * s.dilation_h;
    const int64_t w = ow * s.stride_w - s.pad_left + tap % s.kernel_w * s.dilation_w;
    return h < 0 || h >= s.in_h || w < 0 || w >= s.in_w ? -1 : h * s.in_w + w;
}

// Runs `work` with so many threads, and with as many as before afterwards.
template <typename Work>
void with_threads(int threads, Work work) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    work();
    omp_set_num_threads(before);
}

}  // namespace check
