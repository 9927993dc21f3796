// Clusters as group_codes should make them, found with a map: the oracle of its test and the input of the others.
#pragma once

#include <map>

#include "check.h"

namespace check {

struct Clusters {
    Array<int32_t> ids, order;
    Array<int64_t> starts, offsets;
    int64_t count;
};

// Random codes below `distinct`, the same ones for the same seed.
inline Array<int32_t> codes(int64_t size, int32_t distinct, unsigned seed) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int32_t> draw(0, distinct - 1);
    Array<int32_t> values(size);
    for (int64_t i = 0; i < size; ++i) values[i] = draw(generator);
    return values;
}

// codes[groups, pixels], equal codes within a scope of so many pixels share a cluster.
inline Clusters cluster(Array<int32_t>& codes, int64_t groups, int64_t pixels, int64_t scope) {
    std::vector<int64_t> starts;
    Clusters made{Array<int32_t>(groups * pixels), Array<int32_t>(groups * pixels), Array<int64_t>(0),
                  Array<int64_t>(groups + 1), 0};
    int64_t placed = 0;
    for (int64_t g = 0; g < groups; ++g) {
        made.offsets[g] = static_cast<int64_t>(starts.size());
        for (int64_t from = 0; from < pixels; from += scope) {
            std::map<int32_t, std::vector<int64_t>> members;
            for (int64_t p = from; p < from + scope && p < pixels; ++p) members[codes[g * pixels + p]].push_back(p);
            for (const auto& [code, pixels_of] : members) {
                const auto id = static_cast<int32_t>(starts.size());
                starts.push_back(placed);
                for (const int64_t p : pixels_of) {
                    made.ids[g * pixels + p] = id;
                    made.order[placed++] = static_cast<int32_t>(p);
                }
            }
        }
    }
    made.count = static_cast<int64_t>(starts.size());
    made.offsets[groups] = made.count;
    made.starts = Array<int64_t>(made.count + 1);
    for (int64_t k = 0; k < made.count; ++k) made.starts[k] = starts[static_cast<std::size_t>(k)];
    made.starts[made.count] = placed;
    return made;
}

// ceil(channels / length): the pieces that a pixel is cut into.
inline int64_t pieces(int64_t channels, int64_t length) { return (channels + length - 1) / length; }

}  // namespace check
