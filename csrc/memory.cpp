// Aligned memory for kernels, in a file of its own so that it is compiled for the base ISA only.
#include <cstdlib>
#include <new>

#include "thrifty/kernels.h"

namespace thrifty {

void* allocate(int64_t bytes) {
    constexpr std::size_t alignment = 64;  // a cache line, and the width of an AVX-512 register
    // aligned_alloc wants a multiple of the alignment; zero bytes still give a pointer that can be released.
    const std::size_t size = (static_cast<std::size_t>(bytes) / alignment + 1) * alignment;
    void* memory = bytes < 0 ? nullptr : std::aligned_alloc(alignment, size);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

void release(void* memory) noexcept { std::free(memory); }

}  // namespace thrifty
