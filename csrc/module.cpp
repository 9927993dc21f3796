// thrifty._native: the kernels as Python functions. The only file that includes nanobind.
//
// Arrays come in through DLPack and are never copied or converted: each array argument is `.noconvert()`, so a wrong
// dtype, rank, device or stride is a TypeError. Sizes that do not fit together are a ValueError raised before any
// output is written. The GIL is released while a kernel runs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

#include "thrifty/dispatch.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

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

void channel_moments(Array<const float, 2> x, Array<double, 1> sum, Array<double, 1> sumsq) {
    require_size(sum, "sum", 0, x.shape(1), "channels");
    require_size(sumsq, "sumsq", 0, x.shape(1), "channels");
    const auto kernel = thrifty::kernels().channel_moments;
    nb::gil_scoped_release nogil;
    kernel(x.data(), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)), sum.data(), sumsq.data());
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "thrifty's compiled kernels. Import torch first, so that both share one OpenMP runtime.";

    m.def("isa", &thrifty::isa, "Name of the instruction set in use.");
    m.def("isas", &thrifty::isas, "Instruction sets usable on this machine, slowest first.");
    m.def("set_isa", &thrifty::set_isa, "name"_a, "Switches to another instruction set; ValueError if not usable here.");
    m.def("max_threads", &thrifty::max_threads, "Threads a kernel may use: what torch.set_num_threads set.");

    m.def("channel_moments", &channel_moments, "x"_a.noconvert(), "sum"_a.noconvert(), "sumsq"_a.noconvert(),
          "Writes the sum and the sum of squares over rows of x (rows, channels) float32 into sum and sumsq "
          "(channels,) float64.");
}
