// The kernels of hashing, clusters, and the products of clusters.
#include "arrays.h"

namespace thrifty::bindings {
namespace {

void channel_moments(Array<const float, 2> x, Array<double, 1> sum, Array<double, 1> sumsq) {
    require_size(sum, "sum", 0, x.shape(1), "channels");
    require_size(sumsq, "sumsq", 0, x.shape(1), "channels");
    const auto kernel = thrifty::kernels().channel_moments;
    nb::gil_scoped_release nogil;
    kernel(x.data(), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)), sum.data(), sumsq.data());
}

void cluster_mean(Array<const float, 2> x, Array<const int32_t, 2> order, Array<const int64_t, 1> starts,
                  Array<const int64_t, 1> offsets, Array<float, 2> centroids) {
    const std::size_t groups = pieces(x.shape(1), centroids.shape(1));
    require_size(order, "order", 0, groups, "groups");
    require_size(order, "order", 1, x.shape(0), "pixels");
    require_size(offsets, "offsets", 0, groups + 1, "groups + 1");
    require_size(starts, "starts", 0, centroids.shape(0) + 1, "clusters + 1");
    require_below(order, "order", signed_size(x.shape(0)), "pixels");
    require_steps(starts, "starts", 1, signed_size(order.size()), "pieces");
    require_steps(offsets, "offsets", 0, signed_size(centroids.shape(0)), "clusters");
    const auto kernel = thrifty::kernels().cluster_mean;
    nb::gil_scoped_release nogil;
    kernel(x.data(), signed_size(x.shape(1)), order.data(), starts.data(), offsets.data(), signed_size(groups),
           signed_size(centroids.shape(1)), centroids.data());
}

void cluster_spread(Array<const float, 2> c, Array<const int32_t, 2> ids, Array<const int64_t, 1> starts,
                    Array<float, 2> x) {
    require_size(ids, "ids", 0, pieces(x.shape(1), c.shape(1)), "groups");
    require_size(ids, "ids", 1, x.shape(0), "pixels");
    require_size(starts, "starts", 0, c.shape(0) + 1, "clusters + 1");
    require_below(ids, "ids", signed_size(c.shape(0)), "clusters");
    const auto kernel = thrifty::kernels().cluster_spread;
    nb::gil_scoped_release nogil;
    kernel(c.data(), ids.data(), starts.data(), signed_size(c.shape(0)), signed_size(ids.shape(0)),
           signed_size(x.shape(0)), signed_size(x.shape(1)), signed_size(c.shape(1)), x.data());
}

void gather_add(Array<const float, 3> table, Array<const float, 1> bias, Array<const int32_t, 2> ids,
                const std::vector<int64_t>& numbers, Array<float, 4> y) {
    const thrifty::Geometry geometry = geometry_of(numbers);
    require_size(table, "table", 1, static_cast<std::size_t>(geometry.kernel_h * geometry.kernel_w), "taps");
    require_size(table, "table", 2, y.shape(3), "outputs");
    require_size(bias, "bias", 0, y.shape(3), "outputs");
    require_size(y, "y", 1, static_cast<std::size_t>(geometry.out_h), "output height");
    require_size(y, "y", 2, static_cast<std::size_t>(geometry.out_w), "output width");
    require_images(ids, "ids", geometry, y.shape(0));
    require_below(ids, "ids", signed_size(table.shape(0)), "clusters");
    const auto kernel = thrifty::kernels().gather_add;
    nb::gil_scoped_release nogil;
    kernel(table.data(), bias.data(), ids.data(), &geometry, signed_size(y.shape(0)), signed_size(ids.shape(0)),
           signed_size(y.shape(3)), y.data());
}

int64_t group_codes(Array<const int32_t, 2> codes, int64_t scope, Array<int32_t, 2> ids, Array<int32_t, 2> order,
                    Array<int64_t, 1> starts, Array<int64_t, 1> offsets) {
    if (scope < 1) throw std::invalid_argument("scope: expected at least one pixel, got " + std::to_string(scope));
    for (std::size_t axis = 0; axis < 2; ++axis) {
        require_size(ids, "ids", axis, codes.shape(axis), "as codes");
        require_size(order, "order", axis, codes.shape(axis), "as codes");
    }
    if (signed_size(codes.size()) > kMostPieces)
        throw std::invalid_argument("codes: more than 2^31 - 1 pieces; use smaller batches");
    require_size(starts, "starts", 0, codes.size() + 1, "pieces + 1");
    require_size(offsets, "offsets", 0, codes.shape(0) + 1, "groups + 1");
    const auto kernel = thrifty::kernels().group_codes;
    int64_t clusters = 0;
    nb::gil_scoped_release nogil;
    kernel(codes.data(), signed_size(codes.shape(0)), signed_size(codes.shape(1)), scope, ids.data(), order.data(),
           starts.data(), offsets.data(), &clusters);
    return clusters;
}

