// Brings rows up to date with Adam: what the optimizer would have done in the steps in which their gradient was zero.
//
// rows[count] of p, m, v[classes, channels]; last[classes] is the step that a row has seen, `now` the one it should see.
// History by step, index 0 unused: rate[j] = lr_j / (1 - beta1^j), root[j] = 1 / sqrt(1 - beta2^j), shrink[j] = the sum of
// log(1 - lr_i * decay) for i <= j. A skipped step j does
//     p = p (1 - lr_j decay) - rate_j beta1^n m / (root_j beta2^(n/2) sqrt(v) + eps),   n = j - last,
// so the sum over j is, an entry, a sum of c_j m / (a_j r + eps) with the same c and a for the whole row. Where the a_j of a
// run of steps lie close together (beta2 near one, which is the rule) two nodes of Gauss' quadrature give that sum to
// rounding; a run where they do not is halved. Steps after which beta1^n is lost to rounding are left out.
#include <cmath>

#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr double kLost = 1e-11;     // a factor of beta1^n below this changes nothing
constexpr double kResidual = 1e-9;  // relative error that the quadrature may have
constexpr int64_t kRun = 256;       // steps summed up together

// Weights c at places a, at most one a step.
struct Nodes {
    int64_t count = 0;
    float weight[kRun], at[kRun];

    void add(double c, double a) {
        weight[count] = static_cast<float>(c);
        at[count++] = static_cast<float>(a);
    }
};

// Adds nodes that stand for the weights c[0 .. n) at a[0 .. n): two with the same first four moments where they do.
void add_nodes(const double* c, const double* a, int64_t n, Nodes& nodes) {
    if (n <= 2) {
        for (int64_t i = 0; i < n; ++i) nodes.add(c[i], a[i]);
        return;
    }
    double total = 0.0, mean = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        total += c[i];
        mean += c[i] * a[i];
    }
    if (!(total > 0.0)) return;  // a learning rate of zero
    mean /= total;
    double second = 0.0, third = 0.0, fourth = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        const double d = a[i] / mean - 1.0, w = c[i] / total;
        second += w * d * d;
        third += w * d * d * d;
        fourth += w * d * d * d * d;
    }
    if (second < 1e-14) return nodes.add(total, mean);
    const double skew = third / second, residual = fourth - second * second - third * skew;
    if (!(residual < kResidual)) {
        add_nodes(c, a, n / 2, nodes);
        add_nodes(c + n / 2, a + n / 2, n - n / 2, nodes);
        return;
    }
    const double spread = std::sqrt(skew * skew + 4.0 * second);
    const double high = (skew + spread) / 2.0, low = (skew - spread) / 2.0;
    nodes.add(-total * low / spread, mean * (1.0 + high));
    nodes.add(total * high / spread, mean * (1.0 + low));
}

// p = p keep - m times the sum over the nodes of weight / (at sqrt(v) + eps). An entry without momentum stays, also where
// eps is zero.
void move(const Nodes& nodes, float keep, float eps, int64_t channels, float* __restrict p, const float* __restrict m,
          const float* __restrict v) {
    constexpr int64_t kPart = 64;
    for (int64_t first = 0; first < channels; first += kPart) {
        const int64_t width = channels - first < kPart ? channels - first : kPart;
        float r[kPart], by[kPart];
        for (int64_t e = 0; e < width; ++e) {
            r[e] = std::sqrt(v[first + e]);
            by[e] = 0.0f;
        }
        for (int64_t i = 0; i < nodes.count; ++i) {
            const float weight = nodes.weight[i], at = nodes.at[i];
            for (int64_t e = 0; e < width; ++e) by[e] += weight / (at * r[e] + eps);
        }
        for (int64_t e = 0; e < width; ++e) {
            const float moving = m[first + e];
            p[first + e] = p[first + e] * keep - (moving == 0.0f ? 0.0f : moving * by[e]);
        }
    }
}

}  // namespace

void adam_skip(const int64_t* rows, int64_t count, int64_t channels, int64_t now, const double* rate,
               const double* root, const double* shrink, double beta1, double beta2, double eps, float* p, float* m,
               float* v, int32_t* last) {
    const int64_t most = beta1 > 0.0 ? 1 + static_cast<int64_t>(std::ceil(std::log(kLost) / std::log(beta1))) : 1;
    const double root_beta2 = std::sqrt(beta2);
#pragma omp parallel for schedule(dynamic, 64) if (count > 128)
    for (int64_t i = 0; i < count; ++i) {
        const int64_t row = rows[i], since = last[row], skipped = now - since;
        if (skipped <= 0) continue;
        last[row] = static_cast<int32_t>(now);
        float *__restrict pr = p + row * channels, *__restrict mr = m + row * channels;
        float* __restrict vr = v + row * channels;
        float keep = static_cast<float>(std::exp(shrink[now] - shrink[since]));
        if (since == 0) {  // never had a gradient: m and v are zero
            for (int64_t e = 0; keep != 1.0f && e < channels; ++e) pr[e] *= keep;
            continue;
        }
        const int64_t n = skipped < most ? skipped : most;
        const bool shrinks = shrink[now] != shrink[since];
        double c[kRun], a[kRun], fade1 = 1.0, fade2 = 1.0;
        for (int64_t first = 0; first < n; first += kRun) {
            const int64_t run = n - first < kRun ? n - first : kRun;
            for (int64_t j = 0; j < run; ++j) {
                const int64_t step = since + 1 + first + j;
                fade1 *= beta1;
                fade2 *= root_beta2;
                c[j] = rate[step] * fade1 * (shrinks ? std::exp(shrink[now] - shrink[step]) : 1.0);
                a[j] = root[step] * fade2;
            }
            Nodes nodes;
            add_nodes(c, a, run, nodes);
            move(nodes, keep, static_cast<float>(eps), channels, pr, mr, vr);
            keep = 1.0f;
        }
        const float fade_m = static_cast<float>(std::pow(beta1, static_cast<double>(skipped)));
        const float fade_v = static_cast<float>(std::pow(beta2, static_cast<double>(skipped)));
        for (int64_t e = 0; e < channels; ++e) {
            mr[e] *= fade_m;
            vr[e] *= fade_v;
        }
    }
}

}  // namespace thrifty::THRIFTY_ISA
