#include <fmt/format.h>

#include <cmath>
#include <sstream>

#include "autograd/op_checks.h"
#include "device/device.h"
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/kernels/parallel.h"
#include "kernels/strided.h"

// Derivatives, refusals, dtypes and threads.
namespace flowgrad::testing {
namespace {

Tensors real_ones(const Tensors& all) {
  Tensors out;
  for (const Tensor& t : all) {
    if (is_real(t)) out.push_back(t);
  }
  return out;
}

/// Sum of <cotangents, f(x)>, recorded.
Tensor weighed(const Tensors& out) {
  const Tensors cotangents = cotangents_for(out, false);
  Tensor total;
  size_t k = 0;
  for (const Tensor& y : out) {
    if (!y.requires_grad()) continue;
    const Tensor term = sum(y * cotangents[k++]);
    total = total.defined() ? total + term : term;
  }
  return total;
}

Tensors as_leaves(const Tensors& in) {
  Tensors out;
  for (const Tensor& t : in) out.push_back(is_real(t) ? t.detach().requires_grad_() : t);
  return out;
}

/// First gradients, and the gradients of their weighed sum; zeros where nothing depends.
std::pair<Tensors, Tensors> two_orders(const MultiFunction& f, const Tensors& in) {
  const Tensors leaves = as_leaves(in);
  const Tensors wanted = real_ones(leaves);
  const auto defined = [&](Tensors g) {
    for (size_t i = 0; i < g.size(); ++i) {
      if (!g[i].defined()) g[i] = zeros_like(wanted[i]);
    }
    return g;
  };
  const Tensor total = weighed(f(leaves));
  Tensors first =
      defined(grad(std::span(&total, 1), wanted, {}, {.create_graph = true, .allow_unused = true}));
  Tensors second = defined({Tensors(wanted.size())});
  const Tensor again = weighed(first);
  if (again.defined())
    second = defined(grad(std::span(&again, 1), wanted, {}, {.allow_unused = true}));
  for (Tensor& t : first) t = t.detach();
  return {first, second};
}

std::string asymmetry(const MultiFunction& f, const Tensors& in) {
  const Tensors leaves = as_leaves(in);
  const Tensors wanted = real_ones(leaves);
  const Tensor total = weighed(f(leaves));
  const Tensors g =
      grad(std::span(&total, 1), wanted, {}, {.create_graph = true, .allow_unused = true});
  std::vector<std::vector<double>> rows;
  for (size_t i = 0; i < wanted.size(); ++i) {
    for (int64_t k = 0; k < wanted[i].numel(); ++k) {
      std::vector<double>& row = rows.emplace_back();
      Tensors second(wanted.size());
      if (g[i].defined() && g[i].requires_grad()) {
        const Tensor element = select(flatten(g[i]), 0, k);
        second =
            grad(std::span(&element, 1), wanted, {}, {.retain_graph = true, .allow_unused = true});
      }
      for (size_t j = 0; j < wanted.size(); ++j) {
        const Tensor t = second[j].defined() ? second[j] : zeros_like(wanted[j]);
        for (double v : t.to_vector<double>()) row.push_back(v);
      }
    }
  }
  double scale = 1;
  for (const auto& row : rows) {
    for (double v : row) scale = std::max(scale, std::abs(v));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (!(std::abs(rows[i][j] - rows[j][i]) <= 1e-9 * scale)) {
        return fmt::format("Hessian ({}, {}) is {:.17g} and ({}, {}) is {:.17g}", i, j, rows[i][j],
                           j, i, rows[j][i]);
      }
    }
  }
  return {};
}

}  // namespace

void check_gradients(Tally& tally, const Op& op, uint64_t seed) {
  if (!op.differentiable) {
    for (const char* check :
         {"b gradcheck", "c gradgradcheck", "c third order", "c Hessian symmetric"}) {
      tally.not_applicable(check, op, "the results have no derivative");
    }
    return;
  }
  std::vector<Case> cases{op.at(op.small)};
  cases.insert(cases.end(), op.more.begin(), op.more.end());
  for (size_t k = 0; k < cases.size(); ++k) {
    const Case& c = cases[k];
    const std::string label = fmt::format("case {}", k);
    const Tensors in = make_inputs(c, DType::float64, seed_of(op) + seed);
    const auto order = [&](int n) {
      const GradcheckResult r = gradcheck(c.f, in, {.order = n, .seed = 5 + seed});
      return r.message;
    };
    tally.instance("b gradcheck", op, DType::float64, label, [&] { return order(1); });
    tally.instance("c gradgradcheck", op, DType::float64, label, [&] { return order(2); });
    if (op.max_order < 3) {
      tally.not_applicable("c third order", op, "the function has kinks or steps");
      tally.not_applicable("c Hessian symmetric", op, "the function has kinks or steps");
    } else {
      if (k == 0)
        tally.instance("c third order", op, DType::float64, label, [&] { return order(3); });
      tally.instance("c Hessian symmetric", op, DType::float64, label,
                     [&] { return asymmetry(c.f, in); });
    }
    // In float32 no difference is exact enough: its gradients are held against those of float64.
    const Tensors single = make_inputs(c, DType::float32, seed_of(op) + seed);
    Tensors rounded;
    for (const Tensor& t : single) rounded.push_back(is_real(t) ? cast(t, DType::float64) : t);
    std::pair<Tensors, Tensors> got, want;
    const auto against = [&](const Tensors& g, const Tensors& w) {
      Tensors wide;
      for (const Tensor& t : g) wide.push_back(cast(t, DType::float64));
      return difference(wide, w, 1e-4);
    };
    tally.instance("b gradcheck", op, DType::float32, label, [&] {
      got = two_orders(c.f, single);
      want = two_orders(c.f, rounded);
      return against(got.first, want.first);
    });
    tally.instance("c gradgradcheck", op, DType::float32, label,
                   [&] { return against(got.second, want.second); });
  }
}

