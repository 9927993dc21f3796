// The kernel of merge plans.
#include "arrays.h"

namespace thrifty::bindings {
namespace {

int64_t pair_plan(Array<const double, 1> ready, Array<const double, 2> startup, Array<const double, 2> wire,
                  double limit, Array<int64_t, 1> counts) {
    const std::size_t n = ready.shape(0);
    for (const std::size_t axis : {0, 1}) {
        require_size(startup, "startup", axis, n + 1, "gradients and one");
        require_size(wire, "wire", axis, n + 1, "gradients and one");
    }
    require_size(counts, "counts", 0, n, "gradients");
    const auto kernel = thrifty::kernels().pair_plan;
    int64_t buckets = 0;
    nb::gil_scoped_release nogil;
    kernel(ready.data(), startup.data(), wire.data(), signed_size(n), limit, counts.data(), &buckets);
    return buckets;
}

}  // namespace

void bind_plans(nb::module_& m) {
    m.def("pair_plan", &pair_plan, "ready"_a.noconvert(), "startup"_a.noconvert(), "wire"_a.noconvert(), "limit"_a,
          "counts"_a.noconvert(),
          "Writes the gradients in each bucket of the plan that ends first with two transfers in flight; returns how "
          "many buckets, 0 when none ends within limit.");
}

}  // namespace thrifty::bindings
