// Aligned scratch memory for kernels, in a file of its own so that it is compiled for the base ISA only.
//
// Released blocks are kept and given out again: fresh pages cost a fault and a clearing each, which for a kernel that
// runs at every training step is a good part of its time.
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>

#include "thrifty/kernels.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>

#include <cstring>
#endif

namespace thrifty {
namespace {

// Under AddressSanitizer nothing of a block may be touched but the bytes that were asked for, and these begin as NaN: a
// kernel that reads what it never wrote shows, although blocks are kept and rounded up.
#ifdef __SANITIZE_ADDRESS__
void close(void* memory, std::size_t size) { ASAN_POISON_MEMORY_REGION(memory, size); }
void open(void* memory, std::size_t size) {
    ASAN_UNPOISON_MEMORY_REGION(memory, size);
    std::memset(memory, 0xff, size);
}
#else
void close(void*, std::size_t) {}
void open(void*, std::size_t) {}
#endif

class Pool {
public:
    void* take(std::size_t size) {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto found = free_.lower_bound(size);
        if (found != free_.end() && found->first <= kMostWaste * size) {
            void* const memory = found->second;
            kept_ -= found->first;
            free_.erase(found);
            return memory;
        }
        void* const memory = std::aligned_alloc(kAlignment, size);
        if (memory == nullptr) throw std::bad_alloc();
        sizes_[memory] = size;
        close(memory, size);
        return memory;
    }

    void give(void* memory) noexcept {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto size = sizes_.find(memory)->second;
        close(memory, size);
        try {
            free_.emplace(size, memory);
            kept_ += size;
        } catch (const std::bad_alloc&) {
            drop(memory);
        }
        while (kept_ > kMostKept) {  // the largest first: they are the rarest to be asked for
            const auto last = std::prev(free_.end());
            kept_ -= last->first;
            drop(last->second);
            free_.erase(last);
        }
    }

private:
    static constexpr std::size_t kAlignment = 64;  // a cache line, and the width of an AVX-512 register
    static constexpr std::size_t kMostWaste = 2;   // a kept block may be so many times larger than what is asked for
    static constexpr std::size_t kMostKept = std::size_t{256} << 20;

    void drop(void* memory) noexcept {
        sizes_.erase(memory);
        std::free(memory);
    }

    std::mutex mutex_;
    std::multimap<std::size_t, void*> free_;
    std::unordered_map<void*, std::size_t> sizes_;
    std::size_t kept_ = 0;
};

// Never destroyed: threads may still be in a kernel when the process ends.
Pool& pool() {
    static Pool* const the_pool = new Pool;
    return *the_pool;
}

}  // namespace

void* allocate(int64_t bytes) {
    constexpr std::size_t step = 4096;  // coarse sizes find a kept block more often, also for zero bytes
    if (bytes < 0) throw std::bad_alloc();
    const std::size_t size = static_cast<std::size_t>(bytes);
    void* const memory = pool().take((size / step + 1) * step);
    open(memory, size);
    return memory;
}

void release(void* memory) noexcept { pool().give(memory); }

}  // namespace thrifty
