#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"

// Einstein summation out of permute, reshape, matmul and sum, so that derivatives come with them.
namespace flowgrad {
namespace {

/// A letter, or kEllipsis + k for the k-th axis from the right under an ellipsis.
using Label = int;
using Labels = std::vector<Label>;
constexpr Label kEllipsis = 128;
constexpr Label kEllipsisMark = -1;

bool has(const Labels& labels, Label l) {
  return std::find(labels.begin(), labels.end(), l) != labels.end();
}
int position(const Labels& labels, Label l) {
  return static_cast<int>(std::find(labels.begin(), labels.end(), l) - labels.begin());
}
std::string name_of_label(Label l) {
  return l < kEllipsis ? fmt::format("letter {}", static_cast<char>(l))
                       : fmt::format("ellipsis axis -{}", l - kEllipsis + 1);
}

/// A tensor and the label of each of its axes.
struct Term {
  Tensor t;
  Labels labels;
};

[[noreturn]] void bad_equation(const std::string& equation, const std::string& why) {
  throw ValueError(fmt::format("einsum: equation \"{}\": {}", equation, why));
}

/// Labels of one term of the equation, an ellipsis as its mark.
Labels parse_term(const std::string& equation, const std::string& term) {
  Labels out;
  for (size_t i = 0; i < term.size(); ++i) {
    if (std::isalpha(static_cast<unsigned char>(term[i]))) {
      out.push_back(term[i]);
    } else if (term.compare(i, 3, "...") == 0) {
      if (has(out, kEllipsisMark))
        bad_equation(equation, fmt::format("two ellipses in \"{}\"", term));
      out.push_back(kEllipsisMark);
      i += 2;
    } else {
      bad_equation(equation,
                   fmt::format("symbol '{}' in \"{}\"; letters, \"...\", \",\", \"->\" and spaces "
                               "are accepted",
                               term[i], term));
    }
  }
  return out;
}

Labels with_ellipsis(const Labels& labels, int axes) {
  Labels out;
  for (Label l : labels) {
    if (l != kEllipsisMark) {
      out.push_back(l);
      continue;
    }
    for (int k = axes - 1; k >= 0; --k) out.push_back(kEllipsis + k);
  }
  return out;
}

struct Equation {
  std::vector<Labels> inputs;
  Labels output;
};

std::string without_spaces(const std::string& text) {
  std::string out = text;
  out.erase(std::remove(out.begin(), out.end(), ' '), out.end());
  return out;
}

std::vector<std::string> split_terms(const std::string& text) {
  std::vector<std::string> out(1);
  for (char c : text) {
    if (c == ',') {
      out.emplace_back();
    } else {
      out.back().push_back(c);
    }
  }
  return out;
}

Equation parse(const std::string& equation, std::span<const Tensor> operands) {
  const std::string text = without_spaces(equation);
  const size_t arrow = text.find("->");
  const std::vector<std::string> terms = split_terms(text.substr(0, arrow));
  if (terms.size() != operands.size()) {
    bad_equation(equation, fmt::format("{} terms for {} operands", terms.size(), operands.size()));
  }
  Equation out;
  int ellipsis_axes = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    const Labels labels = parse_term(equation, terms[i]);
    const int rank = operands[i].rank();
    const bool open = has(labels, kEllipsisMark);
    const int letters = static_cast<int>(labels.size()) - (open ? 1 : 0);
    if (open ? letters > rank : letters != rank) {
      throw ShapeError(
          fmt::format("einsum: operand {} is {} (rank {}) and its term \"{}\" has {} letters{}", i,
                      operands[i].shape().to_string(), rank, terms[i], letters,
                      open ? "" : "; they must be as many"));
    }
    const int axes = open ? rank - letters : 0;
    ellipsis_axes = std::max(ellipsis_axes, axes);
    out.inputs.push_back(with_ellipsis(labels, axes));
  }
  if (arrow == std::string::npos) {
    std::array<int, 128> seen{};
    for (const Labels& labels : out.inputs) {
      for (Label l : labels) {
        if (l < kEllipsis) ++seen[static_cast<size_t>(l)];
      }
    }
    out.output = with_ellipsis({kEllipsisMark}, ellipsis_axes);
    for (size_t l = 0; l < seen.size(); ++l) {
      if (seen[l] == 1) out.output.push_back(static_cast<Label>(l));
    }
    return out;
  }
  const Labels asked = parse_term(equation, text.substr(arrow + 2));
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto c = static_cast<char>(asked[i]);
    if (asked[i] == kEllipsisMark) continue;
    if (std::count(asked.begin(), asked.end(), asked[i]) > 1) {
      bad_equation(equation, fmt::format("output letter {} is repeated", c));
    }
    const auto known = [&](const Labels& labels) { return has(labels, asked[i]); };
    if (std::none_of(out.inputs.begin(), out.inputs.end(), known)) {
      bad_equation(equation, fmt::format("output letter {} is in no operand", c));
    }
  }
  out.output = with_ellipsis(asked, ellipsis_axes);
  return out;
}

