// The kernels of hashed layers: hash families, tables, and single entries of products.
#include <algorithm>

#include "arrays.h"

namespace thrifty::bindings {
namespace {

// ---- hash families ----

void pack_signs(Array<const float, 2> projections, Array<const float, 2> thresholds, Array<int32_t, 2> codes) {
    const std::size_t tables = thresholds.shape(0), bits = thresholds.shape(1);
    require_between("bits", signed_size(bits), 1, 30);
    require_size(projections, "projections", 1, tables * bits, "tables * bits");
    require_size(codes, "codes", 0, projections.shape(0), "rows");
    require_size(codes, "codes", 1, tables, "tables");
    const auto kernel = thrifty::kernels().pack_signs;
    nb::gil_scoped_release nogil;
    kernel(projections.data(), signed_size(projections.shape(0)), signed_size(tables), signed_size(bits),
           thresholds.data(), codes.data());
}

void probe_signs(Array<const float, 2> projections, Array<const float, 2> thresholds, Array<const int32_t, 2> flips,
                 Array<int32_t, 3> codes) {
    const std::size_t tables = thresholds.shape(0), bits = thresholds.shape(1);
    require_between("bits", signed_size(bits), 1, 30);
    require_size(projections, "projections", 1, tables * bits, "tables * bits");
    require_size(codes, "codes", 0, projections.shape(0), "rows");
    require_size(codes, "codes", 1, tables, "tables");
    require_size(codes, "codes", 2, flips.shape(0), "probes");
    int32_t most = -1;
    for (std::size_t i = 0; i < flips.size(); ++i) most = std::max(most, flips.data()[i]);
    require(most < static_cast<int64_t>(bits), "flips: expected ranks below the " + std::to_string(bits) + " bits");
    const auto kernel = thrifty::kernels().probe_signs;
    nb::gil_scoped_release nogil;
    kernel(projections.data(), signed_size(projections.shape(0)), signed_size(tables), signed_size(bits),
           thresholds.data(), flips.data(), signed_size(flips.shape(0)), signed_size(flips.shape(1)), most + 1,
           codes.data());
}

void sparse_project(Array<const float, 2> x, Array<const int32_t, 2> index, Array<const float, 2> signs,
                    Array<float, 2> y) {
    require_size(signs, "signs", 0, index.shape(0), "planes");
    require_size(signs, "signs", 1, index.shape(1), "entries");
    require_size(y, "y", 0, x.shape(0), "rows");
    require_size(y, "y", 1, index.shape(0), "planes");
    require_below(index, "index", signed_size(x.shape(1)), "channels");
    const auto kernel = thrifty::kernels().sparse_project;
    nb::gil_scoped_release nogil;
    kernel(x.data(), signed_size(x.shape(0)), signed_size(x.shape(1)), index.data(), signs.data(),
           signed_size(index.shape(0)), signed_size(index.shape(1)), y.data());
}

void wta_hash(Array<const float, 2> x, Array<const int32_t, 3> index, int64_t attempts, Array<int32_t, 2> codes) {
    const std::size_t tables = index.shape(0), bins = index.shape(1), size = index.shape(2);
    require_between("attempts", attempts, 0, 1 << 20);
    require_between("bins", signed_size(bins), 1, 30);
    require_between("size of a bin", signed_size(size), 2, 1 << 15);
    double reach = 1;
    for (std::size_t k = 0; k < bins; ++k) reach *= static_cast<double>(size);
    require(reach <= 1 << 30, "index: expected at most 2^30 codes (size to the power of bins)");
    require_size(codes, "codes", 0, x.shape(0), "rows");
    require_size(codes, "codes", 1, tables, "tables");
    require_below(index, "index", signed_size(x.shape(1)), "channels");
    const auto kernel = thrifty::kernels().wta_hash;
    nb::gil_scoped_release nogil;
    kernel(x.data(), signed_size(x.shape(0)), signed_size(x.shape(1)), index.data(), signed_size(tables),
           signed_size(bins), signed_size(size), attempts, codes.data());
}

void min_hash(Array<const int64_t, 1> offsets, Array<const int64_t, 1> members, int64_t hashes, int64_t bits,
              uint64_t seed, Array<int32_t, 2> codes) {
    require_between("hashes", hashes, 1, 30);
    require_between("bits", bits, 1, 30 / hashes);
    require_size(offsets, "offsets", 0, codes.shape(0) + 1, "rows + 1");
    require_steps(offsets, "offsets", 0, signed_size(members.size()), "members");
    const auto kernel = thrifty::kernels().min_hash;
    nb::gil_scoped_release nogil;
    kernel(offsets.data(), members.data(), signed_size(codes.shape(0)), signed_size(codes.shape(1)), hashes, bits, seed,
           codes.data());
}

// ---- tables ----

void require_tables(const Array<const int32_t, 3>& slots, const Array<const int32_t, 2>& sizes) {
    require_size(sizes, "sizes", 0, slots.shape(0), "tables");
    require_size(sizes, "sizes", 1, slots.shape(1), "buckets");
}

void table_update(const Maybe<const int64_t, 1>& rows, int64_t first, Array<const int32_t, 2> fresh, bool fifo,
                  uint64_t seed, Array<int32_t, 3> slots, Array<int32_t, 2> sizes, Array<int32_t, 2> seen,
                  Array<int32_t, 2> codes) {
    const std::size_t tables = slots.shape(0), buckets = slots.shape(1), capacity = slots.shape(2);
    const std::size_t count = fresh.shape(0), classes = codes.shape(1);
    require(capacity >= 1, "slots: expected at least one slot a bucket");
    require(classes <= static_cast<std::size_t>(kMostPieces), "codes: expected at most 2^31 - 1 classes");
    require_size(fresh, "fresh", 1, tables, "tables");
    require_size(sizes, "sizes", 0, tables, "tables");
    require_size(sizes, "sizes", 1, buckets, "buckets");
    require_size(seen, "seen", 0, tables, "tables");
    require_size(seen, "seen", 1, buckets, "buckets");
    require_size(codes, "codes", 0, tables, "tables");
    if (rows) {
        require_size(*rows, "rows", 0, count, "rows of fresh");
        require_rows(*rows, "rows", classes, "classes");
    } else {
        require_between("first", first, 0, signed_size(classes));
        require(count <= classes - static_cast<std::size_t>(first), "fresh: expected no more rows than classes");
    }
    require_below(fresh, "fresh", signed_size(buckets), "buckets");
    const auto kernel = thrifty::kernels().table_update;
    nb::gil_scoped_release nogil;
    kernel(data_or_null(rows), fresh.data(), first, signed_size(count), signed_size(classes),
           signed_size(tables), signed_size(buckets), signed_size(capacity), fifo, seed, slots.data(), sizes.data(),
           seen.data(), codes.data());
}

void active_set(Array<const int32_t, 3> codes, Array<const int32_t, 3> slots, Array<const int32_t, 2> sizes,
                Array<const int64_t, 1> forced, int64_t limit, int64_t tail, uint64_t seed, Array<int32_t, 1> votes,
                Array<int64_t, 1> ids, Array<uint8_t, 1> drawn, Array<int64_t, 1> counts) {
    const int64_t classes = signed_size(votes.shape(0));
    require_tables(slots, sizes);
    require_size(codes, "codes", 1, slots.shape(0), "tables");
    require_between("limit", limit, 0, classes);
    require_between("tail", tail, 0, classes);
    const std::size_t most = static_cast<std::size_t>(std::min(classes, limit + tail + signed_size(forced.shape(0))));
    require_size(ids, "ids", 0, most, "classes chosen at most");
    require_size(drawn, "drawn", 0, most, "classes chosen at most");
    require_size(counts, "counts", 0, 2, "head and tail");
    require_below(codes, "codes", signed_size(slots.shape(1)), "buckets");
    require_rows(forced, "forced", votes.shape(0), "classes");
    const auto kernel = thrifty::kernels().active_set;
    nb::gil_scoped_release nogil;
    kernel(codes.data(), signed_size(codes.shape(0)), signed_size(codes.shape(1)), signed_size(codes.shape(2)),
           slots.data(), sizes.data(), signed_size(slots.shape(1)), signed_size(slots.shape(2)), classes, forced.data(),
           signed_size(forced.shape(0)), limit, tail, seed, votes.data(), ids.data(), drawn.data(), counts.data());
}

void row_candidates(Array<const int32_t, 3> codes, Array<const int32_t, 3> slots, Array<const int32_t, 2> sizes,
                    Array<int32_t, 2> ids, Array<int64_t, 1> found) {
    require_tables(slots, sizes);
    require_size(codes, "codes", 1, slots.shape(0), "tables");
    require_size(ids, "ids", 0, codes.shape(0), "rows");
    require_size(found, "found", 0, codes.shape(0), "rows");
    require_below(codes, "codes", signed_size(slots.shape(1)), "buckets");
    const auto kernel = thrifty::kernels().row_candidates;
    nb::gil_scoped_release nogil;
    kernel(codes.data(), signed_size(codes.shape(0)), signed_size(codes.shape(1)), signed_size(codes.shape(2)),
           slots.data(), sizes.data(), signed_size(slots.shape(1)), signed_size(slots.shape(2)),
           signed_size(ids.shape(1)), ids.data(), found.data());
}

void rank_top(Array<const float, 2> x, Array<const float, 2> weight, const Maybe<const float, 1>& bias,
              Array<const int32_t, 2> ids, Array<const int64_t, 1> found, Array<int64_t, 2> best,
              Array<float, 2> scores) {
    const std::size_t rows = x.shape(0), limit = ids.shape(1), k = best.shape(1);
    require_size(weight, "weight", 1, x.shape(1), "channels");
    if (bias) require_size(*bias, "bias", 0, weight.shape(0), "classes");
    require_size(ids, "ids", 0, rows, "rows");
    require_size(found, "found", 0, rows, "rows");
    require_size(best, "best", 0, rows, "rows");
    require_size(scores, "scores", 0, rows, "rows");
    require_size(scores, "scores", 1, k, "k");
    require(k >= 1, "best: expected at least one column");
    require_rows(found, "found", limit + 1, "columns of ids, and one");
    for (std::size_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < found.data()[r]; ++i) {
            const int32_t id = ids.data()[r * limit + static_cast<std::size_t>(i)];
            require(id >= 0 && static_cast<std::size_t>(id) < weight.shape(0),
                    "ids: holds values out of range: expected 0 to " + std::to_string(weight.shape(0)) +
                        " - 1 (classes)");
        }
    }
    const auto kernel = thrifty::kernels().rank_top;
    nb::gil_scoped_release nogil;
    kernel(x.data(), signed_size(rows), signed_size(x.shape(1)), weight.data(), data_or_null(bias),
           ids.data(), found.data(), signed_size(limit), signed_size(k), best.data(), scores.data());
}

// ---- single entries of products ----

void sampled_mm(Array<const float, 2> x, Array<const float, 2> weight, Array<const int64_t, 1> offsets,
                Array<const int32_t, 1> columns, Array<float, 1> y) {
    require_size(weight, "weight", 1, x.shape(1), "channels");
    require_size(offsets, "offsets", 0, x.shape(0) + 1, "rows + 1");
    require_size(y, "y", 0, columns.shape(0), "entries");
    require_steps(offsets, "offsets", 0, signed_size(columns.size()), "entries");
    require_below(columns, "columns", signed_size(weight.shape(0)), "classes");
    const auto kernel = thrifty::kernels().sampled_mm;
    nb::gil_scoped_release nogil;
    kernel(x.data(), signed_size(x.shape(0)), signed_size(x.shape(1)), weight.data(), offsets.data(), columns.data(),
           y.data());
}

void sparse_mm(Array<const int64_t, 1> offsets, Array<const int32_t, 1> columns, Array<const float, 1> values,
               Array<const float, 2> b, Array<float, 2> y) {
    require_size(offsets, "offsets", 0, y.shape(0) + 1, "rows + 1");
    require_size(values, "values", 0, columns.shape(0), "entries");
    require_size(b, "b", 1, y.shape(1), "channels");
    require_steps(offsets, "offsets", 0, signed_size(columns.size()), "entries");
    require_below(columns, "columns", signed_size(b.shape(0)), "rows of b");
    const auto kernel = thrifty::kernels().sparse_mm;
    nb::gil_scoped_release nogil;
    kernel(offsets.data(), columns.data(), values.data(), signed_size(y.shape(0)), b.data(), signed_size(b.shape(1)),
           y.data());
}

}  // namespace

