// The list of kernels, and the table through which they are called.
//
// A kernel is one file kernels/NAME.cpp, one line in THRIFTY_KERNELS below and one binding in module.cpp.
// Its file is compiled once per instruction set ("ISA") with -DTHRIFTY_ISA=base|avx2|avx512; that macro is the
// namespace the definition lives in, so the copies never collide:
//
//     namespace thrifty::THRIFTY_ISA { void NAME(...) { ... } }
//
// Kernels take raw pointers to dense row-major arrays that do not overlap, trust their arguments (module.cpp has
// checked them) and know neither torch nor Python. They include no STL headers: an inline function of the standard
// library compiled for AVX-512 could be the copy that the linker keeps for everybody.
#pragma once

#include <cstdint>

#include "thrifty/geometry.h"
#include "thrifty/lsh_kernels.h"
#include "thrifty/source.h"

// X(name, parameters): every kernel returns void.
#define THRIFTY_KERNELS(X) \
    X(channel_moments, (const float* x, int64_t rows, int64_t channels, double* sum, double* sumsq)) \
    X(cluster_mean, (const float* x, int64_t channels, const int32_t* order, const int64_t* starts, \
                     const int64_t* offsets, int64_t groups, int64_t length, float* centroids)) \
    X(cluster_spread, (const float* c, const int32_t* ids, const int64_t* starts, int64_t clusters, int64_t groups, \
                       int64_t pixels, int64_t channels, int64_t length, float* x)) \
    X(count_nonzeros, (const float* x, int64_t rows, int64_t width, int64_t step, int64_t* count)) \
    X(gather_add, (const float* table, const float* bias, const int32_t* ids, const Geometry* geometry, \
                   int64_t images, int64_t groups, int64_t outputs, float* y)) \
    X(group_codes, (const int32_t* codes, int64_t groups, int64_t pixels, int64_t scope, int32_t* ids, \
                    int32_t* order, int64_t* starts, int64_t* offsets, int64_t* clusters)) \
    X(level_codes, (const float* x, int64_t rows, int64_t channels, const float* thresholds, int64_t length, \
                    int64_t bits, uint8_t* codes, int32_t* bad)) \
    X(nearest_centroid, (const float* x, int64_t rows, int64_t channels, const float* codebook, int64_t groups, \
                         int64_t entries, int64_t length, int32_t* codes)) \
    X(pair_plan, (const double* ready, const double* startup, const double* wire, int64_t n, double limit, \
                  int64_t* counts, int64_t* buckets)) \
    X(pull_sums, (const float* y, const int32_t* order, const int64_t* starts, int64_t clusters, \
                  const Geometry* geometry, int64_t outputs, float* sums)) \
    X(relu_pool, (const void* y, bool half, int64_t images, int64_t height, int64_t width, int64_t channels, \
                  const Pool* pool, void* out, uint8_t* index)) \
    X(relu_unpool, (const Source* source, bool half, int64_t images, int64_t height, int64_t width, int64_t channels, \
                    void* y)) \
    X(sign_hash, (const float* x, int64_t rows, int64_t channels, const float* planes, const float* thresholds, \
                  int64_t groups, int64_t length, int64_t bits, int32_t* codes)) \
    X(skip_conv, (const float* x, const float* weight, const float* bias, const Geometry* geometry, int64_t images, \
                  int64_t outputs, int64_t channels, double share, float* y)) \
    X(skip_conv_backward, (const Source* source, const float* x, const float* weight, const Geometry* geometry, \
                           int64_t images, int64_t outputs, int64_t channels, double share, float* dx, float* dw, \
                           float* db)) \
    X(table_conv, (const int16_t* table, const float* scale, const float* bias, const uint8_t* codes, \
                   const Geometry* geometry, const Geometry* pool, int64_t images, int64_t groups, int64_t entries, \
                   int64_t outputs, int64_t width, int64_t skip, int64_t relu, float* y)) \
    THRIFTY_LSH_KERNELS(X)

namespace thrifty {

// One function pointer per kernel, all of the same ISA.
struct Kernels {
#define THRIFTY_MEMBER(name, parameters) void(*name) parameters;
    THRIFTY_KERNELS(THRIFTY_MEMBER)
#undef THRIFTY_MEMBER
};

// Uninitialised memory, 64-byte aligned. Throws std::bad_alloc. Defined in memory.cpp.
void* allocate(int64_t bytes);
void release(void* memory) noexcept;

}  // namespace thrifty

#define THRIFTY_DECLARE(name, parameters) void name parameters;
#ifdef THRIFTY_ISA
namespace thrifty::THRIFTY_ISA {
THRIFTY_KERNELS(THRIFTY_DECLARE)

// Scratch memory for the length of a scope: `Scratch<double> partial(n); partial[i] = ...`. Make it outside of
// parallel regions: an exception must not leave one.
template <typename T>
class Scratch {
public:
    explicit Scratch(int64_t count) : data_(static_cast<T*>(allocate(count * static_cast<int64_t>(sizeof(T))))) {}
    ~Scratch() { release(data_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    operator T*() noexcept { return data_; }

private:
    T* data_;
};
}  // namespace thrifty::THRIFTY_ISA
#endif
