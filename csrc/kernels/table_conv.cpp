// A convolution by looking up: every output adds the table rows that its taps' codes name.
//
// table[blocks, taps, groups * entries, width] (int16, outputs cut into blocks of `width`, the last one filled up with
// zeros), codes[pixels, groups] -> sums[images * out pixels, outputs], the largest of each pooling window * scale + bias,
// negative ones to zero where `relu` -> y. Sums are int16 and saturate: twice as many outputs an addition as in float,
// and half the bytes to fetch. scale is positive, so that pooling the sums is pooling the outputs.
//
// A thread takes a strip of output lines and keeps its sums in the L2 cache; slices of the table, one block of outputs,
// some taps, some groups, pass by, each once a strip. Two ways, same results:
// `skip`: code 0 stands for a row of zeros. Each pixel has a list of its other rows; slices may fill the L2 cache.
// else: codes are read as they lie, counts are known beforehand, slices are small.
#include <omp.h>

#include "thrifty/kernels.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace thrifty::THRIFTY_ISA {
namespace {

#if defined(__AVX512BW__)
typedef __m512i Sums;
inline Sums load_sums(const int16_t* p) { return _mm512_loadu_si512(p); }
inline void store_sums(int16_t* p, Sums v) { _mm512_storeu_si512(p, v); }
inline Sums add(Sums a, Sums b) { return _mm512_adds_epi16(a, b); }
constexpr int kMost = 8;  // accumulators held in registers at a time
#elif defined(__AVX2__)
typedef __m256i Sums;
inline Sums load_sums(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const Sums*>(p)); }
inline void store_sums(int16_t* p, Sums v) { _mm256_storeu_si256(reinterpret_cast<Sums*>(p), v); }
inline Sums add(Sums a, Sums b) { return _mm256_adds_epi16(a, b); }
constexpr int kMost = 8;
#elif defined(__SSE2__)
typedef __m128i Sums;
// Aligned, so that the addition can take its operand from memory.
inline Sums load_sums(const int16_t* p) { return _mm_load_si128(reinterpret_cast<const Sums*>(p)); }
inline void store_sums(int16_t* p, Sums v) { _mm_store_si128(reinterpret_cast<Sums*>(p), v); }
inline Sums add(Sums a, Sums b) { return _mm_adds_epi16(a, b); }
constexpr int kMost = 8;
#else
typedef int16_t Sums __attribute__((vector_size(16), may_alias));
typedef int32_t Wide __attribute__((vector_size(32)));
inline Sums load_sums(const int16_t* p) { return *reinterpret_cast<const Sums*>(p); }
inline void store_sums(int16_t* p, Sums v) { *reinterpret_cast<Sums*>(p) = v; }
inline Sums add(Sums a, Sums b) {
    Wide sum = __builtin_convertvector(a, Wide) + __builtin_convertvector(b, Wide);
    sum = sum > 32767 ? Wide{} + 32767 : sum;
    sum = sum < -32768 ? Wide{} - 32768 : sum;
    return __builtin_convertvector(sum, Sums);
}
constexpr int kMost = 8;
#endif
constexpr int64_t kWide = sizeof(Sums) / sizeof(int16_t);

constexpr int64_t kListedBytes = 192 * 1024;  // of the table at a time, beside which sums and lists fit an L2 cache
constexpr int64_t kDirectBytes = 48 * 1024;    // of the table at a time, more than an L1 cache: a pass costs as much as some misses
constexpr int64_t kStripPixels = 2048;

// A strip: pooled lines, the output lines that they see, and the input pixels that those see.
struct Strip {
    int64_t pooled, last_pooled, line, last_line, first_pixel, last_pixel;
    uint16_t* lists;   // [pixels, groups]: rows that are not skipped, counted from their block's first
    uint16_t* counts;  // [pixels, group blocks]
    int16_t* sums;     // [out pixels, width]
};

struct Problem {
    const Geometry* shape;
    const Geometry* pool;
    const uint8_t* codes;
    int64_t groups, entries, outputs, width, group_block, group_blocks, tap_block;
};

// What one pass over a strip adds: taps (row, [column, last_column)) of the kernel, one block of outputs and groups.
struct Pass {
    const int16_t* rows;  // of the first tap and group
    int64_t row, column, last_column, group, group_count, group_block;
};

