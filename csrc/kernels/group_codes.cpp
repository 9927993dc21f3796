// Hash codes -> compact clusters, with the members of each in order: a radix sort per group and scope.
//
// codes[groups, pixels] (non-negative) -> ids[groups, pixels], order[groups, pixels], starts[clusters + 1],
// offsets[groups + 1], *clusters. Clusters are numbered by group, then scope, then code; members ascend, so the result
// does not depend on the number of threads. Moves 16 bytes per piece and pass; one pass per 11 bits of code.
#include "thrifty/kernels.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int kDigitBits = 11;
constexpr int64_t kBuckets = 1 << kDigitBits;
constexpr int64_t kSmall = 24;  // below, insertion beats clearing the buckets

// Sorts `count` items (code << 32 | pixel) by code, stably; returns whichever buffer holds the result.
uint64_t* sort_items(uint64_t* items, uint64_t* spare, int64_t count, uint32_t all_codes, int64_t* buckets) {
    if (count <= kSmall) {
        for (int64_t i = 1; i < count; ++i) {
            const uint64_t item = items[i];
            int64_t at = i;
            for (; at > 0 && items[at - 1] > item; --at) items[at] = items[at - 1];
            items[at] = item;
        }
        return items;
    }
    for (int shift = 0; shift < 32 && (all_codes >> shift) != 0; shift += kDigitBits) {
        for (int64_t b = 0; b < kBuckets; ++b) buckets[b] = 0;
        const int at = 32 + shift;
        for (int64_t i = 0; i < count; ++i) ++buckets[(items[i] >> at) & (kBuckets - 1)];
        int64_t sum = 0;
        for (int64_t b = 0; b < kBuckets; ++b) {
            const int64_t size = buckets[b];
            buckets[b] = sum;
            sum += size;
        }
        for (int64_t i = 0; i < count; ++i) spare[buckets[(items[i] >> at) & (kBuckets - 1)]++] = items[i];
        uint64_t* swapped = items;
        items = spare;
        spare = swapped;
    }
    return items;
}

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace

void group_codes(const int32_t* codes, int64_t groups, int64_t pixels, int64_t scope, int32_t* ids, int32_t* order,
                 int64_t* starts, int64_t* offsets, int64_t* clusters) {
    const int64_t scopes = pixels / scope + (pixels % scope != 0);  // scope may be anything from 1 on
    const int64_t longest = smaller(scope, pixels);
    const int64_t tasks = groups * scopes;
#ifdef _OPENMP
    const int64_t threads = omp_get_max_threads();
#else
    const int64_t threads = 1;
#endif
    Scratch<uint64_t> items_of(threads * 2 * longest);
    Scratch<int64_t> buckets_of(threads * kBuckets);
    Scratch<int64_t> first_id(tasks + 1);  // of each task; first the count of its clusters

#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast<int>(threads))
    for (int64_t task = 0; task < tasks; ++task) {
#ifdef _OPENMP
        const int64_t thread = omp_get_thread_num();
#else
        const int64_t thread = 0;
#endif
        const int64_t g = task / scopes, from = (task % scopes) * scope;
        const int64_t count = smaller(scope, pixels - from);
        const int32_t* group = codes + g * pixels;
        uint64_t* items = items_of + thread * 2 * longest;
        uint32_t all_codes = 0;
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t code = static_cast<uint32_t>(group[from + i]);
            all_codes |= code;
            items[i] = static_cast<uint64_t>(code) << 32 | static_cast<uint64_t>(from + i);
        }
        const uint64_t* sorted = sort_items(items, items + longest, count, all_codes, buckets_of + thread * kBuckets);
        int64_t rank = -1;
        uint64_t last = 0;
        for (int64_t i = 0; i < count; ++i) {
            const uint64_t code = sorted[i] >> 32;
            if (i == 0 || code != last) ++rank;
            last = code;
            const int64_t pixel = static_cast<int64_t>(sorted[i] & 0xffffffffu);
            order[g * pixels + from + i] = static_cast<int32_t>(pixel);
            ids[g * pixels + pixel] = static_cast<int32_t>(rank);  // within the task, until the totals are known
        }
        first_id[task] = rank + 1;
    }

    int64_t total = 0;
    for (int64_t task = 0; task < tasks; ++task) {
        if (task % scopes == 0) offsets[task / scopes] = total;
        const int64_t count = first_id[task];
        first_id[task] = total;
        total += count;
    }
    if (pixels == 0)
        for (int64_t g = 0; g < groups; ++g) offsets[g] = 0;
    offsets[groups] = total;
    starts[total] = groups * pixels;
    *clusters = total;

#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t g = task / scopes, from = (task % scopes) * scope;
        const int64_t count = smaller(scope, pixels - from), first = first_id[task];
        int64_t last = -1;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t at = g * pixels + from + i;
            int32_t* id = ids + g * pixels + order[at];
            *id += static_cast<int32_t>(first);
            if (*id != last) starts[*id] = at;
            last = *id;
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
