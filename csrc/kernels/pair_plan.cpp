// Buckets of gradients whose transfers, two in flight, are over before a limit, and no later than any others: the proof
// of thrifty/distributed/two_in_flight.py, which is its meaning.
//
// ready[n], startup[n + 1, n + 1], wire[n + 1, n + 1], limit -> counts[n], *buckets; *buckets is 0 when none is over by
// then. A state is a pair (p, q), the ends of the last two buckets. Of each prefix the states that no other beats are
// kept, and of these the ones from which the limit can be kept: they lie below a staircase, found from the end. One
// thread: 400 gradients take some milliseconds.
#include "thrifty/kernels.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int64_t kSteps = 4;  // of a staircase: more cost more than they spare

double larger(double a, double b) { return a > b ? a : b; }
double smaller(double a, double b) { return a < b ? a : b; }

// Pairs that no other is at or below in both numbers, by rising first and so by falling second number, and a mark each.
class Frontier {
public:
    Frontier() = default;
    ~Frontier() {
        delete[] first;
        delete[] second;
        delete[] mark;
    }
    Frontier(const Frontier&) = delete;
    Frontier& operator=(const Frontier&) = delete;

    void insert(double a, double b, int64_t of) {
        int64_t low = 0, high = size;  // to the first pair beyond a
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (first[middle] <= a) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if (low > 0 && second[low - 1] <= b) return;
        if (low > 0 && first[low - 1] == a) --low;
        int64_t end = low;
        while (end < size && second[end] >= b) ++end;
        if (end == low) {
            if (size == room) grow();
            for (int64_t k = size; k > low; --k) move(k - 1, k);
            ++size;
        } else if (end > low + 1) {
            for (int64_t k = end; k < size; ++k) move(k, k - end + low + 1);
            size -= end - low - 1;
        }
        first[low] = a;
        second[low] = b;
        mark[low] = of;
    }

    // Neighbours become one pair that is below both, where that gives away least, until `most` are left.
    void join(int64_t most) {
        while (size > most) {
            int64_t at = 0;
            double least = 0;
            for (int64_t k = 0; k + 1 < size; ++k) {
                const double lost = (first[k + 1] - first[k]) * (second[k] - second[k + 1]);
                if (k == 0 || lost < least) {
                    least = lost;
                    at = k;
                }
            }
            second[at] = second[at + 1];
            for (int64_t k = at + 2; k < size; ++k) move(k, k - 1);
            --size;
        }
    }

    double* first = nullptr;
    double* second = nullptr;
    int64_t* mark = nullptr;
    int64_t size = 0;

private:
    void move(int64_t from, int64_t to) {
        first[to] = first[from];
        second[to] = second[from];
        mark[to] = mark[from];
    }

    template <typename T>
    T* longer(T* old) {
        T* values = new T[static_cast<uint64_t>(2 * room)];
        for (int64_t k = 0; k < size; ++k) values[k] = old[k];
        delete[] old;
        return values;
    }

    void grow() {
        if (room == 0) room = 8;
        first = longer(first);
        second = longer(second);
        mark = longer(mark);
        room *= 2;
    }

    int64_t room = 0;
};

class Frontiers {
public:
    explicit Frontiers(int64_t count) : all_(new Frontier[static_cast<uint64_t>(count)]) {}
    ~Frontiers() { delete[] all_; }
    Frontiers(const Frontiers&) = delete;
    Frontiers& operator=(const Frontiers&) = delete;
    Frontier& operator[](int64_t i) const { return all_[i]; }

private:
    Frontier* all_;
};

struct Problem {
    const double* ready;
    const double* startup;
    const double* wire;
    int64_t n;

    double startup_of(int64_t i, int64_t j) const { return startup[i * (n + 1) + j]; }
    double wire_of(int64_t i, int64_t j) const { return wire[i * (n + 1) + j]; }
};

