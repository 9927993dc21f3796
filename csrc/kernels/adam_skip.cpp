// Brings rows up to date with Adam: what the optimizer would have done in the steps in which their gradient was zero.
//
// rows[count] of p, m, v[classes, channels]; last[classes] is the step that a row has seen, `now` the one it should see.
// History by step, index 0 unused: rate[j] = lr_j / (1 - beta1^j), root[j] = 1 / sqrt(1 - beta2^j), shrink[j] = the sum of
// log(1 - lr_i * decay) for i <= j. A skipped step j does
//     p = p (1 - lr_j decay) - rate_j beta1^n m / (root_j beta2^(n/2) sqrt(v) + eps),   n = j - last,
// so the sum over j is, an entry, a sum of c_j m / (a_j r + eps) with the same c and a for the whole row. Where the a_j lie
// close together (beta2 near one, which is the rule) two nodes of Gauss' quadrature give that sum to rounding; else it
// is summed step by step. Steps after which beta1^n is lost to rounding are left out.
#include <cmath>

#include "thrifty/kernels.h"
#include "thrifty/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr double kLost = 1e-12;      // a factor of beta1^n below this changes nothing
constexpr double kResidual = 1e-9;   // relative error that the quadrature may have

struct Nodes {
    int count;
    double weight[2], at[2];
};

// Two nodes with the first four moments of the weights c[0 .. n) at a[0 .. n); count 0 where they would not do.
Nodes quadrature(const double* c, const double* a, int64_t n) {
    double total = 0.0, mean = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        total += c[i];
        mean += c[i] * a[i];
    }
    if (!(total > 0.0)) return {0, {0, 0}, {0, 0}};
    mean /= total;
    double second = 0.0, third = 0.0, fourth = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        const double d = a[i] / mean - 1.0, w = c[i] / total;
        second += w * d * d;
        third += w * d * d * d;
        fourth += w * d * d * d * d;
    }
    if (second < 1e-12) return {1, {total, 0}, {mean, mean}};
    const double skew = third / second, residual = fourth - second * second - third * skew;
    if (!(residual < kResidual)) return {0, {0, 0}, {0, 0}};
    const double spread = std::sqrt(skew * skew + 4.0 * second);
    const double high = (skew + spread) / 2.0, low = (skew - spread) / 2.0;
    return {2, {-total * low / spread, total * high / spread}, {mean * (1.0 + high), mean * (1.0 + low)}};
}

// p = p keep - sum over the nodes of weight m / (at r + eps). An entry without momentum stays, also where eps is zero.
void move_by_nodes(const Nodes& nodes, float keep, float eps, int64_t channels, float* __restrict p,
                   const float* __restrict m, const float* __restrict v) {
    const float w0 = static_cast<float>(nodes.weight[0]), a0 = static_cast<float>(nodes.at[0]);
    const float w1 = static_cast<float>(nodes.weight[1]), a1 = static_cast<float>(nodes.at[1]);
    for (int64_t e = 0; e < channels; ++e) {
        const float r = std::sqrt(v[e]);
        const float by = m[e] * (w0 / (a0 * r + eps) + w1 / (a1 * r + eps));
        p[e] = p[e] * keep - (m[e] == 0.0f ? 0.0f : by);
    }
}

struct Skipped {
    int64_t since, now, steps;
    const double *rate, *root, *shrink;
    double beta1, root_beta2, eps;
};

// How far the skipped steps move one entry, step by step.
double moved(const Skipped& s, float m, float v) {
    if (m == 0.0f) return 0.0;
    const double r = std::sqrt(static_cast<double>(v));
    double sum = 0.0, fade1 = 1.0, fade2 = 1.0;
    for (int64_t j = s.since + 1; j <= s.since + s.steps; ++j) {
        fade1 *= s.beta1;
        fade2 *= s.root_beta2;
        sum += s.rate[j] * fade1 * std::exp(s.shrink[s.now] - s.shrink[j]) / (s.root[j] * fade2 * r + s.eps);
    }
    return sum * static_cast<double>(m);
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
        float *pr = p + row * channels, *mr = m + row * channels, *vr = v + row * channels;
        const double kept = std::exp(shrink[now] - shrink[since]);
        if (since == 0) {  // never had a gradient: m and v are zero
            for (int64_t e = 0; kept != 1.0 && e < channels; ++e) pr[e] *= static_cast<float>(kept);
            continue;
        }
        const int64_t n = skipped < most ? skipped : most;
        double c[512], a[512];
        double fade1 = 1.0, fade2 = 1.0;
        const bool few = n <= 512;
        Nodes nodes{0, {0, 0}, {0, 0}};
        if (few) {
            for (int64_t j = 0; j < n; ++j) {
                fade1 *= beta1;
                fade2 *= root_beta2;
                const int64_t step = since + 1 + j;
                c[j] = rate[step] * fade1 * std::exp(shrink[now] - shrink[step]);
                a[j] = root[step] * fade2;
            }
            nodes = quadrature(c, a, n);
        }
        const float keep = static_cast<float>(kept);
        if (nodes.count > 0) {
            move_by_nodes(nodes, keep, static_cast<float>(eps), channels, pr, mr, vr);
        } else {
            const Skipped skip{since, now, n, rate, root, shrink, beta1, root_beta2, eps};
            for (int64_t e = 0; e < channels; ++e) pr[e] = pr[e] * keep - static_cast<float>(moved(skip, mr[e], vr[e]));
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
