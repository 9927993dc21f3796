// Puts rows into hash tables, or moves them from their old bucket to their new one.
//
// fresh[count, tables]: new codes of rows[count] (null: rows 0 .. count-1 counted from `first`).
// slots[tables, buckets, capacity], sizes and seen[tables, buckets], codes[tables, classes]; -1 in `codes` means absent.
// A full bucket keeps a uniform sample of all that was offered (Vitter's reservoir: the n-th offer replaces a random slot
// with probability capacity / n), or, with `fifo`, the last ones offered. Work is parted by table, in the order of rows
// within one, so the result depends on neither threads nor luck. Ids in slots are written as whole words: a reader
// that runs meanwhile may see an id twice or not at all, but never one that is no class.
#include "thrifty/kernels.h"
#include "thrifty/mix.h"

namespace thrifty::THRIFTY_ISA {
namespace {

inline void put(int32_t* slot, int32_t id) { __atomic_store_n(slot, id, __ATOMIC_RELAXED); }

constexpr int64_t kAhead = 8;

inline void touch(const int32_t* slots, const int32_t* sizes, const int32_t* seen, int64_t b, int64_t capacity) {
    for (int64_t at = 0; at < capacity; at += 16) __builtin_prefetch(slots + b * capacity + at, 1);
    __builtin_prefetch(sizes + b, 1);
    __builtin_prefetch(seen + b, 1);
}

// Takes `id` out of a bucket; in fifo order the others keep theirs.
inline void take_out(int32_t* bucket, int32_t* size, int32_t* seen, int32_t id, int32_t capacity, bool fifo) {
    *seen = *seen > 0 ? *seen - 1 : 0;
    for (int32_t i = 0; i < *size && i < capacity; ++i) {
        if (bucket[i] != id) continue;
        const int32_t last = (*size < capacity ? *size : capacity) - 1;
        if (fifo) {
            for (int32_t j = i; j < last; ++j) put(bucket + j, bucket[j + 1]);
        } else {
            put(bucket + i, bucket[last]);
        }
        __atomic_store_n(size, last, __ATOMIC_RELAXED);
        return;
    }
}

inline void put_in(int32_t* bucket, int32_t* size, int32_t* seen, int32_t id, int32_t capacity, bool fifo,
                   uint64_t random) {
    *seen += 1;
    if (*size >= 0 && *size < capacity) {
        put(bucket + *size, id);
        __atomic_store_n(size, *size + 1, __ATOMIC_RELAXED);
    } else if (fifo) {
        for (int32_t j = 0; j + 1 < capacity; ++j) put(bucket + j, bucket[j + 1]);
        put(bucket + capacity - 1, id);
    } else {
        const int64_t slot = draw_below(random, *seen);
        if (slot < capacity) put(bucket + slot, id);
    }
}

}  // namespace

void table_update(const int64_t* rows, const int32_t* fresh, int64_t first, int64_t count, int64_t classes,
                  int64_t tables, int64_t buckets, int64_t capacity, bool fifo, uint64_t seed, int32_t* slots,
                  int32_t* sizes, int32_t* seen, int32_t* codes) {
#pragma omp parallel for schedule(static) if (count * tables > 256)
    for (int64_t t = 0; t < tables; ++t) {
        const int64_t far = rows == nullptr ? 0 : 2 * kAhead;  // memory is asked for before it is needed
        for (int64_t i = 0; i < count; ++i) {
            if (far && i + far < count) __builtin_prefetch(codes + t * classes + rows[i + far]);
            if (i + kAhead < count) {
                const int64_t next = rows == nullptr ? first + i + kAhead : rows[i + kAhead];
                const int64_t from = codes[t * classes + next], to = fresh[(i + kAhead) * tables + t];
                if (from != to) {
                    touch(slots, sizes, seen, t * buckets + to, capacity);
                    if (from >= 0 && from < buckets) touch(slots, sizes, seen, t * buckets + from, capacity);
                }
            }
            const int64_t row = rows == nullptr ? first + i : rows[i];
            const int32_t id = static_cast<int32_t>(row), code = fresh[i * tables + t];
            int32_t* old = codes + t * classes + row;
            if (*old == code) continue;
            if (*old >= 0 && *old < buckets) {
                const int64_t b = t * buckets + *old;
                take_out(slots + b * capacity, sizes + b, seen + b, id, static_cast<int32_t>(capacity), fifo);
            }
            *old = code;
            const int64_t b = t * buckets + code;
            const uint64_t random = mix(seed ^ mix(static_cast<uint64_t>(b) << 32 | static_cast<uint32_t>(seen[b])));
            put_in(slots + b * capacity, sizes + b, seen + b, id, static_cast<int32_t>(capacity), fifo, random);
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