void bind_lsh(nb::module_& m) {
    m.def("pack_signs", &pack_signs, "projections"_a.noconvert(), "thresholds"_a.noconvert(), "codes"_a.noconvert(),
          "Writes codes (rows, tables) of projections (rows, tables * bits) above thresholds (tables, bits).");
    m.def("probe_signs", &probe_signs, "projections"_a.noconvert(), "thresholds"_a.noconvert(), "flips"_a.noconvert(),
          "codes"_a.noconvert(), "Writes each row's own code and its neighbours, (rows, tables, probes).");
    m.def("sparse_project", &sparse_project, "x"_a.noconvert(), "index"_a.noconvert(), "signs"_a.noconvert(),
          "y"_a.noconvert(), "Writes the projections of x (rows, channels) on sparse sign vectors into y (rows, planes).");
    m.def("wta_hash", &wta_hash, "x"_a.noconvert(), "index"_a.noconvert(), "attempts"_a, "codes"_a.noconvert(),
          "Writes densified winner-take-all codes (rows, tables) of x for bins index (tables, bins, size).");
    m.def("min_hash", &min_hash, "offsets"_a.noconvert(), "members"_a.noconvert(), "hashes"_a, "bits"_a, "seed"_a,
          "codes"_a.noconvert(), "Writes minwise codes (rows, tables) of the sets members[offsets[r]:offsets[r + 1]].");
    m.def("table_update", &table_update, "rows"_a.noconvert().none(), "first"_a, "fresh"_a.noconvert(), "fifo"_a, "seed"_a,
          "slots"_a.noconvert(), "sizes"_a.noconvert(), "seen"_a.noconvert(), "codes"_a.noconvert(),
          "Puts rows (None: those from `first` on) into the buckets that fresh (rows, tables) names.");
    m.def("active_set", &active_set, "codes"_a.noconvert(), "slots"_a.noconvert(), "sizes"_a.noconvert(),
          "forced"_a.noconvert(), "limit"_a, "tail"_a, "seed"_a, "votes"_a.noconvert(), "ids"_a.noconvert(),
          "drawn"_a.noconvert(), "counts"_a.noconvert(), "Writes the classes that a batch computes; see the kernel.");
    m.def("row_candidates", &row_candidates, "codes"_a.noconvert(), "slots"_a.noconvert(), "sizes"_a.noconvert(),
          "ids"_a.noconvert(), "found"_a.noconvert(), "Writes the most voted classes of each row to ids (rows, limit).");
    m.def("rank_top", &rank_top, "x"_a.noconvert(), "weight"_a.noconvert(), "bias"_a.noconvert().none(), "ids"_a.noconvert(),
          "found"_a.noconvert(), "best"_a.noconvert(), "scores"_a.noconvert(),
          "Writes the best of each row's candidates and their scores, (rows, k).");
    m.def("sampled_mm", &sampled_mm, "x"_a.noconvert(), "weight"_a.noconvert(), "offsets"_a.noconvert(),
          "columns"_a.noconvert(), "y"_a.noconvert(), "Writes the named entries of x @ weight.T to y.");
    m.def("sparse_mm", &sparse_mm, "offsets"_a.noconvert(), "columns"_a.noconvert(), "values"_a.noconvert(),
          "b"_a.noconvert(), "y"_a.noconvert(), "Writes the product of a sparse matrix and b to y.");
}

}  // namespace thrifty::bindings
