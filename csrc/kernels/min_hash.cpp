// b-bit minwise hashing of sets: the last bits of the smallest hash value of a set's members.
//
// offsets[rows + 1], members[...] -> codes[rows, tables], each of `hashes` values of `bits` bits. An empty set gets code 0.
#include "thrifty/kernels.h"
#include "thrifty/mix.h"

namespace thrifty::THRIFTY_ISA {

void min_hash(const int64_t* offsets, const int64_t* members, int64_t rows, int64_t tables, int64_t hashes,
              int64_t bits, uint64_t seed, int32_t* codes) {
#pragma omp parallel for schedule(dynamic, 64)
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t t = 0; t < tables; ++t) {
            int32_t code = 0;
            for (int64_t h = 0; h < hashes; ++h) {
                const uint64_t salt = mix(seed + static_cast<uint64_t>(t * hashes + h));
                uint64_t least = ~static_cast<uint64_t>(0);
                for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
                    const uint64_t value = mix(static_cast<uint64_t>(members[i]) ^ salt);
                    least = value < least ? value : least;
                }
                const uint64_t low = offsets[r] == offsets[r + 1] ? 0 : least & ((1u << bits) - 1);
                code |= static_cast<int32_t>(low) << (h * bits);
            }
            codes[r * tables + t] = code;
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
