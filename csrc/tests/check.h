// The least that kernel tests need: a list of tests, checks that say what failed, and arrays with sharp ends.
//
//     THRIFTY_TEST(name) { ... CHECK_NEAR(got, wanted, tolerance); }
//
// main.cpp runs every test for every usable instruction set and for one and three threads; the sanitizers watch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "thrifty/dispatch.h"

namespace check {

using Test = void (*)();
bool add(const char* name, Test test);
void fail(const char* file, int line, const char* what, double got, double wanted);

// An array that ends exactly at the end of its memory, so that AddressSanitizer sees a step beyond it, and starts off
// the alignment of vector registers.
template <typename T>
class Array {
public:
    explicit Array(int64_t size, T fill = T()) : values_(static_cast<std::size_t>(size) + 1, fill) {}
    T* data() { return values_.data() + 1; }
    T& operator[](int64_t i) { return data()[i]; }
    int64_t size() const { return static_cast<int64_t>(values_.size()) - 1; }
    bool operator==(const Array& other) const {
        return values_.size() == other.values_.size() &&
               std::equal(values_.begin() + 1, values_.end(), other.values_.begin() + 1);
    }

private:
    std::vector<T> values_;
};

// Standard normal values, the same ones for the same seed.
inline Array<float> normal(int64_t size, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> draw;
    Array<float> values(size);
    for (int64_t i = 0; i < size; ++i) values[i] = draw(generator);
    return values;
}

}  // namespace check

#define THRIFTY_TEST(name)                                        \
    static void name();                                           \
    static const bool name##_added = check::add(#name, &name);    \
    static void name()

#define CHECK_NEAR(got, wanted, tolerance)                                                                    \
    do {                                                                                                      \
        const double got_ = static_cast<double>(got), wanted_ = static_cast<double>(wanted);                  \
        const double error_ = got_ > wanted_ ? got_ - wanted_ : wanted_ - got_;                               \
        if (!(error_ <= (tolerance))) check::fail(__FILE__, __LINE__, #got " ~ " #wanted, got_, wanted_);     \
    } while (false)

#define CHECK_EQUAL(got, wanted)                                                                              \
    do {                                                                                                      \
        if (!((got) == (wanted)))                                                                             \
            check::fail(__FILE__, __LINE__, #got " == " #wanted, static_cast<double>(got),                    \
                        static_cast<double>(wanted));                                                         \
    } while (false)

#define CHECK(condition)                                                                                      \
    do {                                                                                                      \
        if (!(condition)) check::fail(__FILE__, __LINE__, #condition, 0, 1);                                  \
    } while (false)
