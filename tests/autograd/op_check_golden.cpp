#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <set>

#include "autograd/op_checks.h"
#include "autograd/op_golden.h"
#include "device/device.h"
#include "flowgrad/core/safetensors.h"

// Values and vector-Jacobian products against the numbers that PyTorch computed once.
namespace flowgrad::testing {
namespace {

struct GoldenCase {
  std::map<std::string, Tensor> tensors;
  Json parameters = Json::object();
};

std::map<std::string, GoldenCase> golden_cases(const std::string& path) {
  const SafetensorsFile file = load_safetensors(path);
  std::map<std::string, GoldenCase> cases;
  for (const auto& [name, tensor] : file.tensors) {
    const size_t dot = name.rfind('.');
    cases[name.substr(0, dot)].tensors[name.substr(dot + 1)] = on_device(tensor);
  }
  for (auto& [name, c] : cases) {
    const auto found = file.metadata.find(name);
    if (found != file.metadata.end()) c.parameters = parse_json(found->second);
  }
  return cases;
}

/// What a case asks of float32, or `usual`.
double tolerance_of(const GoldenCase& c, DType dtype, double usual) {
  return dtype == DType::float32 ? c.parameters.value("float32_tolerance", usual) : usual;
}

Tensor in_dtype(const Tensor& t, DType dtype) { return is_real(t) ? cast(t, dtype) : t; }

/// "in0", "in1", ... or, for a name without number, the name alone.
Tensors numbered(const GoldenCase& c, const std::string& name) {
  Tensors out;
  if (c.tensors.count(name)) return {c.tensors.at(name)};
  for (size_t i = 0; c.tensors.count(name + std::to_string(i)); ++i) {
    out.push_back(c.tensors.at(name + std::to_string(i)));
  }
  return out;
}

const Op& row_named(const std::string& name) {
  for (const Op& op : op_table()) {
    if (op.name == name) return op;
  }
  throw std::out_of_range("no row " + name);
}

/// Where ours differ from PyTorch's on purpose, by element of [nan, inf, -inf, -0.0, 0.0]: a NaN
/// has no sign, maximum(0, x) of -0 is 0, and log(sigmoid(x)) reaches 0 from below.
using Ours = std::map<std::string, std::pair<size_t, double>>;
const Ours kOurValues = {{"sign.special", {0, std::nan("")}},
                         {"relu.special", {3, 0.0}},
                         {"elu.special", {3, 0.0}},
                         {"logsigmoid.special", {1, -0.0}}};

Tensor with_ours(const Ours& ours, const std::string& name, const Tensor& t) {
  const auto found = ours.find(name);
  if (found == ours.end()) return t;
  std::vector<double> v = t.to_vector<double>();
  v[found->second.first] = found->second.second;
  return Tensor::from(v, t.shape(), t.dtype(), t.device());
}

std::string wrong_values(const std::string& name, const GoldenCase& c, const Tensors& got,
                         DType dtype) {
  Tensors want = numbered(c, "out");
  Tensors same(got.begin(),
               got.begin() + static_cast<std::ptrdiff_t>(std::min(got.size(), want.size())));
  for (size_t i = 0; i < want.size(); ++i) {
    want[i] = in_dtype(want[i], i < got.size() && is_real(got[i]) ? got[i].dtype() : dtype);
  }
  want[0] = with_ours(kOurValues, name, want[0]);
  const bool special = name.find(".special") != std::string::npos;
  const double tolerance = tolerance_of(c, dtype, value_tolerance(dtype, largest(want)));
  std::string wrong = difference(same, want, tolerance);
  if (!wrong.empty() || !special || !is_real(want[0])) return wrong;
  // Zeros of the right sign.
  const auto a = same[0].to_vector<double>();
  const auto b = want[0].to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == 0 && std::signbit(a[i]) != std::signbit(b[i])) {
      return fmt::format("element {} is {} instead of {}", i, a[i], b[i]);
    }
  }
  return {};
}

