#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/transforms.h"

/// The op table: one row for every public function of ops.h that computes. All generic checks,
/// golden comparisons and mutants read it.
namespace flowgrad::testing {

using Tensors = std::vector<Tensor>;
using In = std::span<const Tensor>;

/// How an argument's values are chosen. `grid` keeps 0.1 away from every multiple of 0.5, where
/// kinks and steps lie.
enum class Fill { grid, index, boolean, spd, square, triangular };

struct Arg {
  Shape shape;
  double low = -2;
  double high = 2;
  Fill fill = Fill::grid;
};

/// A function on arguments of given shapes. `why_not` says why there is none for the shape asked
/// for.
struct Case {
  std::vector<Arg> args;
  MultiFunction f;
  std::string why_not;
};

/// A call that must raise, and a part of its message.
struct Refusal {
  std::string message;
  std::vector<Arg> args;
  MultiFunction f;
};

struct Op {
  std::string name;
  /// The function for a main shape of any rank and size.
  std::function<Case(const Shape&)> at;
  std::vector<Case> more = {};
  std::vector<Refusal> refusals = {};
  int max_order = 2;
  bool differentiable = true;
  /// Steps: a gradient of zeros.
  bool flat = false;
  bool may_alias = false;
  /// The two arguments that broadcast as NumPy does; -1: none.
  int broadcast_a = -1;
  int broadcast_b = -1;
  int64_t max_size = 65537;
  Shape small = {2, 3};
  /// Part of the message that an axis without elements may raise.
  std::string empty_message = {};
  /// Why a NaN need not reach an output.
  std::string nan_stops = {};
  /// Result dtypes for int64, bool and bfloat16 inputs; "refused" for a DTypeError.
  std::string integers = "float32 float32 refused";
  /// Result dtype for float32 beside float64.
  std::string mixed = "float64";

  Op& smooth() { return max_order = 3, *this; }
  Op& constant() { return differentiable = false, *this; }
  Op& steps() { return flat = true, *this; }
  Op& aliases() { return may_alias = true, *this; }
  Op& sizes_to(int64_t n) { return max_size = n, *this; }
  Op& tries(const Shape& s) { return small = s, *this; }
  Op& dtypes(const char* given) { return integers = given, *this; }
  Op& mixes(const char* given) { return mixed = given, *this; }
  Op& empty_refused(const char* part) { return empty_message = part, *this; }
  Op& hides_nan(const char* why) { return nan_stops = why, *this; }
  Op& broadcasts(int a = 0, int b = 1) { return broadcast_a = a, broadcast_b = b, *this; }
  Op& also(std::vector<Arg> args, MultiFunction f) {
    more.push_back({std::move(args), std::move(f), {}});
    return *this;
  }
  Op& refuses(const char* message, std::vector<Arg> args, MultiFunction f) {
    refusals.push_back({message, std::move(args), std::move(f)});
    return *this;
  }
  /// Values and argument lists that every differentiable operation of one tensor refuses.
  Op& refuses_usual();
};

/// The whole table, in the order of ops.h.
const std::vector<Op>& op_table();

/// Tensors for a case's arguments; the same for equal seeds.
Tensors make_inputs(const Case& c, DType dtype, uint64_t seed);
Tensor make_input(const Arg& arg, DType dtype, uint64_t seed);
uint64_t seed_of(const Op& op);

void add_elementwise_rows(std::vector<Op>& table);
void add_binary_rows(std::vector<Op>& table);
void add_reduction_rows(std::vector<Op>& table);
void add_shape_rows(std::vector<Op>& table);
void add_join_rows(std::vector<Op>& table);
void add_index_rows(std::vector<Op>& table);
void add_linalg_rows(std::vector<Op>& table);
void add_network_rows(std::vector<Op>& table);
void add_source_rows(std::vector<Op>& table);

// ------------------------------------------------------------------ words that rows are made of
inline Tensors list(const Tensor& a) { return {a}; }
inline Tensors list(const std::pair<Tensor, Tensor>& p) { return {p.first, p.second}; }
inline Tensors list(const std::vector<Tensor>& v) { return v; }
inline Tensors list(const LuFactors& f) { return {f.p, f.l, f.u}; }
inline Tensors list(const LstmResult& r) { return {r.output, r.h, r.c}; }
/// A function of the tensors x[0], x[1], ...
#define FN(...) [=]([[maybe_unused]] In x) -> Tensors { return list(__VA_ARGS__); }
/// A row whose arguments follow from the main shape s.
#define AT(args, ...) [](const Shape& s) { return Case{args, FN(__VA_ARGS__), {}}; }

/// A row of what only moves elements: every dtype is kept.
inline Op moves(const char* name, std::function<Case(const Shape&)> at) {
  return Op{name, std::move(at)}.smooth().dtypes("int64 bool bfloat16").mixes("one tensor");
}

inline Arg index_to(const Shape& shape, int64_t below) {
  return {shape, 0, static_cast<double>(below), Fill::index};
}
inline Arg flags(const Shape& shape) { return {shape, 0, 1, Fill::boolean}; }
inline Case none(const char* why) { return {{}, {}, why}; }
/// s with another last size, or one axis of that size for rank 0.
inline Shape with_last(Shape s, int64_t n) {
  if (s.empty()) return {n};
  s[s.rank() - 1] = n;
  return s;
}
/// s without its last axis.
inline Shape lead(Shape s) {
  if (!s.empty()) s.erase(s.rank() - 1);
  return s;
}
inline Shape join(Shape s, std::initializer_list<int64_t> more) {
  for (int64_t n : more) s.push_back(n);
  return s;
}
inline int64_t last(const Shape& s) { return s.empty() ? 1 : s.back(); }

}  // namespace flowgrad::testing
