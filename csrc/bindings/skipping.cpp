// The kernels that multiply nonzeros, and the ReLU and pool that make them.
#include "arrays.h"

namespace thrifty::bindings {
namespace {

int64_t count_nonzeros(Array<const float, 2> x, int64_t step) {
    if (step < 1) throw std::invalid_argument("step: expected at least one row, got " + std::to_string(step));
    const auto kernel = thrifty::kernels().count_nonzeros;
    int64_t count = 0;
    nb::gil_scoped_release nogil;
    kernel(x.data(), signed_size(x.shape(0)), signed_size(x.shape(1)), step, &count);
    return count;
}

void skip_conv(Array<const float, 4> x, Array<const float, 3> weight, Array<const float, 1> bias,
               const std::vector<int64_t>& numbers, double share, Array<float, 4> y) {
    const thrifty::Geometry geometry = geometry_of(numbers);
    require_size(weight, "weight", 1, static_cast<std::size_t>(geometry.kernel_h * geometry.kernel_w), "taps");
    require_map(x, "x", geometry, true, weight.shape(2));
    require_map(y, "y", geometry, false, weight.shape(0));
    require_size(y, "y", 0, x.shape(0), "images");
    require_size(bias, "bias", 0, weight.shape(0), "outputs");
    const auto kernel = thrifty::kernels().skip_conv;
    nb::gil_scoped_release nogil;
    kernel(x.data(), weight.data(), bias.data(), &geometry, signed_size(x.shape(0)), signed_size(weight.shape(0)),
           signed_size(weight.shape(2)), share, y.data());
}

// The eight numbers of thrifty.ops.geometry.Pool, checked against the map that is pooled: every window sees a pixel.
thrifty::Pool pool_of(const std::vector<int64_t>& n, int64_t height, int64_t width) {
    if (n.size() != 8) throw std::invalid_argument("pool: expected 8 numbers, got " + std::to_string(n.size()));
    const thrifty::Pool p{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]};
    const auto fits = [](int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad) {
        return out >= 1 && kernel >= 1 && stride >= 1 && pad >= 0 && pad < kernel && kernel <= 255 && out <= size + pad &&
               stride <= kMostPieces && (out - 1) * stride - pad < size;
    };
    if (!fits(height, p.out_h, p.kernel_h, p.stride_h, p.pad_h) || !fits(width, p.out_w, p.kernel_w, p.stride_w, p.pad_w) ||
        p.kernel_h * p.kernel_w > 255)
        throw std::invalid_argument("pool: a window is out of range: larger than 255 pixels, or beyond the map");
    return p;
}

// T is float, or uint16_t for the bits of bfloat16.
template <typename T>
void relu_pool(Array<const T, 4> y, const std::vector<int64_t>& numbers, Array<T, 4> out, Array<uint8_t, 4> index) {
    const thrifty::Pool pool = pool_of(numbers, signed_size(y.shape(1)), signed_size(y.shape(2)));
    require_size(out, "out", 0, y.shape(0), "images");
    require_size(out, "out", 1, static_cast<std::size_t>(pool.out_h), "height");
    require_size(out, "out", 2, static_cast<std::size_t>(pool.out_w), "width");
    require_size(out, "out", 3, y.shape(3), "channels");
    for (std::size_t axis = 0; axis < 4; ++axis) require_size(index, "index", axis, out.shape(axis), "as out");
    const auto kernel = thrifty::kernels().relu_pool;
    nb::gil_scoped_release nogil;
    kernel(y.data(), sizeof(T) == 2, signed_size(y.shape(0)), signed_size(y.shape(1)), signed_size(y.shape(2)),
           signed_size(y.shape(3)), &pool, out.data(), index.data());
}

// What comes back to a map of height x width x channels; the sizes of its arrays must fit.
thrifty::Source source_of(const Array<const float, 4>& gradient, const Maybe<const float, 4>& output,
                          const Maybe<const uint8_t, 4>& index, const std::vector<int64_t>& pool, int64_t height,
                          int64_t width, std::size_t channels) {
    thrifty::Source source{gradient.data(), data_or_null(output), data_or_null(index), {}};
    if (index) {
        if (!output) throw std::invalid_argument("index: given without output");
        source.pool = pool_of(pool, height, width);
        height = source.pool.out_h, width = source.pool.out_w;
        for (std::size_t axis = 0; axis < 4; ++axis) require_size(*index, "index", axis, gradient.shape(axis), "as gradient");
    }
    require_size(gradient, "gradient", 1, static_cast<std::size_t>(height), "height");
    require_size(gradient, "gradient", 2, static_cast<std::size_t>(width), "width");
    require_size(gradient, "gradient", 3, channels, "channels");
    for (std::size_t axis = 0; output && axis < 4; ++axis)
        require_size(*output, "output", axis, gradient.shape(axis), "as gradient");
    return source;
}

// T is float, or uint16_t for the bits of bfloat16.
template <typename T>
void relu_unpool(Array<const float, 4> gradient, Array<const float, 4> output, const Maybe<const uint8_t, 4>& index,
                 const std::vector<int64_t>& pool, Array<T, 4> y) {
    const int64_t height = signed_size(y.shape(1)), width = signed_size(y.shape(2));
    const thrifty::Source source = source_of(gradient, output, index, pool, height, width, y.shape(3));
    require_size(gradient, "gradient", 0, y.shape(0), "images");
    const auto kernel = thrifty::kernels().relu_unpool;
    nb::gil_scoped_release nogil;
    kernel(&source, sizeof(T) == 2, signed_size(y.shape(0)), height, width, signed_size(y.shape(3)), y.data());
}

void skip_conv_backward(Array<const float, 4> gradient, const Maybe<const float, 4>& output,
                        const Maybe<const uint8_t, 4>& index, const std::vector<int64_t>& pool,
                        Array<const float, 4> x, Array<const float, 3> weight, const std::vector<int64_t>& numbers,
                        double share, const Maybe<float, 4>& dx, const Maybe<float, 3>& dw, const Maybe<float, 1>& db) {
    const thrifty::Geometry geometry = geometry_of(numbers);
    require_size(weight, "weight", 1, static_cast<std::size_t>(geometry.kernel_h * geometry.kernel_w), "taps");
    require_map(x, "x", geometry, true, weight.shape(2));
    const int64_t seen_h = (geometry.out_h - 1) * geometry.stride_h + (geometry.kernel_h - 1) * geometry.dilation_h + 1;
    const int64_t seen_w = (geometry.out_w - 1) * geometry.stride_w + (geometry.kernel_w - 1) * geometry.dilation_w + 1;
    if (seen_h > kMostPieces / seen_w)
        throw std::invalid_argument("geometry: the outputs of an image see more than 2^31 - 1 pixels");
    if (signed_size(weight.shape(0)) > kMostPieces / geometry.out_w)
        throw std::invalid_argument("weight: a line of outputs has more than 2^31 - 1 values");
    const thrifty::Source source =
        source_of(gradient, output, index, pool, geometry.out_h, geometry.out_w, weight.shape(0));
    require_size(gradient, "gradient", 0, x.shape(0), "images");
    for (std::size_t axis = 0; dx && axis < 4; ++axis) require_size(*dx, "dx", axis, x.shape(axis), "as x");
    for (std::size_t axis = 0; dw && axis < 3; ++axis) require_size(*dw, "dw", axis, weight.shape(axis), "as weight");
    if (db) require_size(*db, "db", 0, weight.shape(0), "outputs");
    const auto kernel = thrifty::kernels().skip_conv_backward;
    nb::gil_scoped_release nogil;
    kernel(&source, x.data(), weight.data(), &geometry, signed_size(x.shape(0)), signed_size(weight.shape(0)),
           signed_size(weight.shape(2)), share, data_or_null(dx), data_or_null(dw), data_or_null(db));
}

}  // namespace

