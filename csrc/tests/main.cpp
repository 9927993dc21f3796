// Runs every kernel test for every instruction set usable here. Exit code 0 when all passed.
#include <omp.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

#include "check.h"

namespace check {
namespace {

constexpr int kReportedFailures = 20;
int failures = 0;
std::string running;

std::vector<std::pair<const char*, Test>>& tests() {
    static std::vector<std::pair<const char*, Test>> all;
    return all;
}

}  // namespace

bool add(const char* name, Test test) {
    tests().emplace_back(name, test);
    return true;
}

void fail(const char* file, int line, const char* what, double got, double wanted) {
    if (++failures <= kReportedFailures) {
        std::printf("%s:%d: %s: %s: got %.17g, wanted %.17g\n", file, line, running.c_str(), what, got, wanted);
    }
}

}  // namespace check

// The one test that is not about a kernel: a name that cannot be used is refused and changes nothing.
THRIFTY_TEST(unknown_isa_is_refused) {
    const std::string before = thrifty::isa();
    bool refused = false;
    try {
        thrifty::set_isa("abacus");
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    CHECK(refused);
    CHECK(thrifty::isa() == before);
}

int main() {
    int runs = 0;
    for (const std::string& isa : thrifty::isas()) {
        thrifty::set_isa(isa);
        for (const int threads : {1, 3}) {
            omp_set_num_threads(threads);
            for (const auto& [name, test] : check::tests()) {
                check::running = std::string(name) + " [" + isa + ", " + std::to_string(threads) + " threads]";
                test();
                ++runs;
            }
        }
    }
    std::printf("%d runs of %zu tests, %d failed checks\n", runs, check::tests().size(), check::failures);
    return check::failures == 0 ? 0 : 1;
}
