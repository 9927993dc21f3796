// Tables, active sets and rankings with adversarial sizes: contents against plain sets, under the sanitizers.
#include <cmath>
#include <map>
#include <set>

#include "problems.h"

namespace {

struct Tables {
    int64_t classes, tables, buckets, capacity;
    check::Array<int32_t> slots, sizes, seen, codes;

    Tables(int64_t n, int64_t t, int64_t b, int64_t c)
        : classes(n), tables(t), buckets(b), capacity(c), slots(t * b * c, 0), sizes(t * b, 0), seen(t * b, 0),
          codes(t * n, -1) {}

    void update(int64_t* rows, int32_t* fresh, int64_t count, bool fifo) {
        thrifty::kernels().table_update(rows, fresh, 0, count, classes, tables, buckets, capacity, fifo, 42, slots.data(),
                                        sizes.data(), seen.data(), codes.data());
    }

    void must_be_sound() {
        for (int64_t t = 0; t < tables; ++t) {
            std::map<int32_t, int32_t> offered;
            for (int64_t i = 0; i < classes; ++i) ++offered[codes[t * classes + i]];
            for (int64_t b = 0; b < buckets; ++b) {
                const int32_t size = sizes[t * buckets + b];
                CHECK(size >= 0 && size <= capacity);
                CHECK_EQUAL(seen[t * buckets + b], offered[static_cast<int32_t>(b)]);
                std::set<int32_t> met;
                for (int32_t s = 0; s < size; ++s) {
                    const int32_t id = slots[(t * buckets + b) * capacity + s];
                    CHECK(id >= 0 && id < classes && met.insert(id).second);
                    CHECK_EQUAL(codes[t * classes + id], b);
                }
            }
        }
    }
};

}  // namespace

THRIFTY_TEST(table_update_keeps_tables_sound) {
    for (const auto& [classes, tables, buckets, capacity] :
         {std::tuple<int64_t, int64_t, int64_t, int64_t>{1, 1, 1, 1}, {50, 3, 1, 7}, {400, 4, 16, 9}, {64, 2, 64, 1}}) {
        for (const bool fifo : {false, true}) {
            Tables made(classes, tables, buckets, capacity);
            check::Array<int32_t> fresh = check::whole(classes * tables, buckets, 1);
            made.update(nullptr, fresh.data(), classes, fifo);
            made.must_be_sound();
            for (unsigned turn = 0; turn < 4; ++turn) {
                check::Array<int64_t> rows((classes + 1) / 2);
                for (int64_t i = 0; i < rows.size(); ++i) rows[i] = classes - 1 - 2 * i < 0 ? 0 : classes - 1 - 2 * i;
                fresh = check::whole(rows.size() * tables, buckets, turn + 2);
                made.update(rows.data(), fresh.data(), rows.size(), fifo);
                made.must_be_sound();
            }
        }
    }
}

THRIFTY_TEST(table_update_does_not_depend_on_threads) {
    check::Array<int32_t> fresh = check::whole(3000 * 5, 32, 3);
    Tables one(3000, 5, 32, 20), four(3000, 5, 32, 20);
    check::with_threads(1, [&] { one.update(nullptr, fresh.data(), 3000, false); });
    check::with_threads(4, [&] { four.update(nullptr, fresh.data(), 3000, false); });
    CHECK(one.slots == four.slots && one.sizes == four.sizes && one.codes == four.codes);
}

THRIFTY_TEST(active_set_has_the_forced_ones_and_no_repetition) {
    Tables made(500, 3, 16, 40);
    check::Array<int32_t> fresh = check::whole(500 * 3, 16, 1), looked = check::whole(7 * 3 * 2, 16, 2);
    made.update(nullptr, fresh.data(), 500, false);
    made.slots[3] = -9;  // what another layer's table might hold
    made.slots[4] = 500;
    check::Array<int64_t> forced(4);
    for (int64_t i = 0; i < 4; ++i) forced[i] = i % 2 ? 499 : 0;
    for (const auto& [limit, tail] : {std::pair<int64_t, int64_t>{0, 0}, {0, 500}, {30, 20}, {500, 500}, {1, 499}}) {
        const int64_t most = limit + tail + 4 < 500 ? limit + tail + 4 : 500;
        check::Array<int32_t> votes(500, 0);
        check::Array<int64_t> ids(most), counts(2);
        check::Array<uint8_t> drawn(most);
        thrifty::kernels().active_set(looked.data(), 7, 3, 2, made.slots.data(), made.sizes.data(), 16, 40, 500,
                                      forced.data(), 4, limit, tail, 11, votes.data(), ids.data(), drawn.data(),
                                      counts.data());
        const int64_t all = counts[0] + counts[1];
        CHECK(all <= most && counts[0] >= 2 && counts[0] <= limit + 2);
        CHECK(ids[0] == 0 && ids[all - 1] == 499);
        for (int64_t i = 1; i < all; ++i) CHECK(ids[i] > ids[i - 1]);
        for (int64_t i = 0; i < 500; ++i) CHECK_EQUAL(votes[i], 0);
    }
}

