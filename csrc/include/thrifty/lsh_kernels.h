// The kernels of hashed layers and of the optimizers that touch single rows, for the list in kernels.h.
#pragma once

#include <cstdint>

// X(name, parameters), as in kernels.h.
#define THRIFTY_LSH_KERNELS(X) \
    X(active_set, (const int32_t* codes, int64_t rows, int64_t tables, int64_t probes, const int32_t* slots, \
                   const int32_t* sizes, int64_t buckets, int64_t capacity, int64_t classes, const int64_t* forced, \
                   int64_t forced_count, int64_t limit, int64_t tail, uint64_t seed, int32_t* votes, int64_t* ids, \
                   uint8_t* drawn, int64_t* counts)) \
    X(adagrad_rows, (const int64_t* rows, const float* gradient, int64_t count, int64_t channels, double rate, \
                     double eps, bool rowwise, float* p, float* sum)) \
    X(adam_rows, (const int64_t* rows, const float* gradient, int64_t count, int64_t channels, int64_t now, \
                  double keep, double rate, double root, double beta1, double beta2, double eps, float* p, float* m, \
                  float* v, int32_t* last)) \
    X(adam_skip, (const int64_t* rows, int64_t count, int64_t channels, int64_t now, const double* rate, \
                  const double* root, const double* shrink, double beta1, double beta2, double eps, float* p, \
                  float* m, float* v, int32_t* last)) \
    X(min_hash, (const int64_t* offsets, const int64_t* members, int64_t rows, int64_t tables, int64_t hashes, \
                 int64_t bits, uint64_t seed, int32_t* codes)) \
    X(pack_signs, (const float* projections, int64_t rows, int64_t tables, int64_t bits, const float* thresholds, \
                   int32_t* codes)) \
    X(probe_signs, (const float* projections, int64_t rows, int64_t tables, int64_t bits, const float* thresholds, \
                    const int32_t* flips, int64_t probes, int64_t width, int64_t ranks, int32_t* codes)) \
    X(rank_top, (const float* x, int64_t rows, int64_t channels, const float* weight, const float* bias, \
                 const int32_t* ids, const int64_t* found, int64_t limit, int64_t k, int64_t* best, float* scores)) \
    X(row_candidates, (const int32_t* codes, int64_t rows, int64_t tables, int64_t probes, const int32_t* slots, \
                       const int32_t* sizes, int64_t buckets, int64_t capacity, int64_t limit, int32_t* ids, \
                       int64_t* found)) \
    X(sampled_mm, (const float* x, int64_t rows, int64_t channels, const float* weight, const int64_t* offsets, \
                   const int32_t* columns, float* y)) \
    X(sgd_rows, (const int64_t* rows, const float* gradient, int64_t count, int64_t channels, int64_t now, \
                 double rate, double momentum, double decay, bool nesterov, float* p, float* buffer, int32_t* last)) \
    X(sgd_skip, (const int64_t* rows, int64_t count, int64_t channels, int64_t now, const double* rate, \
                 double momentum, double decay, bool nesterov, float* p, float* buffer, int32_t* last)) \
    X(sparse_mm, (const int64_t* offsets, const int32_t* columns, const float* values, int64_t rows, const float* b, \
                  int64_t channels, float* y)) \
    X(sparse_project, (const float* x, int64_t rows, int64_t channels, const int32_t* index, const float* signs, \
                       int64_t planes, int64_t entries, float* y)) \
    X(table_update, (const int64_t* rows, const int32_t* fresh, int64_t first, int64_t count, int64_t classes, \
                     int64_t tables, int64_t buckets, int64_t capacity, bool fifo, uint64_t seed, int32_t* slots, \
                     int32_t* sizes, int32_t* seen, int32_t* codes)) \
    X(wta_hash, (const float* x, int64_t rows, int64_t channels, const int32_t* index, int64_t tables, int64_t bins, \
                 int64_t size, int64_t attempts, int32_t* codes))
