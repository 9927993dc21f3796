// The classes in the buckets of each row, each once: the `limit` with the most votes, for rows that choose by themselves.
//
// codes[rows, tables, probes] name buckets of slots[tables, buckets, capacity] -> ids[rows, limit], found[rows]; of equals
// those met first stay. Counting is done in a small hash table a thread, so nothing depends on the number of classes.
#include <omp.h>

#include <cstring>

#include "thrifty/kernels.h"
#include "thrifty/mix.h"

namespace thrifty::THRIFTY_ISA {
namespace {

struct Counter {
    int32_t* keys;   // -1 where free
    int32_t* votes;  // beside keys
    int32_t* met;    // places in keys, in the order in which they were taken
    int64_t mask;
    int64_t count = 0;

    void vote(int32_t id) {
        int64_t at = static_cast<int64_t>(mix(static_cast<uint64_t>(id))) & mask;
        while (keys[at] >= 0 && keys[at] != id) at = (at + 1) & mask;
        if (keys[at] < 0) {
            keys[at] = id;
            votes[at] = 0;
            met[count++] = static_cast<int32_t>(at);
        }
        ++votes[at];
    }
};

// Writes the most voted ids in the order they were met; votes are at most `most`. Returns how many.
int64_t write_most_voted(const Counter& counter, int64_t limit, int64_t most, int64_t* histogram, int32_t* ids) {
    int64_t threshold = 0, ties = 0;
    if (counter.count > limit) {
        std::memset(histogram, 0, static_cast<std::size_t>(most + 1) * sizeof(int64_t));
        for (int64_t i = 0; i < counter.count; ++i) ++histogram[counter.votes[counter.met[i]]];
        int64_t above = 0;
        threshold = most;
        while (threshold > 0 && above + histogram[threshold] <= limit) above += histogram[threshold--];
        ties = limit - above;
    }
    int64_t n = 0;
    for (int64_t i = 0; i < counter.count; ++i) {
        const int32_t at = counter.met[i], got = counter.votes[at];
        if (got > threshold || (got == threshold && ties-- > 0)) ids[n++] = counter.keys[at];
    }
    return n;
}

}  // namespace

void row_candidates(const int32_t* codes, int64_t rows, int64_t tables, int64_t probes, const int32_t* slots,
                    const int32_t* sizes, int64_t buckets, int64_t capacity, int64_t limit, int32_t* ids,
                    int64_t* found) {
    const int64_t most = tables * probes, visits = most * capacity;
    int64_t places = 64;
    while (places < 2 * visits) places *= 2;
    const int64_t threads = rows * visits > 1 << 12 ? omp_get_max_threads() : 1;
    Scratch<int32_t> keys(threads * places), votes(threads * places), met(threads * (visits + 1));
    Scratch<int64_t> histogram(threads * (most + 1));
    std::memset(keys, 0xff, static_cast<std::size_t>(threads * places) * sizeof(int32_t));
    int32_t *keys_at = keys, *votes_at = votes, *met_at = met;
    int64_t* histogram_at = histogram;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads))
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t me = omp_get_thread_num();
        Counter counter{keys_at + me * places, votes_at + me * places, met_at + me * (visits + 1), places - 1};
        for (int64_t i = 0; i < most; ++i) {
            const int64_t b = i / probes * buckets + codes[r * most + i];
            const int32_t size = __atomic_load_n(sizes + b, __ATOMIC_RELAXED);
            for (int32_t s = 0; s < size && s < capacity; ++s) {
                const int32_t id = __atomic_load_n(slots + b * capacity + s, __ATOMIC_RELAXED);
                if (id >= 0) counter.vote(id);
            }
        }
        // A class is in one bucket of a table, but a reader beside a writer may meet it in two.
        for (int64_t i = 0; i < counter.count; ++i) {
            int32_t& got = counter.votes[counter.met[i]];
            got = got < most ? got : static_cast<int32_t>(most);
        }
        found[r] = write_most_voted(counter, limit, most, histogram_at + me * (most + 1), ids + r * limit);
        for (int64_t i = 0; i < counter.count; ++i) counter.keys[counter.met[i]] = -1;
    }
}

}  // namespace thrifty::THRIFTY_ISA
