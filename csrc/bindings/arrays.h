// Arrays as they come from Python, and the checks by which a kernel may trust them.
//
// Arrays come in through DLPack and are never copied or converted: each array argument is `.noconvert()`, so a wrong
// dtype, rank, device or stride is a TypeError. Sizes that do not fit together are a ValueError raised before any
// output is written. The GIL is released while a kernel runs.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "thrifty/dispatch.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace thrifty::bindings {

// Each adds the functions of its file to the module.
void bind_clusters(nb::module_& m);
void bind_lsh(nb::module_& m);
void bind_optimizers(nb::module_& m);
void bind_plans(nb::module_& m);
void bind_skipping(nb::module_& m);
void bind_tables(nb::module_& m);

// A dense row-major array in CPU memory of dtype T and rank N; `const T` for inputs.
template <typename T, std::size_t N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::device::cpu, nb::c_contig>;

// Requires array.shape[axis] == expected, else ValueError: "sum: axis 0 has size 3, expected 4 (channels)".
template <typename A>
void require_size(const A& array, const char* name, std::size_t axis, std::size_t expected, const char* meaning) {
    if (array.shape(axis) == expected) return;
    throw std::invalid_argument(std::string(name) + ": axis " + std::to_string(axis) + " has size " +
                                std::to_string(array.shape(axis)) + ", expected " + std::to_string(expected) + " (" +
                                meaning + ")");
}

// Pixels, and clusters of all groups together, are numbered by int32.
constexpr int64_t kMostPieces = 0x7fffffff;

// The twelve numbers of thrifty.ops.geometry, checked so that a kernel can trust them: no sum of products of two overflows.
inline thrifty::Geometry geometry_of(const std::vector<int64_t>& n) {
    if (n.size() != 12) throw std::invalid_argument("geometry: expected 12 numbers, got " + std::to_string(n.size()));
    for (std::size_t i = 0; i < n.size(); ++i) {
        const bool padding = i == 8 || i == 9;
        if (n[i] < (padding ? 0 : 1) || n[i] > kMostPieces)
            throw std::invalid_argument("geometry: number " + std::to_string(i) + " is out of range: expected " +
                                        (padding ? "0" : "1") + " to 2^31 - 1, got " + std::to_string(n[i]));
    }
    for (std::size_t i = 0; i < 6; i += 2) {
        if (n[i] * n[i + 1] > kMostPieces)
            throw std::invalid_argument("geometry: " + std::to_string(n[i]) + " times " + std::to_string(n[i + 1]) +
                                        " is out of range: expected at most 2^31 - 1");
    }
    return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11]};
}

// Requires as many pixels, along axis 1, as so many images of this geometry have.
template <typename A>
void require_images(const A& array, const char* name, const thrifty::Geometry& geometry, std::size_t images) {
    const std::size_t pixels = static_cast<std::size_t>(geometry.in_h * geometry.in_w);
    if (array.shape(1) % pixels != 0 || array.shape(1) / pixels != images)
        throw std::invalid_argument(std::string(name) + ": axis 1 has size " + std::to_string(array.shape(1)) +
                                    ", expected " + std::to_string(images) + " images of " + std::to_string(pixels) +
                                    " pixels");
}

// Requires 0 <= value < below for all, else ValueError: a kernel would read, or write, elsewhere. One pass over what the
// kernel is about to read with much more beside it.
template <typename A>
void require_below(const A& array, const char* name, int64_t below, const char* meaning) {
    const int32_t* values = array.data();
    const uint32_t limit = static_cast<uint32_t>(below < kMostPieces ? below : kMostPieces);
    uint32_t wrong = 0;
    for (std::size_t i = 0; i < array.size(); ++i) wrong |= static_cast<uint32_t>(values[i]) >= limit;
    if (wrong)
        throw std::invalid_argument(std::string(name) + ": holds values out of range: expected 0 to " +
                                    std::to_string(below) + " - 1 (" + meaning + ")");
}

// Requires `condition`, else ValueError.
inline void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

inline void require_between(const char* name, int64_t value, int64_t least, int64_t most) {
    require(value >= least && value <= most, std::string(name) + ": expected " + std::to_string(least) + " to " +
                                                 std::to_string(most) + ", got " + std::to_string(value));
}

// As require_below, for 64-bit numbers.
template <typename A>
void require_rows(const A& array, const char* name, std::size_t below, const char* meaning) {
    bool wrong = false;
    for (std::size_t i = 0; i < array.size(); ++i) wrong |= static_cast<uint64_t>(array.data()[i]) >= below;
    require(!wrong, std::string(name) + ": holds values out of range: expected 0 to " + std::to_string(below) +
                        " - 1 (" + meaning + ")");
}

// Requires values that begin at zero, rise by at least `least` each, and end at `last`.
template <typename A>
void require_steps(const A& array, const char* name, int64_t least, int64_t last, const char* meaning) {
    const int64_t* values = array.data();
    bool wrong = values[0] != 0 || values[array.size() - 1] != last;
    for (std::size_t i = 1; i < array.size(); ++i) wrong |= values[i - 1] > last || values[i] < values[i - 1] + least;
    if (wrong)
        throw std::invalid_argument(std::string(name) + ": expected values that rise from 0 to " +
                                    std::to_string(last) + " (" + meaning + ")");
}

// ceil(channels / length): the pieces that a pixel is cut into.
inline std::size_t pieces(std::size_t channels, std::size_t length) {
    if (length == 0) throw std::invalid_argument("length: a piece needs at least one channel");
    return (channels + length - 1) / length;
}

inline int64_t signed_size(std::size_t size) { return static_cast<int64_t>(size); }

// Requires an array of images (images, height, width, channels) as the geometry has them at one of its ends.
template <typename A>
void require_map(const A& array, const char* name, const thrifty::Geometry& geometry, bool input, std::size_t channels) {
    require_size(array, name, 1, static_cast<std::size_t>(input ? geometry.in_h : geometry.out_h), "height");
    require_size(array, name, 2, static_cast<std::size_t>(input ? geometry.in_w : geometry.out_w), "width");
    require_size(array, name, 3, channels, "channels");
    if (array.shape(3) > 0 && signed_size(array.shape(2)) > kMostPieces / signed_size(array.shape(3)))
        throw std::invalid_argument(std::string(name) + ": a line has more than 2^31 - 1 values");
}

template <typename T, std::size_t N>
using Maybe = std::optional<Array<T, N>>;

template <typename M>
auto data_or_null(const M& array) -> decltype(array->data()) {
    return array ? array->data() : nullptr;
}

}  // namespace thrifty::bindings
