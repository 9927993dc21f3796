// Random numbers without state: a bijective mixer of 64 bits (splitmix64's finaliser), so that what is drawn depends on
// the seed and a counter alone, never on threads or on the order of calls.
#pragma once

#include <cstdint>

#include "thrifty/kernels.h"

#ifdef THRIFTY_ISA
namespace thrifty::THRIFTY_ISA {

inline uint64_t mix(uint64_t value) {
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

// A number in [0, below) from 64 random bits, for below < 2^32; the bias is under below / 2^32.
inline int64_t draw_below(uint64_t random, int64_t below) {
    return static_cast<int64_t>(((random >> 32) * static_cast<uint64_t>(below)) >> 32);
}

}  // namespace thrifty::THRIFTY_ISA
#endif