void bind_skipping(nb::module_& m) {
    m.def("count_nonzeros", &count_nonzeros, "x"_a.noconvert(), "step"_a,
          "How many values of every step-th row of x (rows, width) are not zero.");
    m.def("relu_pool_bf16", &relu_pool<uint16_t>, "y"_a.noconvert(), "pool"_a, "out"_a.noconvert(),
          "index"_a.noconvert(), "As relu_pool, for bfloat16 given as its bits, uint16.");
    m.def("relu_pool", &relu_pool<float>, "y"_a.noconvert(), "pool"_a, "out"_a.noconvert(), "index"_a.noconvert(),
          "Writes the max pool of ReLU(y), y (images, height, width, channels), into out, and where in its window each "
          "maximum lies into index.");
    m.def("relu_unpool", &relu_unpool<float>, "gradient"_a.noconvert(), "output"_a.noconvert(),
          "index"_a.noconvert().none(), "pool"_a, "y"_a.noconvert(),
          "Writes what comes back through a ReLU with this output, and a max pool with this index, into y.");
    m.def("relu_unpool_bf16", &relu_unpool<uint16_t>, "gradient"_a.noconvert(), "output"_a.noconvert(),
          "index"_a.noconvert().none(), "pool"_a, "y"_a.noconvert(),
          "As relu_unpool, into bfloat16 given as its bits, uint16.");
    m.def("skip_conv", &skip_conv, "x"_a.noconvert(), "weight"_a.noconvert(), "bias"_a.noconvert(), "geometry"_a,
          "share"_a, "y"_a.noconvert(),
          "Writes the convolution of x (images, height, width, channels) with weight (outputs, taps, channels) into y, by "
          "the nonzeros of x.");
    m.def("skip_conv_backward", &skip_conv_backward, "gradient"_a.noconvert(), "output"_a.noconvert().none(),
          "index"_a.noconvert().none(), "pool"_a, "x"_a.noconvert(), "weight"_a.noconvert(), "geometry"_a,
          "share"_a, "dx"_a.noconvert().none(), "dw"_a.noconvert().none(), "db"_a.noconvert().none(),
          "Writes those of a convolution's gradients that are not None, by the nonzeros of its output's gradient; with "
          "output, of what a ReLU let through; with index too, of what a max pool had chosen.");
}

}  // namespace thrifty::bindings
