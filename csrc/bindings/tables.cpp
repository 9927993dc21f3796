// The kernels of frozen inference by tables.
#include "arrays.h"

namespace thrifty::bindings {
namespace {

// The widest vector of the kernels, in int16 numbers: rows of a table begin at multiples of it.
constexpr std::size_t kRowUnit = 32;

bool level_codes(Array<const float, 2> x, Array<const float, 2> thresholds, int64_t length, int64_t bits,
                 Array<uint8_t, 2> codes) {
    if (length < 1 || bits < 1 || length > 8 || bits > 8 || length * bits > 8)
        throw std::invalid_argument("length and bits: expected a product of 1 to 8, got " + std::to_string(length) +
                                    " and " + std::to_string(bits));
    require_size(thresholds, "thresholds", 0, (std::size_t{1} << bits) - 1, "2^bits - 1");
    require_size(thresholds, "thresholds", 1, x.shape(1), "channels");
    require_size(codes, "codes", 0, x.shape(0), "pixels");
    require_size(codes, "codes", 1, pieces(x.shape(1), static_cast<std::size_t>(length)), "groups");
    const auto kernel = thrifty::kernels().level_codes;
    int32_t bad = 0;
    nb::gil_scoped_release nogil;
    kernel(x.data(), signed_size(x.shape(0)), signed_size(x.shape(1)), thresholds.data(), length, bits, codes.data(),
           &bad);
    return bad != 0;
}

void table_conv(Array<const int16_t, 4> table, Array<const float, 1> scale, Array<const float, 1> bias,
                Array<const uint8_t, 2> codes, const std::vector<int64_t>& numbers,
                const std::vector<int64_t>& pool_numbers, bool skip, bool relu, Array<float, 4> y) {
    const thrifty::Geometry geometry = geometry_of(numbers), pool = geometry_of(pool_numbers);
    if (pool.in_h != geometry.out_h || pool.in_w != geometry.out_w)
        throw std::invalid_argument("pool: must take the convolution's output, " + std::to_string(geometry.out_h) + " by " +
                                    std::to_string(geometry.out_w));
    if (2 * pool.pad_top > pool.kernel_h || 2 * pool.pad_left > pool.kernel_w || pool.dilation_h * pool.dilation_w != 1 ||
        (pool.out_h - 1) * pool.stride_h - pool.pad_top >= pool.in_h ||
        (pool.out_w - 1) * pool.stride_w - pool.pad_left >= pool.in_w)
        throw std::invalid_argument("pool: every window must see an output");
    const std::size_t width = table.shape(3), groups = codes.shape(1);
    if (width == 0 || width % kRowUnit != 0 || width > 128 || reinterpret_cast<uintptr_t>(table.data()) % 64 != 0)
        throw std::invalid_argument("table: expected rows of 32, 64, 96 or 128 numbers that begin at multiples of 64 bytes");
    if (groups == 0 || table.shape(2) % groups != 0 || table.shape(2) / groups > 256)
        throw std::invalid_argument("table: axis 2 has size " + std::to_string(table.shape(2)) + ", expected up to 256 " +
                                    "entries for each of " + std::to_string(groups) + " groups");
    const std::size_t entries = table.shape(2) / groups;
    require_size(table, "table", 0, (y.shape(3) + width - 1) / width, "blocks of outputs");
    require_size(table, "table", 1, static_cast<std::size_t>(geometry.kernel_h * geometry.kernel_w), "taps");
    require_size(scale, "scale", 0, y.shape(3), "outputs");
    require_size(bias, "bias", 0, y.shape(3), "outputs");
    require_size(y, "y", 1, static_cast<std::size_t>(pool.out_h), "pooled height");
    require_size(y, "y", 2, static_cast<std::size_t>(pool.out_w), "pooled width");
    const std::size_t pixels = static_cast<std::size_t>(geometry.in_h * geometry.in_w);
    require_size(codes, "codes", 0, y.shape(0) * pixels, "pixels of all images");
    std::size_t wrong = 0;
    for (std::size_t i = 0; entries < 256 && i < codes.size(); ++i) wrong += codes.data()[i] >= entries;
    if (wrong)
        throw std::invalid_argument("codes: holds values out of range: expected 0 to " + std::to_string(entries) +
                                    " - 1 (entries)");
    const auto kernel = thrifty::kernels().table_conv;
    nb::gil_scoped_release nogil;
    kernel(table.data(), scale.data(), bias.data(), codes.data(), &geometry, &pool, signed_size(y.shape(0)),
           signed_size(groups), signed_size(entries), signed_size(y.shape(3)), signed_size(width), skip, relu, y.data());
}

}  // namespace

void bind_tables(nb::module_& m) {
    m.def("level_codes", &level_codes, "x"_a.noconvert(), "thresholds"_a.noconvert(), "length"_a, "bits"_a,
          "codes"_a.noconvert(),
          "Writes the packed levels (pixels, groups) of x (pixels, channels); returns whether a value is not finite.");
    m.def("table_conv", &table_conv, "table"_a.noconvert(), "scale"_a.noconvert(), "bias"_a.noconvert(),
          "codes"_a.noconvert(), "geometry"_a, "pool"_a, "skip"_a, "relu"_a, "y"_a.noconvert(),
          "Writes y (images, height, width, outputs): sums of the rows of table (blocks, taps, groups * entries, width) "
          "that codes (pixels, groups) name, scaled, shifted and pooled.");
}

}  // namespace thrifty::bindings