void nearest_centroid(Array<const float, 2> x, Array<const float, 3> codebook, Array<int32_t, 2> codes) {
    const std::size_t groups = pieces(x.shape(1), codebook.shape(2));
    if (codebook.shape(1) == 0) throw std::invalid_argument("codebook: expected at least one entry");
    require_size(codebook, "codebook", 0, groups, "groups");
    require_size(codes, "codes", 0, groups, "groups");
    require_size(codes, "codes", 1, x.shape(0), "pixels");
    const auto kernel = thrifty::kernels().nearest_centroid;
    nb::gil_scoped_release nogil;
    kernel(x.data(), signed_size(x.shape(0)), signed_size(x.shape(1)), codebook.data(), signed_size(groups),
           signed_size(codebook.shape(1)), signed_size(codebook.shape(2)), codes.data());
}

void pull_sums(Array<const float, 4> y, Array<const int32_t, 2> order, Array<const int64_t, 1> starts,
               const std::vector<int64_t>& numbers, Array<float, 3> sums) {
    const thrifty::Geometry geometry = geometry_of(numbers);
    require_size(sums, "sums", 1, static_cast<std::size_t>(geometry.kernel_h * geometry.kernel_w), "taps");
    require_size(sums, "sums", 2, y.shape(3), "outputs");
    require_size(starts, "starts", 0, sums.shape(0) + 1, "clusters + 1");
    require_size(y, "y", 1, static_cast<std::size_t>(geometry.out_h), "output height");
    require_size(y, "y", 2, static_cast<std::size_t>(geometry.out_w), "output width");
    require_images(order, "order", geometry, y.shape(0));
    require_below(order, "order", signed_size(order.shape(1)), "pixels");
    require_steps(starts, "starts", 1, signed_size(order.size()), "pieces");
    const auto kernel = thrifty::kernels().pull_sums;
    nb::gil_scoped_release nogil;
    kernel(y.data(), order.data(), starts.data(), signed_size(sums.shape(0)), &geometry, signed_size(y.shape(3)),
           sums.data());
}

void sign_hash(Array<const float, 2> x, Array<const float, 3> planes, Array<const float, 2> thresholds,
               Array<int32_t, 2> codes) {
    const std::size_t groups = pieces(x.shape(1), planes.shape(1)), bits = planes.shape(2);
    if (bits < 1 || bits > 30) throw std::invalid_argument("planes: expected 1 to 30 bits, got " + std::to_string(bits));
    require_size(planes, "planes", 0, groups, "groups");
    require_size(thresholds, "thresholds", 0, groups, "groups");
    require_size(thresholds, "thresholds", 1, bits, "bits");
    require_size(codes, "codes", 0, groups, "groups");
    require_size(codes, "codes", 1, x.shape(0), "pixels");
    const auto kernel = thrifty::kernels().sign_hash;
    nb::gil_scoped_release nogil;
    kernel(x.data(), signed_size(x.shape(0)), signed_size(x.shape(1)), planes.data(), thresholds.data(),
           signed_size(groups), signed_size(planes.shape(1)), signed_size(bits), codes.data());
}

}  // namespace

void bind_clusters(nb::module_& m) {
    m.def("channel_moments", &channel_moments, "x"_a.noconvert(), "sum"_a.noconvert(), "sumsq"_a.noconvert(),
          "Writes the sum and the sum of squares over rows of x (rows, channels) float32 into sum and sumsq "
          "(channels,) float64.");
    m.def("cluster_mean", &cluster_mean, "x"_a.noconvert(), "order"_a.noconvert(), "starts"_a.noconvert(),
          "offsets"_a.noconvert(), "centroids"_a.noconvert(),
          "Writes the mean of every cluster's pieces of x (pixels, channels) into centroids (clusters, length).");
    m.def("cluster_spread", &cluster_spread, "c"_a.noconvert(), "ids"_a.noconvert(), "starts"_a.noconvert(),
          "x"_a.noconvert(), "Writes every member's share of c (clusters, length) into x (pixels, channels).");
    m.def("gather_add", &gather_add, "table"_a.noconvert(), "bias"_a.noconvert(), "ids"_a.noconvert(), "geometry"_a,
          "y"_a.noconvert(), "Writes y (images, height, width, outputs) from table (clusters, taps, outputs).");
    m.def("group_codes", &group_codes, "codes"_a.noconvert(), "scope"_a, "ids"_a.noconvert(), "order"_a.noconvert(),
          "starts"_a.noconvert(), "offsets"_a.noconvert(),
          "Clusters codes (groups, pixels) within scopes of so many pixels; returns the number of clusters.");
    m.def("nearest_centroid", &nearest_centroid, "x"_a.noconvert(), "codebook"_a.noconvert(), "codes"_a.noconvert(),
          "Writes the nearest entry of codebook (groups, entries, length) to every piece of x (pixels, channels).");
    m.def("pull_sums", &pull_sums, "y"_a.noconvert(), "order"_a.noconvert(), "starts"_a.noconvert(), "geometry"_a,
          "sums"_a.noconvert(), "Writes the sums of y over every cluster's members into sums (clusters, taps, outputs).");
    m.def("sign_hash", &sign_hash, "x"_a.noconvert(), "planes"_a.noconvert(), "thresholds"_a.noconvert(),
          "codes"_a.noconvert(), "Writes the hash codes (groups, pixels) of the pieces of x (pixels, channels).");
}

}  // namespace thrifty::bindings