THRIFTY_TEST(row_candidates_and_rank_top_agree_with_plain_loops) {
    Tables made(300, 4, 8, 30);
    check::Array<int32_t> fresh = check::whole(300 * 4, 8, 1), looked = check::whole(5 * 4 * 3, 8, 2);
    made.update(nullptr, fresh.data(), 300, false);
    made.slots[0] = -1;
    for (const int64_t limit : {1, 17, 300}) {
        check::Array<int32_t> ids(5 * limit, -7);
        check::Array<int64_t> found(5);
        thrifty::kernels().row_candidates(looked.data(), 5, 4, 3, made.slots.data(), made.sizes.data(), 8, 30, limit,
                                          ids.data(), found.data());
        const int64_t channels = 19, k = 6;
        check::Array<float> x = check::normal(5 * channels, 3), weight = check::normal(300 * channels, 4);
        check::Array<float> bias = check::normal(300, 5), scores(5 * k);
        check::Array<int64_t> best(5 * k);
        thrifty::kernels().rank_top(x.data(), 5, channels, weight.data(), bias.data(), ids.data(), found.data(), limit, k,
                                    best.data(), scores.data());
        for (int64_t r = 0; r < 5; ++r) {
            std::set<int32_t> met;
            std::multiset<float> wanted;
            for (int64_t i = 0; i < found[r]; ++i) {
                const int32_t id = ids[r * limit + i];
                CHECK(id >= 0 && id < 300 && met.insert(id).second);
                double sum = bias[id];
                for (int64_t c = 0; c < channels; ++c)
                    sum += static_cast<double>(x[r * channels + c]) * static_cast<double>(weight[id * channels + c]);
                wanted.insert(static_cast<float>(sum));
            }
            int64_t at = 0;
            for (auto value = wanted.rbegin(); value != wanted.rend() && at < k; ++value, ++at)
                CHECK_NEAR(scores[r * k + at], *value, 1e-4);
            for (; at < k; ++at) CHECK(best[r * k + at] == -1 && std::isinf(scores[r * k + at]));
        }
    }
}

THRIFTY_TEST(products_of_single_entries_agree_with_plain_loops) {
    for (const int64_t channels : {0, 1, 15, 16, 17, 130}) {
        check::Array<int64_t> offsets(4, 0);
        offsets[2] = 5, offsets[3] = 8;  // row 0 is empty
        check::Array<int32_t> columns = check::whole(8, 6, 9);
        check::Array<float> x = check::normal(3 * channels, 1), weight = check::normal(6 * channels, 2), y(8, NAN);
        check::Array<float> values = check::normal(8, 3), sums(3 * channels, NAN);
        thrifty::kernels().sampled_mm(x.data(), 3, channels, weight.data(), offsets.data(), columns.data(), y.data());
        thrifty::kernels().sparse_mm(offsets.data(), columns.data(), values.data(), 3, weight.data(), channels, sums.data());
        for (int64_t r = 0; r < 3; ++r) {
            for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
                double sum = 0;
                for (int64_t c = 0; c < channels; ++c)
                    sum += static_cast<double>(x[r * channels + c]) * static_cast<double>(weight[columns[i] * channels + c]);
                CHECK_NEAR(y[i], sum, 1e-4);
            }
            for (int64_t c = 0; c < channels; ++c) {
                double sum = 0;
                for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i)
                    sum += static_cast<double>(values[i]) * static_cast<double>(weight[columns[i] * channels + c]);
                CHECK_NEAR(sums[r * channels + c], sum, 1e-4);
            }
        }
    }
}
