// The sum of output gradients over the members of every cluster, per tap: the adjoint of gather_add.
//
// y[images, out_h, out_w, outputs], order[groups, images * pixels], starts[clusters + 1] ->
// sums[clusters, taps, outputs]. Members are pulled in order with the sums in registers, and every row is written once,
// so the result does not depend on the number of threads. groups * taps rows are read per pixel.
#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int64_t kChunk = 256;       // members decoded at a time
constexpr int64_t kManyMembers = 4096;  // a cluster this large is split over threads by taps

struct Members {
    int64_t line[kChunk];  // first output line of the member's image
    int64_t h[kChunk], w[kChunk];
};

void decode(const int32_t* order, int64_t count, const Geometry& shape, Members* out) {
    const int64_t pixels = shape.in_h * shape.in_w;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t pixel = order[i], n = pixel / pixels, at = pixel - n * pixels, h = at / shape.in_w;
        out->line[i] = n * shape.out_h;
        out->h[i] = h + shape.pad_top;
        out->w[i] = at - h * shape.in_w + shape.pad_left;
    }
}

// The output coordinate that sees input coordinate `at` (padding added) through a tap `reach` further, or -1.
inline int64_t seen_from(int64_t at, int64_t reach, int64_t stride, int64_t size) {
    int64_t out = at - reach;
    if (out < 0) return -1;
    if (stride != 1) {
        if (out % stride) return -1;
        out /= stride;
    }
    return out < size ? out : -1;
}

void sum_tap(const float* y, const Members& members, int64_t count, const Geometry& shape, int64_t tap,
             int64_t outputs, bool first, float* sum) {
    const float* rows[kChunk];
    const int64_t reach_h = tap / shape.kernel_w * shape.dilation_h, reach_w = tap % shape.kernel_w * shape.dilation_w;
    int64_t found = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t oh = seen_from(members.h[i], reach_h, shape.stride_h, shape.out_h);
        const int64_t ow = seen_from(members.w[i], reach_w, shape.stride_w, shape.out_w);
        if (oh >= 0 && ow >= 0) rows[found++] = y + ((members.line[i] + oh) * shape.out_w + ow) * outputs;
    }
    if (found > 0 || first) sum_rows(rows, found, outputs, first ? nullptr : sum, 1.0f, sum);
}

void sum_cluster(const float* y, const int32_t* order, int64_t count, const Geometry& shape, int64_t first_tap,
                 int64_t last_tap, int64_t outputs, float* sums) {
    Members members;
    for (int64_t done = 0; done < count; done += kChunk) {
        const int64_t now = count - done < kChunk ? count - done : kChunk;
        decode(order + done, now, shape, &members);
        for (int64_t tap = first_tap; tap < last_tap; ++tap)
            sum_tap(y, members, now, shape, tap, outputs, done == 0, sums + tap * outputs);
    }
}

}  // namespace

void pull_sums(const float* y, const int32_t* order, const int64_t* starts, int64_t clusters, const Geometry* geometry,
               int64_t outputs, float* sums) {
    const Geometry shape = *geometry;
    const int64_t taps = shape.kernel_h * shape.kernel_w;
    Scratch<int64_t> large(clusters + 1);
    int64_t larges = 0;
    for (int64_t k = 0; k < clusters; ++k)
        if (starts[k + 1] - starts[k] >= kManyMembers) large[larges++] = k;
    const int64_t* large_at = large;

#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t item = 0; item < larges * taps; ++item) {
            const int64_t k = large_at[item / taps], tap = item % taps;
            sum_cluster(y, order + starts[k], starts[k + 1] - starts[k], shape, tap, tap + 1, outputs,
                        sums + k * taps * outputs);
        }
#pragma omp for schedule(dynamic, 16)
        for (int64_t k = 0; k < clusters; ++k) {
            const int64_t count = starts[k + 1] - starts[k];
            if (count < kManyMembers)
                sum_cluster(y, order + starts[k], count, shape, 0, taps, outputs, sums + k * taps * outputs);
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
