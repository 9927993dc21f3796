// The steps of optimizers that touch single rows.
#include "arrays.h"

namespace thrifty::bindings {
namespace {

using Matrix = Array<float, 2>;

// Requires rows of a matrix, and for each a step it has seen that is not negative.
void require_seen(const Array<const int64_t, 1>& rows, const Array<int32_t, 1>& last, std::size_t classes) {
    require_size(last, "last", 0, classes, "rows of p");
    require_rows(rows, "rows", classes, "rows of p");
    for (std::size_t i = 0; i < rows.size(); ++i)
        if (last.data()[rows.data()[i]] < 0) throw std::invalid_argument("last: expected steps from 0 on");
}

void require_like(const Matrix& array, const char* name, const Matrix& p) {
    require_size(array, name, 0, p.shape(0), "rows of p");
    require_size(array, name, 1, p.shape(1), "channels of p");
}

void require_gradient(const Array<const float, 2>& gradient, const Array<const int64_t, 1>& rows, const Matrix& p) {
    require_size(gradient, "gradient", 0, rows.size(), "rows");
    require_size(gradient, "gradient", 1, p.shape(1), "channels of p");
}

// Steps are counted by int32, and a history holds what was done in each of them.
template <typename A>
void require_history(const A& history, const char* name, int64_t now) {
    if (now < 0 || now > kMostPieces) throw std::invalid_argument("now: expected 0 to 2^31 - 1");
    if (history.size() <= static_cast<std::size_t>(now))
        throw std::invalid_argument(std::string(name) + ": axis 0 has size " + std::to_string(history.size()) +
                                    ", expected at least " + std::to_string(now + 1) + " (steps and one)");
}

void adam_skip(Array<const int64_t, 1> rows, int64_t now, Array<const double, 1> rate, Array<const double, 1> root,
               Array<const double, 1> shrink, double beta1, double beta2, double eps, Matrix p, Matrix m, Matrix v,
               Array<int32_t, 1> last) {
    require_like(m, "m", p);
    require_like(v, "v", p);
    require_history(rate, "rate", now);
    require_history(root, "root", now);
    require_history(shrink, "shrink", now);
    require_seen(rows, last, p.shape(0));
    const auto kernel = thrifty::kernels().adam_skip;
    nb::gil_scoped_release nogil;
    kernel(rows.data(), signed_size(rows.size()), signed_size(p.shape(1)), now, rate.data(), root.data(), shrink.data(),
           beta1, beta2, eps, p.data(), m.data(), v.data(), last.data());
}

void adam_rows(Array<const int64_t, 1> rows, Array<const float, 2> gradient, int64_t now, double keep, double rate,
               double root, double beta1, double beta2, double eps, Matrix p, Matrix m, Matrix v,
               Array<int32_t, 1> last) {
    require_gradient(gradient, rows, p);
    require_like(m, "m", p);
    require_like(v, "v", p);
    if (now < 0 || now > kMostPieces) throw std::invalid_argument("now: expected 0 to 2^31 - 1");
    require_seen(rows, last, p.shape(0));
    const auto kernel = thrifty::kernels().adam_rows;
    nb::gil_scoped_release nogil;
    kernel(rows.data(), gradient.data(), signed_size(rows.size()), signed_size(p.shape(1)), now, keep, rate, root, beta1,
           beta2, eps, p.data(), m.data(), v.data(), last.data());
}

void sgd_skip(Array<const int64_t, 1> rows, int64_t now, Array<const double, 1> rate, double momentum, double decay,
              bool nesterov, Matrix p, Matrix buffer, Array<int32_t, 1> last) {
    require_like(buffer, "buffer", p);
    require_history(rate, "rate", now);
    require_seen(rows, last, p.shape(0));
    const auto kernel = thrifty::kernels().sgd_skip;
    nb::gil_scoped_release nogil;
    kernel(rows.data(), signed_size(rows.size()), signed_size(p.shape(1)), now, rate.data(), momentum, decay, nesterov,
           p.data(), buffer.data(), last.data());
}

void sgd_rows(Array<const int64_t, 1> rows, Array<const float, 2> gradient, int64_t now, double rate, double momentum,
              double decay, bool nesterov, Matrix p, Matrix buffer, Array<int32_t, 1> last) {
    require_gradient(gradient, rows, p);
    require_like(buffer, "buffer", p);
    if (now < 0 || now > kMostPieces) throw std::invalid_argument("now: expected 0 to 2^31 - 1");
    require_seen(rows, last, p.shape(0));
    const auto kernel = thrifty::kernels().sgd_rows;
    nb::gil_scoped_release nogil;
    kernel(rows.data(), gradient.data(), signed_size(rows.size()), signed_size(p.shape(1)), now, rate, momentum, decay,
           nesterov, p.data(), buffer.data(), last.data());
}

void adagrad_rows(Array<const int64_t, 1> rows, Array<const float, 2> gradient, double rate, double eps, bool rowwise,
                  Matrix p, Matrix sum) {
    require_gradient(gradient, rows, p);
    require_size(sum, "sum", 0, p.shape(0), "rows of p");
    require_size(sum, "sum", 1, rowwise ? 1 : p.shape(1), rowwise ? "one a row" : "channels of p");
    require_rows(rows, "rows", p.shape(0), "rows of p");
    const auto kernel = thrifty::kernels().adagrad_rows;
    nb::gil_scoped_release nogil;
    kernel(rows.data(), gradient.data(), signed_size(rows.size()), signed_size(p.shape(1)), rate, eps, rowwise, p.data(),
           sum.data());
}

}  // namespace

void bind_optimizers(nb::module_& m) {
    m.def("adam_skip", &adam_skip, "rows"_a.noconvert(), "now"_a, "rate"_a.noconvert(), "root"_a.noconvert(),
          "shrink"_a.noconvert(), "beta1"_a, "beta2"_a, "eps"_a, "p"_a.noconvert(), "m"_a.noconvert(),
          "v"_a.noconvert(), "last"_a.noconvert(), "Does for rows the steps of Adam in which their gradient was zero.");
    m.def("adam_rows", &adam_rows, "rows"_a.noconvert(), "gradient"_a.noconvert(), "now"_a, "keep"_a, "rate"_a, "root"_a,
          "beta1"_a, "beta2"_a, "eps"_a, "p"_a.noconvert(), "m"_a.noconvert(), "v"_a.noconvert(), "last"_a.noconvert(),
          "Does one step of Adam on rows of p with their gradient.");
    m.def("sgd_skip", &sgd_skip, "rows"_a.noconvert(), "now"_a, "rate"_a.noconvert(), "momentum"_a, "decay"_a, "nesterov"_a,
          "p"_a.noconvert(), "buffer"_a.noconvert(), "last"_a.noconvert(),
          "Does for rows the steps of SGD in which their gradient was zero.");
    m.def("sgd_rows", &sgd_rows, "rows"_a.noconvert(), "gradient"_a.noconvert(), "now"_a, "rate"_a, "momentum"_a, "decay"_a,
          "nesterov"_a, "p"_a.noconvert(), "buffer"_a.noconvert(), "last"_a.noconvert(),
          "Does one step of SGD on rows of p with their gradient.");
    m.def("adagrad_rows", &adagrad_rows, "rows"_a.noconvert(), "gradient"_a.noconvert(), "rate"_a, "eps"_a, "rowwise"_a,
          "p"_a.noconvert(), "sum"_a.noconvert(), "Does one step of Adagrad on rows of p with their gradient.");
}

}  // namespace thrifty::bindings
