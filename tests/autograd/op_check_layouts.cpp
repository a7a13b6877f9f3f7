#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "autograd/op_checks.h"
#include "kernels/strided.h"

// Layouts, broadcasting, sizes, special values and threads. Every check runs on the fast backend,
// the sizes and special values on the reference backend too.
namespace flowgrad::testing {
namespace {

const Shape kMain = {3, 4};

std::string unlike(const Op& op, const MultiFunction& f, const Tensors& in, const Tensors& plain,
                   bool strided_cotangents) {
  const bool g = op.differentiable;
  const Outcome got = evaluate(f, in, {.gradients = g, .strided_cotangents = strided_cotangents});
  const Outcome want = evaluate(f, plain, {.gradients = g});
  const DType dtype = plain.empty() ? DType::float32 : plain[0].dtype();
  const int64_t n = largest(plain);
  return difference(got, want, value_tolerance(dtype, n), gradient_tolerance(dtype, n));
}

/// The first slice of t repeated along axis 0 without copying.
Tensor repeated(const Tensor& t) { return expand(slice(t, 0, 0, 1), t.shape()); }

void check_unmodified(Tally& tally, const Op& op, DType dtype, const Case& c,
                      const std::string& label) {
  tally.instance("k inputs unmodified", op, dtype, label, [&]() -> std::string {
    const Tensors in = make_inputs(c, dtype, seed_of(op));
    const uint32_t before = digest(in);
    Tensors leaves, wanted;
    for (const Tensor& t : in) {
      leaves.push_back(t.detach());
      if (op.differentiable && is_real(t)) wanted.push_back(leaves.back().requires_grad_());
    }
    const Tensors out = c.f(leaves);
    Tensors tracked;
    for (const Tensor& y : out) {
      if (y.requires_grad()) tracked.push_back(y);
    }
    if (!tracked.empty()) {
      const Tensors cotangents = cotangents_for(out, false);
      const uint32_t cotangents_before = digest(cotangents);
      const uint32_t out_before = digest(out);
      const Tensors g = grad(tracked, wanted, cotangents, {.allow_unused = true});
      if (digest(cotangents) != cotangents_before) return "a cotangent was modified";
      if (digest(out) != out_before) return "backward modified an output";
    }
    if (digest(in) != before) return "an input was modified";
    for (size_t i = 0; i < out.size(); ++i) {
      for (size_t j = 0; j < in.size(); ++j) {
        if (&out[i].storage() == &in[j].storage() && !op.may_alias) {
          return fmt::format("output {} shares the storage of input {}", i, j);
        }
      }
    }
    return {};
  });
}

}  // namespace

void check_layouts(Tally& tally, const Op& op) {
  std::vector<Case> cases{op.at(op.name == "cross_entropy" ? Shape{3} : kMain)};
  cases.insert(cases.end(), op.more.begin(), op.more.end());
  for (DType dtype : kDTypes) {
    for (size_t k = 0; k < cases.size(); ++k) {
      const Case& c = cases[k];
      const std::string label = fmt::format("case {}", k);
      if (!c.f) {
        for (const char* check : {"d strides", "e repeated rows", "k inputs unmodified"}) {
          tally.not_applicable(check, op, c.why_not);
        }
        continue;
      }
      check_unmodified(tally, op, dtype, c, label);
      if (c.args.empty()) {
        tally.not_applicable("d strides", op, "no tensor arguments");
        tally.not_applicable("e repeated rows", op, "no tensor arguments");
        continue;
      }
      const Tensors plain = make_inputs(c, dtype, seed_of(op));
      for (uint64_t seed : {1u, 2u, 3u}) {
        tally.instance("d strides", op, dtype, fmt::format("{} seed {}", label, seed), [&] {
          Tensors in;
          for (const Tensor& t : plain) in.push_back(strided(t, seed + 10 * in.size()));
          return unlike(op, c.f, in, plain, seed == 2);
        });
      }
      if (!op.differentiable) {
        tally.not_applicable("d strides", op, "no cotangents: the results have no derivative");
      } else {
        tally.instance("d strides", op, dtype, label + " strided cotangents",
                       [&] { return unlike(op, c.f, plain, plain, true); });
      }
      // Rows of stride 0. Indices and factorised matrices of rank 2 keep their values.
      Tensors in, copies;
      bool any = false;
      for (size_t i = 0; i < plain.size(); ++i) {
        const Fill fill = c.args[i].fill;
        const bool matrix = fill == Fill::spd || fill == Fill::square || fill == Fill::triangular;
        const bool can =
            plain[i].rank() > (matrix ? 2 : 0) && plain[i].shape()[0] > 1 && fill != Fill::index;
        any = any || can;
        in.push_back(can ? repeated(plain[i]) : plain[i]);
        copies.push_back(clone(in.back()));
      }
      if (!any) {
        tally.not_applicable("e repeated rows", op, "no argument with rows of values");
      } else {
        tally.instance("e repeated rows", op, dtype, label,
                       [&] { return unlike(op, c.f, in, copies, false); });
      }
    }
  }
}

void check_broadcasting(Tally& tally, const Op& op) {
  if (op.broadcast_a < 0) {
    tally.not_applicable("f broadcasting", op, "no two arguments that broadcast freely");
    return;
  }
  const Shape shapes[] = {{}, {4}, {1, 4}, {3, 1}, {3, 4}, {2, 1, 4}};
  const auto at_a = static_cast<size_t>(op.broadcast_a);
  const auto at_b = static_cast<size_t>(op.broadcast_b);
  for (DType dtype : kDTypes) {
    for (const Shape& a : shapes) {
      for (const Shape& b : shapes) {
        tally.instance("f broadcasting", op, dtype, a.to_string() + " with " + b.to_string(),
                       [&]() -> std::string {
                         Case c = op.at(kMain);
                         c.args[at_a].shape = a;
                         c.args[at_b].shape = b;
                         for (size_t i = 0; i < c.args.size(); ++i) {
                           if (i != at_a && i != at_b) c.args[i].shape = {};
                         }
                         const Tensors in = make_inputs(c, dtype, seed_of(op));
                         const Shape shape = broadcast_shapes("test", a, b);
                         Tensors full_size = in;
                         full_size[at_a] = clone(expand(in[at_a], shape));
                         full_size[at_b] = clone(expand(in[at_b], shape));
                         const Outcome got = evaluate(c.f, in, {.gradients = op.differentiable});
                         Outcome want = evaluate(c.f, full_size, {.gradients = op.differentiable});
                         size_t k = 0;
                         for (size_t i = 0; i < in.size(); ++i) {
                           if (!is_real(in[i]) || k >= want.grads.size()) continue;
                           if (want.grads[k].defined())
                             want.grads[k] = sum_to(want.grads[k], in[i].shape());
                           ++k;
                         }
                         return difference(got, want, value_tolerance(dtype, 24),
                                           gradient_tolerance(dtype, 24));
                       });
      }
    }
  }
}

namespace {

/// As evaluate(), by operations alone.
Outcome by_operations(const MultiFunction& f, const Tensors& in, const EvaluateOptions& options) {
  const FusedKernels off(false);
  return evaluate(f, in, options);
}

}  // namespace

void check_sizes(Tally& tally, const Op& op) {
  const int64_t lengths[] = {1,  2,  3,   7,   8,   9,   15,  16,  17,   31,   32,   33,   63,
                             64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025, 65537};
  const auto compare = [&](const char* check, DType dtype, const Case& c, const std::string& label,
                           bool empty, auto&& other) {
    if (!c.f) {
      tally.not_applicable(check, op, c.why_not);
      return;
    }
    tally.instance(check, op, dtype, label, [&]() -> std::string {
      const Tensors in = make_inputs(c, dtype, seed_of(op) + 1);
      const EvaluateOptions options{.gradients = op.differentiable, .catches = empty};
      const Outcome fast = evaluate(c.f, in, options);
      if (!fast.error.empty() &&
          (op.empty_message.empty() || fast.error.find(op.empty_message) == std::string::npos)) {
        return "raised " + fast.error;
      }
      const Outcome want = other(c.f, in, options);
      const int64_t n = largest(in);
      return difference(fast, want, value_tolerance(dtype, n), gradient_tolerance(dtype, n));
    });
  };
  const auto both = [&](const char* check, DType dtype, const Shape& s) {
    compare(check, dtype, op.at(s), s.to_string(), numel(s) == 0, on_reference);
  };
  const auto beside_twin = [&](DType dtype, const Case& c, const std::string& label, bool empty) {
    compare("o operations for fused kernels", dtype, c, label, empty, by_operations);
  };
  for (DType dtype : kDTypes) {
    for (size_t k = 0; k < op.more.size(); ++k) {
      const std::string label = fmt::format("case {}", k + 1);
      compare("n sizes, both backends", dtype, op.more[k], label, false, on_reference);
      beside_twin(dtype, op.more[k], label, false);
    }
    for (int64_t n : lengths) {
      if (n > op.max_size) {
        tally.not_applicable(
            "n sizes, both backends", op,
            fmt::format("the work grows faster than the size; up to {} run", op.max_size));
      } else {
        both("n sizes, both backends", dtype, {n});
      }
    }
    for (const Shape& s : {Shape{3, 4}, Shape{2, 3, 4}}) both("n sizes, both backends", dtype, s);
    for (const Shape& s : {Shape{0}, Shape{0, 3}, Shape{2, 0, 4}}) both("g zero sizes", dtype, s);
    both("h rank 0", dtype, {});
    for (const Shape& s : {Shape{}, Shape{0, 3}, Shape{3, 4}, Shape{2, 3, 4}})
      beside_twin(dtype, op.at(s), s.to_string(), numel(s) == 0);
  }
}

void check_special_values(Tally& tally, const Op& op) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Case c = op.at(op.name == "cross_entropy" ? Shape{3} : kMain);
  bool real = false;
  for (const Tensor& t : c.f ? make_inputs(c, DType::float64, 1) : Tensors{})
    real = real || is_real(t);
  if (!real) {
    tally.not_applicable("l special values", op, "no floating argument");
    return;
  }
  for (DType dtype : kDTypes) {
    for (double special : {std::nan(""), infinity, -infinity, -0.0}) {
      tally.instance(
          "l special values", op, dtype, fmt::format("{}", special), [&]() -> std::string {
            Tensors in = make_inputs(c, dtype, seed_of(op));
            for (Tensor& t : in) {
              if (!is_real(t) || t.numel() == 0) continue;
              std::vector<double> v = t.to_vector<double>();
              v[0] = special;
              t = Tensor::from(v, t.shape(), dtype, t.device());
              break;
            }
            const EvaluateOptions options{.gradients = op.differentiable, .catches = true};
            const Outcome fast = evaluate(c.f, in, options);
            const Outcome plain = on_reference(c.f, in, options);
            const std::string wrong =
                difference(fast, plain, value_tolerance(dtype, 12), gradient_tolerance(dtype, 12));
            if (!wrong.empty() || !std::isnan(special) || !op.nan_stops.empty() ||
                !fast.error.empty())
              return wrong;
            for (const Tensor& y : fast.out) {
              if (!is_real(y)) continue;
              for (double v : y.to_vector<double>()) {
                if (std::isnan(v)) return {};
              }
            }
            return "a NaN in an argument reaches no output";
          });
    }
  }
}

}  // namespace flowgrad::testing