void check_refusals(Tally& tally, const Op& op) {
  tally.instance("i three refusals", op, DType::float64, "number", [&] {
    return op.refusals.size() < 3 ? fmt::format("{} given", op.refusals.size()) : std::string();
  });
  for (const Refusal& r : op.refusals) {
    tally.instance("i refusals", op, DType::float64, r.message, [&]() -> std::string {
      Tensors in;
      for (const Arg& a : r.args)
        in.push_back(make_input(a, DType::float64, seed_of(op) + in.size()));
      const uint32_t before = digest(in);
      try {
        r.f(in);
      } catch (const Error& e) {
        if (std::string(e.what()).find(r.message) == std::string::npos) {
          return fmt::format("the message is \"{}\"", e.what());
        }
        return digest(in) == before ? "" : "an input was modified";
      }
      return "nothing was raised";
    });
  }
}

void check_dtypes(Tally& tally, const Op& op) {
  const Case c = op.at(op.name == "cross_entropy" ? Shape{3} : Shape{3, 4});
  const auto name_or_refused = [&](const Tensors& in) -> std::string {
    try {
      const Tensors out = c.f(in);
      return out.empty() ? "nothing" : name_of(out[0].dtype());
    } catch (const DTypeError& e) {
      return std::string(e.what()).find(op.name) == std::string::npos &&
                     op.name.find("operator") != 0
                 ? fmt::format("refused without its name: {}", e.what())
                 : std::string("refused");
    }
  };
  if (c.args.empty() || op.integers == "no floating argument") {
    tally.not_applicable("j dtypes", op, "no floating argument");
    return;
  }
  const Tensors plain = make_inputs(c, DType::float64, seed_of(op));
  const bool all_fixed = real_ones(plain).empty();
  for (DType dtype : kDTypes) {
    if (all_fixed) {
      tally.not_applicable("j dtypes", op, "no floating argument to keep the dtype of");
      continue;
    }
    tally.instance("j dtypes", op, dtype, "kept", [&]() -> std::string {
      for (const Tensor& y : c.f(make_inputs(c, dtype, seed_of(op)))) {
        if (is_real(y) && y.dtype() != dtype)
          return fmt::format("an output is {}", name_of(y.dtype()));
      }
      return {};
    });
  }
  std::istringstream expected(op.integers);
  for (DType dtype : {DType::int64, DType::boolean, DType::bfloat16}) {
    std::string want;
    expected >> want;
    tally.instance("j dtypes", op, dtype, "given", [&]() -> std::string {
      Tensors in;
      for (const Tensor& t : plain) {
        // Positive integers, so that no divisor is zero and no exponent negative.
        const Tensor x = dtype == DType::int64 ? floor(abs(cast(t, DType::float64))) + 1.0
                                               : cast(t, DType::float64);
        in.push_back(
            all_fixed || is_real(t) ? cast(dtype == DType::boolean ? ones_like(x) : x, dtype) : t);
      }
      const std::string got = name_or_refused(in);
      return got == want ? "" : got + " instead of " + want;
    });
  }
  if (op.mixed == "one tensor" || real_ones(plain).size() < 2) {
    tally.not_applicable("j mixed dtypes", op, "fewer than two floating arguments");
    return;
  }
  tally.instance("j mixed dtypes", op, DType::float32, "beside float64", [&]() -> std::string {
    Tensors in = plain;
    for (Tensor& t : in) {
      if (!is_real(t) && !all_fixed) continue;
      t = cast(t, DType::float32);
      break;
    }
    const std::string got = name_or_refused(in);
    return got == op.mixed ? "" : got + " instead of " + op.mixed;
  });
}

void check_threads(Tally& tally, const Op& op) {
  const int before = kernels::num_threads();
  const Shape long_one = {op.max_size};
  std::vector<Case> cases{op.at(long_one),
                          op.at(op.name == "cross_entropy" ? Shape{3} : Shape{3, 4})};
  cases.insert(cases.end(), op.more.begin(), op.more.end());
  for (DType dtype : kDTypes) {
    for (size_t k = 0; k < cases.size(); ++k) {
      const Case& c = cases[k];
      if (!c.f) {
        tally.not_applicable("m threads and reruns", op, c.why_not);
        continue;
      }
      const Tensors in = make_inputs(c, dtype, seed_of(op));
      kernels::set_num_threads(1);
      uint32_t want = 0;
      // On a device the same work runs twice: its kernels know no threads.
      for (int threads : test_device().is_cpu() ? std::vector{1, 2, 3, 4, 7} : std::vector{1}) {
        tally.instance(
            "m threads and reruns", op, dtype, fmt::format("case {} threads {}", k, threads), [&] {
              if (threads == 1) want = digest(evaluate(c.f, in, {.gradients = op.differentiable}));
              kernels::set_num_threads(threads);
              const uint32_t got = digest(evaluate(c.f, in, {.gradients = op.differentiable}));
              return got == want ? "" : "other bits than at one thread";
            });
      }
    }
  }
  kernels::set_num_threads(before);
}

}  // namespace flowgrad::testing
