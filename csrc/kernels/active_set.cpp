// The classes that a batch computes: those its rows' buckets name most often, those it must have, and a random tail.
//
// codes[rows, tables, probes] name buckets of slots[tables, buckets, capacity]; every visit of a class is a vote. The
// `limit` classes with the most votes are kept (among equals a run that starts at a place drawn from the seed), and all of
// `forced`: the head. `tail` classes are drawn uniformly, without replacement, from the others. Writes the chosen classes
// in ascending order to ids, whether each is of the tail to drawn, and the sizes of head and tail to counts[2].
// votes[classes] is scratch, zero before and after. Cost: one random access a slot visited, and classes / 64 words.
#include <cstring>

#include "thrifty/kernels.h"
#include "thrifty/mix.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int32_t kHead = -1, kTail = -2;

struct Chosen {
    int32_t* votes;
    uint64_t* marks;  // one bit a class
    int64_t count = 0;

    void add(int64_t id, int32_t kind) {
        votes[id] = kind;
        marks[id >> 6] |= static_cast<uint64_t>(1) << (id & 63);
        ++count;
    }
};

// Keeps the `limit` most voted of touched[0 .. n) and clears the votes of the others.
void keep_most_voted(const int32_t* touched, int64_t n, int64_t limit, uint64_t seed, Chosen& chosen) {
    int32_t* votes = chosen.votes;
    int32_t most = 0;
    for (int64_t i = 0; i < n; ++i) most = votes[touched[i]] > most ? votes[touched[i]] : most;
    Scratch<int64_t> histogram(most + 1);
    std::memset(histogram, 0, static_cast<std::size_t>(most + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < n; ++i) ++histogram[votes[touched[i]]];
    int32_t threshold = most;
    int64_t above = 0;
    while (threshold > 0 && above + histogram[threshold] <= limit) above += histogram[threshold--];
    int64_t ties = limit - above;
    const int64_t start = n > 0 ? draw_below(mix(seed), n) : 0;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t at = start + i < n ? start + i : start + i - n;
        const int64_t id = touched[at];
        const int32_t got = votes[id];
        if (got > threshold || (got == threshold && ties > 0)) {
            ties -= got == threshold;
            chosen.add(id, kHead);
        } else {
            votes[id] = 0;
        }
    }
}

// Writes the chosen classes in order, and leaves votes all zero.
void write_sorted(Chosen& chosen, int64_t words, int64_t* ids, uint8_t* drawn) {
    int64_t at = 0;
    for (int64_t w = 0; w < words; ++w) {
        for (uint64_t bits = chosen.marks[w]; bits != 0; bits &= bits - 1) {
            const int64_t id = w * 64 + __builtin_ctzll(bits);
            ids[at] = id;
            drawn[at++] = chosen.votes[id] == kTail;
            chosen.votes[id] = 0;
        }
    }
}

}  // namespace

void active_set(const int32_t* codes, int64_t rows, int64_t tables, int64_t probes, const int32_t* slots,
                const int32_t* sizes, int64_t buckets, int64_t capacity, int64_t classes, const int64_t* forced,
                int64_t forced_count, int64_t limit, int64_t tail, uint64_t seed, int32_t* votes, int64_t* ids,
                uint8_t* drawn, int64_t* counts) {
    const int64_t words = (classes + 63) / 64, visits = rows * tables * probes * capacity;
    Scratch<uint64_t> marks(words);
    Scratch<int32_t> touched(visits < classes ? visits : classes);
    std::memset(marks, 0, static_cast<std::size_t>(words) * sizeof(uint64_t));
    Chosen chosen{votes, marks};

    int64_t n = 0;
    for (int64_t i = 0; limit > 0 && i < rows * tables * probes; ++i) {
        const int64_t b = i / probes % tables * buckets + codes[i];
        const int32_t size = __atomic_load_n(sizes + b, __ATOMIC_RELAXED);
        const int32_t* bucket = slots + b * capacity;
        for (int32_t s = 0; s < size && s < capacity; ++s) {
            const int32_t id = __atomic_load_n(bucket + s, __ATOMIC_RELAXED);
            if (id < 0 || id >= classes) continue;  // tables of another layer: nothing is read or written elsewhere
            if (votes[id]++ == 0) touched[n++] = id;
        }
    }
    keep_most_voted(touched, n, limit, seed, chosen);
    for (int64_t i = 0; i < forced_count; ++i)
        if (votes[forced[i]] != kHead) chosen.add(forced[i], kHead);
    const int64_t head = chosen.count, left = classes - head;
    if (tail >= left) {  // nothing is left out, so nothing is estimated
        for (int64_t id = 0; id < classes; ++id)
            if (votes[id] == 0) chosen.add(id, kTail);
    } else {
        uint64_t counter = mix(seed ^ 0x7461696cu);
        while (chosen.count < head + tail) {
            const int64_t id = draw_below(mix(counter++), classes);
            if (votes[id] == 0) chosen.add(id, kTail);
        }
    }
    counts[0] = head;
    counts[1] = chosen.count - head;
    write_sorted(chosen, words, ids, drawn);
}

}  // namespace thrifty::THRIFTY_ISA