std::string wrong_gradients(const GoldenCase& c, const Tensors& got, const Tensors& leaves,
                            DType dtype) {
  Tensors tracked, cotangents, wanted, want;
  for (size_t i = 0; i < got.size(); ++i) {
    const std::string name = c.tensors.count("cot") ? "cot" : "cot" + std::to_string(i);
    if (!got[i].requires_grad() || !c.tensors.count(name)) continue;
    tracked.push_back(got[i]);
    cotangents.push_back(cast(c.tensors.at(name), dtype));
  }
  for (size_t i = 0; i < leaves.size(); ++i) {
    const auto found = c.tensors.find("grad" + std::to_string(i));
    if (found == c.tensors.end()) continue;
    wanted.push_back(leaves[i]);
    want.push_back(cast(found->second, dtype));
  }
  if (wanted.empty()) return {};
  Tensors g = grad(tracked, wanted, cotangents, {.allow_unused = true});
  for (size_t i = 0; i < g.size(); ++i) {
    if (!g[i].defined()) g[i] = zeros_like(wanted[i]);
  }
  return difference(g, want, tolerance_of(c, dtype, dtype == DType::float64 ? 1e-10 : 1e-4));
}

/// Slopes likewise: NaN has no sign, and 1 / sqrt(x) falls at both zeros.
const Ours kOurSlopes = {{"abs.special", {0, std::nan("")}},
                         {"elu.special", {0, std::nan("")}},
                         {"rsqrt.special", {3, -std::numeric_limits<double>::infinity()}}};

/// Slopes at [nan, inf, -inf, -0.0, 0.0] for cotangents of one.
void check_special_gradient(Tally& tally, const Op& op, DType dtype, const std::string& name,
                            const GoldenCase& c, const Pinned& pinned) {
  if (!op.differentiable) return;
  tally.instance("l pinned special slopes", op, dtype, name, [&] {
    const Tensor leaf = cast(c.tensors.at("in0"), dtype).detach().requires_grad_();
    const Tensor g = grad(sum(pinned.f(c.parameters, Tensors{leaf})[0]), leaf);
    const Tensor want = cast(c.tensors.at("torch_grad0"), dtype);
    return difference({g}, {with_ours(kOurSlopes, name, want)}, value_tolerance(dtype, 5));
  });
}

}  // namespace

void check_golden(Tally& tally, const std::string& path) {
  std::set<std::string> seen;
  for (const auto& [name, c] : golden_cases(path)) {
    const std::string family = name.substr(0, name.find('.'));
    const auto found = pinned_functions().find(family);
    const bool special = name.find(".special") != std::string::npos;
    const char* check = special ? "l pinned special values" : "a pinned values";
    if (found == pinned_functions().end()) {
      tally.instance(check, op_table().front(), DType::float64, name,
                     [] { return "no function for this case"; });
      continue;
    }
    const Pinned& pinned = found->second;
    const Op& op = row_named(pinned.row);
    seen.insert(pinned.row);
    for (DType dtype : kDTypes) {
      Tensors leaves;
      for (const Tensor& t : numbered(c, "in")) leaves.push_back(in_dtype(t, dtype));
      const bool differentiated = c.tensors.count("grad0") || c.tensors.count("grad1");
      if (differentiated) {
        for (Tensor& t : leaves) {
          if (is_real(t)) t = t.detach().requires_grad_();
        }
      }
      Tensors got;
      try {
        got = pinned.f(c.parameters, leaves);
      } catch (const std::domain_error& e) {
        tally.not_applicable(check, op, name + ": " + e.what());
        continue;
      } catch (const std::exception& e) {
        tally.instance(check, op, dtype, name, [&] { return std::string("raised ") + e.what(); });
        continue;
      }
      tally.instance(check, op, dtype, name, [&] { return wrong_values(name, c, got, dtype); });
      if (c.tensors.count("torch_grad0")) check_special_gradient(tally, op, dtype, name, c, pinned);
      if (differentiated) {
        tally.instance("a pinned gradients", op, dtype, name,
                       [&] { return wrong_gradients(c, got, leaves, dtype); });
      }
    }
  }
  for (const Op& op : op_table()) {
    if (!seen.count(op.name))
      tally.not_applicable("a pinned values", op, "no pinned case; the other checks cover it");
  }
}

}  // namespace flowgrad::testing
