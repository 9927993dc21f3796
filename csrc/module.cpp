// thrifty._native: the kernels as Python functions. Nothing but this file and bindings/ includes nanobind.
#include "bindings/arrays.h"

NB_MODULE(_native, m) {
    m.doc() = "thrifty's compiled kernels. Import torch first, so that both share one OpenMP runtime.";

    m.def("isa", &thrifty::isa, "Name of the instruction set in use.");
    m.def("isas", &thrifty::isas, "Instruction sets usable on this machine, slowest first.");
    m.def("set_isa", &thrifty::set_isa, "name"_a, "Switches to another instruction set; ValueError if not usable here.");
    m.def("max_threads", &thrifty::max_threads, "Threads a kernel may use: what torch.set_num_threads set.");

    thrifty::bindings::bind_clusters(m);
    thrifty::bindings::bind_lsh(m);
    thrifty::bindings::bind_optimizers(m);
    thrifty::bindings::bind_plans(m);
    thrifty::bindings::bind_skipping(m);
    thrifty::bindings::bind_tables(m);
}