// Adds the rows of taps [s, last), the first of which sees `pixel`, to N vectors of one sum. `rows` are tap s's.
template <int N, bool kListed>
inline void add_rows(const Problem& problem, const Strip& strip, const Pass& pass, int64_t s, int64_t last, int64_t pixel,
                     const int16_t* rows, int16_t* sums) {
    const int64_t width = problem.width, entry_step = problem.entries * width;
    Sums sum[N];
    for (int v = 0; v < N; ++v) sum[v] = load_sums(sums + v * kWide);
    if (kListed) {
        int64_t at = pixel - strip.first_pixel;
        for (; s < last; ++s, at += problem.shape->dilation_w, rows += problem.groups * entry_step) {
            const uint16_t* list = strip.lists + at * problem.groups + pass.group;
            const int64_t count = strip.counts[at * problem.group_blocks + pass.group_block];
            for (int64_t i = 0; i < count; ++i) {
                const int16_t* row = rows + list[i] * width;
                for (int v = 0; v < N; ++v) sum[v] = add(sum[v], load_sums(row + v * kWide));
            }
        }
    } else {
        // Several taps are neighbours in memory, or there is one: either way one run of codes.
        const uint8_t* code = problem.codes + pixel * problem.groups + pass.group;
        const int64_t count = (last - s) * pass.group_count;
        for (int64_t i = 0; i < count; ++i, rows += entry_step) {
            const int16_t* row = rows + code[i] * width;
            for (int v = 0; v < N; ++v) sum[v] = add(sum[v], load_sums(row + v * kWide));
        }
    }
    for (int v = 0; v < N; ++v) store_sums(sums + v * kWide, sum[v]);
}

// Adds one pass to N vectors of every sum, from those at `first` on.
template <int N, bool kListed>
inline void add_pass(const Problem& problem, const Strip& strip, const Pass& pass, int64_t first) {
    const Geometry& shape = *problem.shape;
    const int64_t width = problem.width, tap_step = problem.groups * problem.entries * width;
    // Outputs [from, to) see pixels of the line through all taps of the pass; those beside them through some, or none.
    const int64_t reach = shape.pad_left - pass.column * shape.dilation_w;
    const int64_t room = shape.in_w - 1 + shape.pad_left - (pass.last_column - 1) * shape.dilation_w;
    int64_t from = reach > 0 ? (reach + shape.stride_w - 1) / shape.stride_w : 0;
    int64_t to = room < 0 ? 0 : room / shape.stride_w + 1;
    from = from < shape.out_w ? from : shape.out_w;
    to = to < from ? from : (to < shape.out_w ? to : shape.out_w);
    int16_t* sums = strip.sums + first;
    for (int64_t line = strip.line; line < strip.last_line; ++line, sums += shape.out_w * width) {
        const int64_t h = line % shape.out_h * shape.stride_h - shape.pad_top + pass.row * shape.dilation_h;
        if (h < 0 || h >= shape.in_h) continue;
        const int64_t corner = (line / shape.out_h * shape.in_h + h) * shape.in_w - shape.pad_left;
        const auto at_edge = [&](int64_t ow) {
            const int64_t left = ow * shape.stride_w - shape.pad_left;
            int64_t s = pass.column, last = pass.last_column;
            while (s < last && left + s * shape.dilation_w < 0) ++s;
            while (s < last && left + (last - 1) * shape.dilation_w >= shape.in_w) --last;
            if (s == last) return;
            add_rows<N, kListed>(problem, strip, pass, s, last, corner + ow * shape.stride_w + s * shape.dilation_w,
                                 pass.rows + (s - pass.column) * tap_step + first, sums + ow * width);
        };
        for (int64_t ow = 0; ow < from; ++ow) at_edge(ow);
        int64_t pixel = corner + from * shape.stride_w + pass.column * shape.dilation_w;
        for (int64_t ow = from; ow < to; ++ow, pixel += shape.stride_w)
            add_rows<N, kListed>(problem, strip, pass, pass.column, pass.last_column, pixel, pass.rows + first,
                                 sums + ow * width);
        for (int64_t ow = to; ow < shape.out_w; ++ow) at_edge(ow);
    }
}

template <bool kListed>
inline void add_columns(const Problem& problem, const Strip& strip, const Pass& pass) {
    int64_t first = 0;
    for (; first + kMost * kWide <= problem.width; first += kMost * kWide)
        add_pass<kMost, kListed>(problem, strip, pass, first);
    for (; first + 4 * kWide <= problem.width; first += 4 * kWide) add_pass<4, kListed>(problem, strip, pass, first);
    for (; first + 2 * kWide <= problem.width; first += 2 * kWide) add_pass<2, kListed>(problem, strip, pass, first);
    for (; first < problem.width; first += kWide) add_pass<1, kListed>(problem, strip, pass, first);
}

