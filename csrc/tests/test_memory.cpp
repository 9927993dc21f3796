// The scratch pool: blocks are aligned, apart, given out again, and not kept without end.
#include <cstring>
#include <thread>

#include "check.h"

namespace {

bool aligned(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % 64 == 0; }

void fill(void* memory, int64_t bytes, int value) { std::memset(memory, value, static_cast<std::size_t>(bytes)); }

bool holds(const void* memory, int64_t bytes, int value) {
    const unsigned char* at = static_cast<const unsigned char*>(memory);
    return std::all_of(at, at + bytes, [&](unsigned char found) { return found == value; });
}

}  // namespace

THRIFTY_TEST(scratch_is_aligned_apart_and_as_large_as_asked_for) {
    std::vector<std::pair<void*, int64_t>> blocks;
    for (const int64_t bytes : {0, 1, 63, 64, 4095, 4096, 4097, 100000, 3000000, 0, 1, 4096}) {
        void* const memory = thrifty::allocate(bytes);
        CHECK(memory != nullptr && aligned(memory));
        blocks.emplace_back(memory, bytes);
        fill(memory, bytes, static_cast<int>(blocks.size()));
    }
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        CHECK(holds(blocks[i].first, blocks[i].second, static_cast<int>(i + 1)));
        for (std::size_t j = 0; j < i; ++j) CHECK(blocks[i].first != blocks[j].first);
    }
    for (const auto& [memory, bytes] : blocks) thrifty::release(memory);
}

THRIFTY_TEST(scratch_that_was_released_is_given_out_again) {
    for (const int64_t bytes : {0, 5000, 7000000}) {
        void* const memory = thrifty::allocate(bytes);
        thrifty::release(memory);
        std::vector<void*> taken;  // others of this size may be kept too, and come first
        do taken.push_back(thrifty::allocate(bytes));
        while (taken.back() != memory && taken.size() < 1000);
        CHECK(taken.back() == memory);
        for (void* const each : taken) thrifty::release(each);
    }
}

// A kept block may be twice as large as what is asked for, not more: small ones would hold the large ones in use.
THRIFTY_TEST(scratch_is_not_taken_from_a_much_larger_block) {
    const int64_t large = int64_t{90} << 20;  // no other test asks for as much, or for half
    void* const memory = thrifty::allocate(large);
    thrifty::release(memory);
    void* const small = thrifty::allocate(large / 3);
    CHECK(small != memory);
    void* const half = thrifty::allocate(large / 2 + 8192);
    CHECK(half == memory);
    thrifty::release(small);
    thrifty::release(half);
}

// More than is kept in all is released in one go: nothing may be lost, and what is given out later must be sound.
THRIFTY_TEST(scratch_beyond_what_is_kept_goes_back) {
    const int64_t each = int64_t{100} << 20;
    std::vector<void*> blocks;
    for (int i = 0; i < 4; ++i) blocks.push_back(thrifty::allocate(each));
    void* const huge = thrifty::allocate(int64_t{300} << 20);
    for (void* const memory : blocks) thrifty::release(memory);
    thrifty::release(huge);
    for (void*& memory : blocks) memory = thrifty::allocate(each);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        for (std::size_t j = 0; j < i; ++j) CHECK(blocks[i] != blocks[j]);
        fill(blocks[i], 4096, 7);
        fill(static_cast<char*>(blocks[i]) + each - 4096, 4096, 7);
    }
    for (void* const memory : blocks) thrifty::release(memory);
}

THRIFTY_TEST(scratch_serves_many_threads) {
    std::vector<std::thread> threads;
    std::vector<int> sound(8, 1);
    for (int t = 0; t < 8; ++t) {
        threads.emplace_back([t, &sound] {
            std::mt19937 generator(static_cast<unsigned>(t));
            std::vector<std::pair<void*, int64_t>> held;
            for (int i = 0; i < 400; ++i) {
                if (held.size() < 4 && generator() % 2) {
                    const int64_t bytes = static_cast<int64_t>(generator() % 40000);
                    held.emplace_back(thrifty::allocate(bytes), bytes);
                    fill(held.back().first, bytes, t);
                } else if (!held.empty()) {
                    if (!holds(held.back().first, held.back().second, t)) sound[static_cast<std::size_t>(t)] = 0;
                    thrifty::release(held.back().first);
                    held.pop_back();
                }
            }
            for (const auto& [memory, bytes] : held) thrifty::release(memory);
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const int each : sound) CHECK_EQUAL(each, 1);
}