/// One size a letter; axes under an ellipsis broadcast.
void check_sizes(const std::string& equation, const Equation& e, std::span<const Tensor> operands) {
  struct Seen {
    int64_t size = -1;
    size_t operand = 0;
  };
  std::array<Seen, kEllipsis + kMaxRank> seen{};
  for (size_t i = 0; i < operands.size(); ++i) {
    for (size_t k = 0; k < e.inputs[i].size(); ++k) {
      const Label l = e.inputs[i][k];
      const int64_t size = operands[i].shape()[static_cast<int>(k)];
      Seen& s = seen[static_cast<size_t>(l)];
      const bool may_repeat = l >= kEllipsis && (s.size == 1 || size == 1);
      if (s.size >= 0 && s.size != size && !may_repeat) {
        throw ShapeError(fmt::format(
            "einsum: equation \"{}\": {} is {} in operand {} {} and {} in operand {} {}", equation,
            name_of_label(l), s.size, s.operand, operands[s.operand].shape().to_string(), size, i,
            operands[i].shape().to_string()));
      }
      if (s.size < 0 || s.size == 1) s = {size, i};
    }
  }
}

Tensor permuted_to(const Term& x, const Labels& order) {
  Dims axes;
  for (Label l : order) axes.push_back(position(x.labels, l));
  return permute(x.t, axes);
}

/// Repeated labels become one, on the diagonal.
Term diagonals(Term x) {
  for (size_t i = 0; i < x.labels.size(); ++i) {
    const Label l = x.labels[i];
    const auto again =
        std::find(x.labels.begin() + static_cast<std::ptrdiff_t>(i) + 1, x.labels.end(), l);
    if (again == x.labels.end()) continue;
    const auto j = static_cast<size_t>(again - x.labels.begin());
    Dims axes;
    Labels rest;
    for (size_t k = 0; k < x.labels.size(); ++k) {
      if (k == i || k == j) continue;
      axes.push_back(static_cast<int64_t>(k));
      rest.push_back(x.labels[k]);
    }
    axes.push_back(static_cast<int64_t>(i));
    axes.push_back(static_cast<int64_t>(j));
    rest.push_back(l);
    return diagonals({diag(permute(x.t, axes)), rest});
  }
  return x;
}

/// Sums away the axes whose label `drop` names.
template <class Drop>
Term summed(const Term& x, Drop drop) {
  Term out;
  Dims axes;
  for (size_t k = 0; k < x.labels.size(); ++k) {
    if (drop(x.labels[k])) {
      axes.push_back(static_cast<int64_t>(k));
    } else {
      out.labels.push_back(x.labels[k]);
    }
  }
  out.t = axes.empty() ? x.t : sum(x.t, axes);
  return out;
}

/// x without the ellipsis axes of size 1 that `other` has longer: they repeat.
Term without_repeats(Term x, const Term& other) {
  for (size_t k = x.labels.size(); k-- > 0;) {
    const Label l = x.labels[k];
    if (l < kEllipsis || x.t.size(static_cast<int64_t>(k)) != 1 || !has(other.labels, l)) continue;
    if (other.t.size(position(other.labels, l)) == 1) continue;
    x.t = squeeze(x.t, static_cast<int64_t>(k));
    x.labels.erase(x.labels.begin() + static_cast<std::ptrdiff_t>(k));
  }
  return x;
}