// The lists of the strip's pixels, from their codes.
inline void list_rows(const Problem& problem, const Strip& strip) {
    for (int64_t pixel = strip.first_pixel; pixel < strip.last_pixel; ++pixel) {
        const uint8_t* code = problem.codes + pixel * problem.groups;
        const int64_t at = pixel - strip.first_pixel;
        for (int64_t b = 0; b < problem.group_blocks; ++b) {
            const int64_t first = b * problem.group_block;
            const int64_t last = first + problem.group_block < problem.groups ? first + problem.group_block : problem.groups;
            uint16_t* list = strip.lists + at * problem.groups + first;
            int64_t count = 0;
            for (int64_t g = first; g < last; ++g) {
                list[count] = static_cast<uint16_t>((g - first) * problem.entries + code[g]);
                count += code[g] != 0;
            }
            strip.counts[at * problem.group_blocks + b] = static_cast<uint16_t>(count);
        }
    }
}

// Sums of one block of outputs, pooled -> y. The first row of each window holds the largest afterwards.
inline void write(const Problem& problem, const Strip& strip, int64_t first, const float* scale, const float* bias,
                  bool relu, float* y) {
    const Geometry& pool = *problem.pool;
    const int64_t width = problem.width;
    const int64_t count = problem.outputs - first < width ? problem.outputs - first : width;
    const float floor = relu ? 0.0f : -__builtin_inff();
    int16_t most[128];
    for (int64_t line = strip.pooled; line < strip.last_pooled; ++line) {
        const int64_t image = line / pool.out_h;
        int64_t top = line % pool.out_h * pool.stride_h - pool.pad_top, bottom = top + pool.kernel_h;
        top = top < 0 ? 0 : top;
        bottom = bottom > pool.in_h ? pool.in_h : bottom;
        for (int64_t pw = 0; pw < pool.out_w; ++pw) {
            int64_t left = pw * pool.stride_w - pool.pad_left, right = left + pool.kernel_w;
            left = left < 0 ? 0 : left;
            right = right > pool.in_w ? pool.in_w : right;
            const int16_t* source = strip.sums + ((image * pool.in_h + top - strip.line) * pool.in_w + left) * width;
            if (pool.kernel_h * pool.kernel_w > 1) {
                for (int64_t m = 0; m < width; ++m) most[m] = source[m];
                for (int64_t h = top; h < bottom; ++h) {
                    for (int64_t w = left; w < right; ++w) {
                        const int16_t* other = strip.sums + ((image * pool.in_h + h - strip.line) * pool.in_w + w) * width;
                        for (int64_t m = 0; m < width; ++m) most[m] = other[m] > most[m] ? other[m] : most[m];
                    }
                }
                source = most;
            }
            float* out = y + (line * pool.out_w + pw) * problem.outputs + first;
            for (int64_t m = 0; m < count; ++m) {
                const float value = static_cast<float>(source[m]) * scale[first + m] + bias[first + m];
                out[m] = value > floor ? value : floor;
            }
        }
    }
}

// The first and the last + 1 line below, counted through all images, that lines [line, last_line) see.
inline void see(const Geometry& shape, int64_t line, int64_t last_line, int64_t* first, int64_t* last) {
    const int64_t bottom_line = last_line - 1;
    int64_t top = line % shape.out_h * shape.stride_h - shape.pad_top;
    int64_t bottom = bottom_line % shape.out_h * shape.stride_h - shape.pad_top + (shape.kernel_h - 1) * shape.dilation_h + 1;
    top = top < 0 ? 0 : (top > shape.in_h ? shape.in_h : top);
    bottom = bottom < 0 ? 0 : (bottom > shape.in_h ? shape.in_h : bottom);
    *first = line / shape.out_h * shape.in_h + top;
    *last = bottom_line / shape.out_h * shape.in_h + bottom;
    if (*last < *first) *last = *first;
}

Strip strip_at(const Problem& problem, int64_t pooled, int64_t last_pooled) {
    Strip strip{pooled, last_pooled, 0, 0, 0, 0, nullptr, nullptr, nullptr};
    see(*problem.pool, pooled, last_pooled, &strip.line, &strip.last_line);
    see(*problem.shape, strip.line, strip.last_line, &strip.first_pixel, &strip.last_pixel);
    strip.first_pixel *= problem.shape->in_w;
    strip.last_pixel *= problem.shape->in_w;
    return strip;
}

int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// How many groups and taps, neighbours in a row of the kernel, make up a slice.
void cut(Problem& problem, bool listed) {
    const Geometry& shape = *problem.shape;
    const int64_t budget = listed ? kListedBytes : kDirectBytes;
    const int64_t group_bytes = problem.entries * problem.width * static_cast<int64_t>(sizeof(int16_t));
    int64_t most = budget / group_bytes;
    if (listed && most > 65536 / problem.entries) most = 65536 / problem.entries;
    // Few groups: better a slice that spills than a pass that adds next to nothing.
    const int64_t least = problem.groups < 4 ? problem.groups : 4;
    most = most < least ? least : most;
    problem.group_block = most < problem.groups ? most : problem.groups;
    problem.group_blocks = (problem.groups + problem.group_block - 1) / problem.group_block;
    problem.tap_block = 1;
    if (problem.group_blocks > 1 || (!listed && shape.dilation_w > 1)) return;
    const int64_t fit = budget / (problem.groups * group_bytes), run = (16 + problem.groups - 1) / problem.groups;
    problem.tap_block = fit > run ? fit : run;
    if (problem.tap_block > shape.kernel_w) problem.tap_block = shape.kernel_w;
}

