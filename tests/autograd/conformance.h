#pragma once

#include <cmath>
#include <exception>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "device/device.h"
#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/transforms.h"

/// What the conformance cases share. Their numbers come from tests/golden/conformance_*.py.
namespace flowgrad::conformance {

using testing::test_device;

/// An error that a case throws on purpose.
struct Planned : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The cases that ran to their end in this process.
inline std::set<std::string>& finished_cases() {
  static std::set<std::string> cases;
  return cases;
}

/// First line of every conformance case.
class Case {
 public:
  explicit Case(std::string id) : id_(std::move(id)), exceptions_(std::uncaught_exceptions()) {}
  ~Case() {
    if (std::uncaught_exceptions() == exceptions_) finished_cases().insert(id_);
  }
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

 private:
  std::string id_;
  int exceptions_;
};

inline Tensor values(std::vector<double> v, const Shape& shape) {
  return Tensor::from(v, shape, DType::float64, test_device());
}
inline Tensor values(std::vector<double> v) {
  const auto n = static_cast<int64_t>(v.size());
  return values(std::move(v), {n});
}
inline Tensor number(double v) { return scalar(v, DType::float64, test_device()); }
/// The same, asking for gradients.
inline Tensor leaf(std::vector<double> v, const Shape& shape) {
  return values(std::move(v), shape).requires_grad_();
}
inline Tensor leaf(std::vector<double> v) { return values(std::move(v)).requires_grad_(); }
inline Tensor leaf(double v) { return number(v).requires_grad_(); }
inline Tensor indices(std::vector<int64_t> v) {
  const auto n = static_cast<int64_t>(v.size());
  return Tensor::from(v, {n}, DType::int64, test_device());
}

/// Element i is ((7 i + 3 k + 3) mod 11 - 5) / 4: the inputs that a case leaves open.
inline Tensor fill(const Shape& shape, int64_t k = 0) {
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (size_t i = 0; i < v.size(); ++i) {
    v[i] = static_cast<double>((7 * static_cast<int64_t>(i) + 3 * k + 3) % 11 - 5) / 4;
  }
  return values(v, shape);
}
inline Tensor ones64(const Shape& shape) { return ones(shape, DType::float64, test_device()); }

/// sum t[i] (1 + i mod 5): one number that pins a whole tensor.
inline double weigh(const Tensor& t) {
  double total = 0;
  size_t i = 0;
  for (double v : t.to_vector<double>()) total += v * static_cast<double>(1 + i++ % 5);
  return total;
}

/// "" where got is want to rtol (relative to max(1, |want|) when near), NaN and infinity in their
/// places.
inline std::string differs(const std::vector<double>& got, const std::vector<double>& want,
                           double rtol = 1e-12) {
  std::ostringstream out;
  out.precision(17);
  if (got.size() != want.size()) {
    out << got.size() << " numbers, not " << want.size();
    return out.str();
  }
  for (size_t i = 0; i < got.size(); ++i) {
    const bool same = got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i])) ||
                      std::abs(got[i] - want[i]) <= rtol * std::abs(want[i]) + 1e-3 * rtol;
    if (!same) {
      out << "element " << i << " is " << got[i] << ", not " << want[i];
      return out.str();
    }
  }
  return {};
}
inline std::string differs(const Tensor& got, const std::vector<double>& want,
                           double rtol = 1e-12) {
  return got.defined() ? differs(got.to_vector<double>(), want, rtol) : "undefined";
}
inline std::string differs(const Tensor& got, const Tensor& want, double rtol = 1e-12) {
  if (got.defined() && got.shape() != want.shape()) return "shape " + got.shape().to_string();
  return differs(got, want.to_vector<double>(), rtol);
}
/// Every element is v.
inline std::string not_all(const Tensor& got, double v) {
  return got.defined() ? differs(got, std::vector<double>(static_cast<size_t>(got.numel()), v))
                       : "undefined";
}

/// "" where the call raises E with `words` in its message.
template <class E, class F>
std::string not_raised(F&& call, const std::string& words) {
  try {
    call();
  } catch (const E& e) {
    const std::string message = e.what();
    return message.find(words) != std::string::npos ? "" : "another message: " + message;
  } catch (const std::exception& e) {
    return std::string("another type: ") + e.what();
  }
  return "nothing was raised";
}

/// Derivatives 1 .. order of a function of one number, by repeated gradients.
inline std::vector<double> derivatives(const Function& f, double at, int order) {
  const Tensor x = leaf(at);
  Tensor y = f(x);
  std::vector<double> out;
  for (int i = 0; i < order; ++i) {
    y = grad(y, x, {.create_graph = true});
    out.push_back(y.item());
  }
  return out;
}

/// Gradient of f at one number.
inline double slope(const Function& f, double at) {
  const Tensor x = leaf(at);
  return grad(f(x), x).item();
}

/// Sums of the Hessian's rows.
inline Tensor hessian_row_sums(const Function& f, const Tensor& at) {
  const Tensor x = at.detach().requires_grad_();
  return grad(sum(grad(f(x), x, {.create_graph = true})), x);
}

/// Gradients with a cotangent.
inline std::vector<Tensor> grads(const Tensor& y, std::vector<Tensor> inputs,
                                 const Tensor& cotangent = {}) {
  return grad(std::span(&y, 1), inputs, std::span(&cotangent, cotangent.defined() ? 1 : 0));
}

/// A value of the pinned file: a word, a number or a list of values.
struct Pinned {
  std::string word;
  std::vector<Pinned> items;
  bool is_list = false;

  double number() const {
    return word == "nan" ? std::nan("") : std::strtod(word.c_str(), nullptr);
  }
  void flatten(std::vector<double>& out) const {
    if (!is_list) out.push_back(number());
    for (const Pinned& p : items) p.flatten(out);
  }
  std::vector<double> numbers() const {
    std::vector<double> out;
    flatten(out);
    return out;
  }
  Dims dims() const {
    Dims out;
    for (double v : numbers()) out.push_back(static_cast<int64_t>(v));
    return out;
  }
};
using PinnedLine = std::map<std::string, Pinned>;

inline Pinned read_pinned(std::istream& in) {
  Pinned p;
  in >> std::ws;
  if (in.peek() != '[') {
    while (in.peek() != EOF && in.peek() != ']' && !std::isspace(in.peek()))
      p.word += static_cast<char>(in.get());
    return p;
  }
  in.get();
  p.is_list = true;
  for (in >> std::ws; in.peek() != ']' && in.peek() != EOF; in >> std::ws)
    p.items.push_back(read_pinned(in));
  in.get();
  return p;
}

/// The lines of tests/golden/conformance_numbers.txt that belong to a case.
inline std::vector<PinnedLine> pinned(const std::string& id) {
  std::ifstream file(FLOWGRAD_TEST_DATA "/golden/conformance_numbers.txt");
  std::vector<PinnedLine> lines;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(id + " ", 0) != 0) continue;
    std::istringstream in(line.substr(id.size()));
    PinnedLine pairs;
    for (std::string name; in >> name;) pairs[name] = read_pinned(in);
    lines.push_back(pairs);
  }
  if (lines.empty()) throw std::runtime_error("no pinned numbers of " + id);
  return lines;
}

}  // namespace flowgrad::conformance