/// The product of two terms, summed over the labels that `kept` does not name.
Term contract(const std::string& equation, Term a, Term b, const Labels& kept) {
  a = without_repeats(a, b);
  b = without_repeats(b, a);
  a = summed(a, [&](Label l) { return !has(b.labels, l) && !has(kept, l); });
  b = summed(b, [&](Label l) { return !has(a.labels, l) && !has(kept, l); });
  Labels batch, inner, only_a, only_b;
  std::array<int64_t, 4> sizes{1, 1, 1, 1};  // products of batch, only_a, inner, only_b
  Shape shape;
  for (size_t k = 0; k < a.labels.size(); ++k) {
    const Label l = a.labels[k];
    const int64_t size = a.t.size(static_cast<int64_t>(k));
    const bool shared = has(b.labels, l);
    (shared ? (has(kept, l) ? batch : inner) : only_a).push_back(l);
    sizes[shared ? (has(kept, l) ? 0 : 2) : 1] *= size;
  }
  for (size_t k = 0; k < b.labels.size(); ++k) {
    if (has(a.labels, b.labels[k])) continue;
    only_b.push_back(b.labels[k]);
    sizes[3] *= b.t.size(static_cast<int64_t>(k));
  }
  const auto join = [](std::initializer_list<const Labels*> parts) {
    Labels all;
    for (const Labels* p : parts) all.insert(all.end(), p->begin(), p->end());
    return all;
  };
  Term out{{}, join({&batch, &only_a, &only_b})};
  if (out.labels.size() > kMaxRank) {
    throw ShapeError(
        fmt::format("einsum: equation \"{}\": a product of two operands has {} axes; at most {} "
                    "are accepted",
                    equation, out.labels.size(), kMaxRank));
  }
  for (Label l : out.labels) {
    shape.push_back(has(a.labels, l) ? a.t.size(position(a.labels, l))
                                     : b.t.size(position(b.labels, l)));
  }
  const auto [n_batch, rows, depth, columns] = sizes;
  if (inner.empty()) {
    const Tensor left = reshape(permuted_to(a, join({&batch, &only_a})), {n_batch, rows, 1});
    const Tensor right = reshape(permuted_to(b, join({&batch, &only_b})), {n_batch, 1, columns});
    out.t = reshape(left * right, shape);
    return out;
  }
  const Tensor left = permuted_to(a, join({&batch, &only_a, &inner}));
  const Tensor right = permuted_to(b, join({&batch, &inner, &only_b}));
  check_floating("einsum", left, "an operand");
  out.t = batch.empty() ? matmul(reshape(left, {rows, depth}), reshape(right, {depth, columns}))
                        : matmul(reshape(left, {n_batch, rows, depth}),
                                 reshape(right, {n_batch, depth, columns}));
  out.t = reshape(out.t, shape);
  return out;
}

}  // namespace

Tensor einsum(const std::string& equation, std::span<const Tensor> operands) {
  if (operands.empty()) throw ValueError("einsum: no operands given; at least one is needed");
  const Equation e = parse(equation, operands);
  check_sizes(equation, e, operands);
  check_same_device("einsum", "operand", operands);
  DType dtype = operands[0].dtype();
  for (const Tensor& t : operands) dtype = promote(dtype, t.dtype());
  Term current = diagonals({cast(operands[0], dtype), e.inputs[0]});
  for (size_t i = 1; i < operands.size(); ++i) {
    Labels kept = e.output;
    for (size_t k = i + 1; k < operands.size(); ++k) {
      kept.insert(kept.end(), e.inputs[k].begin(), e.inputs[k].end());
    }
    current = contract(equation, current, diagonals({cast(operands[i], dtype), e.inputs[i]}), kept);
  }
  current = summed(current, [&](Label l) { return !has(e.output, l); });
  return permuted_to(current, e.output);
}

Tensor einsum(const std::string& equation, std::initializer_list<Tensor> operands) {
  return einsum(equation, std::span(operands.begin(), operands.size()));
}

}  // namespace flowgrad
