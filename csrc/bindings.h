// What the files of bindings share: arrays as they come in through DLPack, and the checks that let kernels trust them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace thrifty::bindings {

namespace nb = nanobind;

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

inline int64_t signed_size(std::size_t size) { return static_cast<int64_t>(size); }

}  // namespace thrifty::bindings
