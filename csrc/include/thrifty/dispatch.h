// Which copy of the kernels runs: chosen once by cpuid, or by THRIFTY_ISA=base|avx2|avx512 in the environment.
#pragma once

#include <string>
#include <vector>

#include "thrifty/kernels.h"

namespace thrifty {

// The table in use. The first call chooses; throws std::invalid_argument when THRIFTY_ISA names an ISA that is
// unknown, not compiled in or not supported by this processor.
const Kernels& kernels();

// Name of the ISA in use.
std::string isa();

// Names of the ISAs that are compiled in and supported here, slowest first; "base" is always there.
std::vector<std::string> isas();

// Switches to another ISA; throws std::invalid_argument as kernels() does. Not meant to race with running kernels.
void set_isa(const std::string& name);

// Threads that the next parallel region may use: what torch.set_num_threads set, as the OpenMP runtime is shared.
int max_threads();

}  // namespace thrifty
