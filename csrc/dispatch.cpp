// cpuid -> table of kernels. See dispatch.h.
#include "thrifty/dispatch.h"

#include <omp.h>

#include <cstdlib>
#include <stdexcept>

// Declares every kernel of one ISA and makes its table.
#define THRIFTY_ENTRY(name, parameters) &name,
#define THRIFTY_TABLE(isa)                                      \
    namespace thrifty::isa {                                    \
    THRIFTY_KERNELS(THRIFTY_DECLARE)                            \
    static const Kernels table = {THRIFTY_KERNELS(THRIFTY_ENTRY)}; \
    }

THRIFTY_TABLE(base)
#ifdef THRIFTY_X86_64
THRIFTY_TABLE(avx2)
THRIFTY_TABLE(avx512)
#endif

namespace thrifty {
namespace {

struct Choice {
    const char* name;
    const Kernels* table;
    bool supported;
};

// All the ISAs compiled in, slowest first.
const std::vector<Choice>& choices() {
    static const std::vector<Choice> all = {
        {"base", &base::table, true},
#ifdef THRIFTY_X86_64
        {"avx2", &avx2::table, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
        {"avx512", &avx512::table,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
#endif
    };
    return all;
}

const Choice* find(const std::string& name, const std::string& asked_by) {
    std::string usable;
    for (const Choice& choice : choices()) {
        if (!choice.supported) continue;
        if (choice.name == name) return &choice;
        usable += (usable.empty() ? "" : ", ") + std::string(choice.name);
    }
    throw std::invalid_argument(asked_by + " '" + name + "' is not an instruction set usable here; choose one of: " +
                                usable);
}

const Choice* initial() {
    const char* wanted = std::getenv("THRIFTY_ISA");
    if (wanted != nullptr && *wanted != '\0') return find(wanted, "THRIFTY_ISA");
    const Choice* best = nullptr;
    for (const Choice& choice : choices()) {
        if (choice.supported) best = &choice;
    }
    return best;
}

const Choice*& current() {
    static const Choice* choice = initial();  // tried again on the next call when it throws
    return choice;
}

}  // namespace

const Kernels& kernels() { return *current()->table; }

std::string isa() { return current()->name; }

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Choice& choice : choices()) {
        if (choice.supported) names.emplace_back(choice.name);
    }
    return names;
}

void set_isa(const std::string& name) { current() = find(name, "isa"); }

int max_threads() { return omp_get_max_threads(); }

}  // namespace thrifty