template <bool kListed>
inline void add_slices(const Problem& problem, const Strip& strip, const int16_t* table) {
    const Geometry& shape = *problem.shape;
    const int64_t entry_step = problem.entries * problem.width;
    for (int64_t r = 0; r < shape.kernel_h; ++r) {
        for (int64_t s = 0; s < shape.kernel_w; s += problem.tap_block) {
            const int64_t last = s + problem.tap_block < shape.kernel_w ? s + problem.tap_block : shape.kernel_w;
            for (int64_t b = 0; b < problem.group_blocks; ++b) {
                const int64_t group = b * problem.group_block;
                const int64_t left = problem.groups - group;
                const int64_t count = left < problem.group_block ? left : problem.group_block;
                const int16_t* rows = table + ((r * shape.kernel_w + s) * problem.groups + group) * entry_step;
                add_columns<kListed>(problem, strip, Pass{rows, r, s, last, group, count, b});
            }
        }
    }
}

}  // namespace

void table_conv(const int16_t* table, const float* scale, const float* bias, const uint8_t* codes,
                const Geometry* geometry, const Geometry* pool, int64_t images, int64_t groups, int64_t entries,
                int64_t outputs, int64_t width, int64_t skip, int64_t relu, float* y) {
    const Geometry shape = *geometry, pooling = *pool;
    const int64_t lines = images * pooling.out_h, line_pixels = pooling.stride_h * shape.out_w;
    if (lines == 0) return;
    Problem problem{&shape, &pooling, codes, groups, entries, outputs, width, 0, 0, 1};
    cut(problem, skip != 0);
    const int64_t threads = omp_get_max_threads();
    int64_t strips = rounded_up((lines * line_pixels + kStripPixels - 1) / kStripPixels, threads);
    int64_t strip_lines = (lines + strips - 1) / strips;
    // Whole images where there are enough: pooling windows and taps then see nothing twice.
    if (strip_lines > pooling.out_h) strip_lines = rounded_up(strip_lines, pooling.out_h);
    strips = (lines + strip_lines - 1) / strip_lines;
    int64_t most_pixels = 0, most_sums = 0;
    for (int64_t s = 0; s < strips; ++s) {
        const int64_t last = (s + 1) * strip_lines < lines ? (s + 1) * strip_lines : lines;
        const Strip strip = strip_at(problem, s * strip_lines, last);
        const int64_t pixels = strip.last_pixel - strip.first_pixel;
        const int64_t sums = (strip.last_line - strip.line) * shape.out_w * width;
        most_pixels = pixels > most_pixels ? pixels : most_pixels;
        most_sums = sums > most_sums ? sums : most_sums;
    }
    // Rounded up to cache lines, so that no two threads write to one.
    const int64_t list_size = skip ? rounded_up(most_pixels * groups, 32) : 0;
    const int64_t count_size = skip ? rounded_up(most_pixels * problem.group_blocks, 32) : 0;
    Scratch<uint16_t> lists_of(threads * list_size);
    Scratch<uint16_t> counts_of(threads * count_size);
    Scratch<int16_t> sums_of(threads * most_sums);
    uint16_t* all_lists = lists_of;
    uint16_t* all_counts = counts_of;
    int16_t* all_sums = sums_of;
    const int64_t blocks = (outputs + width - 1) / width, taps = shape.kernel_h * shape.kernel_w;
#pragma omp parallel
    {
        const int64_t thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
        for (int64_t s = 0; s < strips; ++s) {
            const int64_t end = (s + 1) * strip_lines < lines ? (s + 1) * strip_lines : lines;
            Strip strip = strip_at(problem, s * strip_lines, end);
            strip.lists = all_lists + thread * list_size;
            strip.counts = all_counts + thread * count_size;
            strip.sums = all_sums + thread * most_sums;
            if (skip) list_rows(problem, strip);
            const int64_t used = (strip.last_line - strip.line) * shape.out_w * width;
            for (int64_t block = 0; block < blocks; ++block) {
                const int16_t* of_block = table + block * taps * groups * entries * width;
                for (int64_t i = 0; i < used; ++i) strip.sums[i] = 0;
                if (skip) {
                    add_slices<true>(problem, strip, of_block);
                } else {
                    add_slices<false>(problem, strip, of_block);
                }
                write(problem, strip, block * width, scale, bias, relu != 0, y);
            }
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