// The earliest p and q after each prefix, each by itself, with any number in flight.
void soonest(const Problem& of, double* first_p, double* first_q) {
    first_p[0] = first_q[0] = 0;
    for (int64_t j = 1; j <= of.n; ++j) {
        first_p[j] = first_q[j - 1];
        for (int64_t i = 0; i < j; ++i) {
            const double over = larger(of.ready[j - 1] + of.startup_of(i, j), first_q[i]) + of.wire_of(i, j);
            if (i == 0 || over < first_q[j]) first_q[j] = over;
            first_p[j] = smaller(first_p[j], first_q[i]);
        }
    }
}

// Of each prefix the steps below which the limit can be kept, or somewhat more: as pairs (-P, -Q) of a frontier.
void staircases(const Problem& of, double limit, const double* first_p, const double* first_q,
                const Frontiers& stairs) {
    stairs[of.n].insert(-__builtin_inf(), -limit, 0);
    for (int64_t i = of.n - 1; i >= 0; --i) {
        for (int64_t j = i + 1; j <= of.n; ++j) {
            const double begin = larger(of.ready[j - 1], first_p[i]), wire = of.wire_of(i, j);
            const double both = of.startup_of(i, j) + wire;
            const Frontier& after = stairs[j];
            for (int64_t k = after.size - 1; k >= 0; --k) {  // the largest Q first
                const double q = smaller(-after.first[k], -after.second[k] - wire), p = -after.second[k] - both;
                if (p < begin) break;
                if (q >= first_q[i]) stairs[i].insert(-p, -q, 0);
            }
        }
        stairs[i].join(kSteps);
    }
}

bool below(const Frontier& stairs, double p, double q) {
    for (int64_t k = stairs.size - 1; k >= 0 && q <= -stairs.second[k]; --k)
        if (p <= -stairs.first[k]) return true;
    return false;
}

}  // namespace

void pair_plan(const double* ready, const double* startup, const double* wire, int64_t n, double limit, int64_t* counts,
               int64_t* buckets) {
    const Problem of{ready, startup, wire, n};
    Scratch<double> first_p(n + 1), first_q(n + 1);
    const Frontiers stairs(n + 1), states(n + 1);
    soonest(of, first_p, first_q);
    staircases(of, limit, first_p, first_q, stairs);
    // The mark of a state is that of the prefix and of the state in it from which it came, in the two halves of a word.
    states[0].insert(0, 0, 0);
    for (int64_t j = 1; j <= n && stairs[0].size; ++j) {
        const Frontier& limits = stairs[j];
        if (limits.size == 0) continue;
        const double most_q = -limits.second[limits.size - 1], most_p = -limits.first[0];
        // What the next bucket waits for anyway: of what lies before it differences do not matter.
        double next_p = 0, next_q = 0;
        if (j < n) {
            next_p = ready[j];
            next_q = __builtin_inf();
            for (int64_t k = j + 1; k <= n; ++k) next_q = smaller(next_q, ready[j] + of.startup_of(j, k));
            if (j + 1 < n) next_q = smaller(next_q, ready[j + 1]);
        }
        for (int64_t i = 0; i < j; ++i) {
            const Frontier& before = states[i];
            const double start = of.startup_of(i, j), takes = of.wire_of(i, j);
            for (int64_t k = 0; k < before.size; ++k) {
                const double p = before.second[k], begun = larger(ready[j - 1], before.first[k]) + start;
                if (begun + takes > most_q) break;  // so do those behind it
                const double q = larger(begun, p) + takes;
                if (p > most_p || !below(limits, p, q)) continue;
                states[j].insert(larger(p, next_p), larger(q, next_q), i << 32 | k);
            }
        }
    }
    *buckets = 0;
    if (states[n].size) {
        int64_t j = n, at = states[n].size - 1;  // the least q
        while (j > 0) {
            const int64_t from = states[j].mark[at];
            counts[(*buckets)++] = j - (from >> 32);
            j = from >> 32;
            at = from & 0xffffffff;
        }
        for (int64_t k = 0; k < *buckets / 2; ++k) {
            const int64_t swapped = counts[k];
            counts[k] = counts[*buckets - 1 - k];
            counts[*buckets - 1 - k] = swapped;
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
