#include "autograd/op_golden.h"

#include <limits>

namespace flowgrad::testing {
namespace {

Dims dims(const Json& j) {
  Dims out;
  if (j.is_array()) {
    for (const Json& v : j) out.push_back(v.get<int64_t>());
  }
  return out;
}
Dims axes_of(const Json& p) {
  if (p.contains("axis")) return {p["axis"].get<int64_t>()};
  return p.contains("axes") ? dims(p["axes"]) : Dims{};
}
bool keep(const Json& p) { return p.value("keepdim", false); }
int64_t integer(const Json& p, const char* key, int64_t otherwise = 0) {
  return p.value(key, otherwise);
}
double number(const Json& p, const char* key, double otherwise) { return p.value(key, otherwise); }
Reduction reduction(const Json& p) {
  const std::string r = p.at("reduction");
  return r == "none" ? Reduction::none : r == "sum" ? Reduction::sum : Reduction::mean;
}
Size2d size2d(const Json& pair) { return {pair[0].get<int64_t>(), pair[1].get<int64_t>()}; }

Tensors rolled(const Json& p, In x) {
  if (p["axes"].empty()) return {reshape(roll(flatten(x[0]), p["shifts"][0], 0), x[0].shape())};
  Tensor t = x[0];
  for (size_t i = 0; i < p["axes"].size(); ++i) t = roll(t, p["shifts"][i], p["axes"][i]);
  return {t};
}

Tensors squeezed_all(const Json& p, In x) {
  if (p.contains("axis")) return {squeeze(x[0], p["axis"])};
  Tensor t = x[0];
  for (int axis = t.rank() - 1; axis >= 0; --axis) {
    if (t.shape()[axis] == 1) t = squeeze(t, axis);
  }
  return {t};
}

Tensors split_up(const Json& p, In x) {
  const int64_t axis = p["axis"];
  if (p.contains("sizes")) return split(x[0], p["sizes"].get<std::vector<int64_t>>(), axis);
  std::vector<int64_t> sizes;
  for (int64_t left = x[0].size(axis); left > 0; left -= sizes.back()) {
    sizes.push_back(std::min<int64_t>(left, p["size"]));
  }
  return split(x[0], sizes, axis);
}

Tensors padded(const Json& p, In x) {
  std::vector<std::pair<int64_t, int64_t>> pads;
  for (const Json& pair : p["before_after"]) pads.emplace_back(pair[0], pair[1]);
  return {pad(x[0], pads, p["value"])};
}

Tensors power(const Json& p, In x) {
  if (p.contains("exponent")) return {pow(x[0], p["exponent"].get<double>())};
  if (p.contains("base")) return {pow(full({}, p["base"], x[0].dtype(), x[0].device()), x[0])};
  return {pow(x[0], x[1])};
}

Tensors lstm_of(const Json& p, In x) {
  size_t next = 1;
  Tensor h, c;
  if (p["inputs"][1] == "h0") {
    h = x[1];
    c = x[2];
    next = 3;
  }
  std::vector<LstmWeights> weights;
  for (; next + 3 < x.size(); next += 4)
    weights.push_back({x[next], x[next + 1], x[next + 2], x[next + 3]});
  Tensor lengths;
  if (p["lengths"].is_array()) {
    const auto v = p["lengths"].get<std::vector<int64_t>>();
    lengths = Tensor::from(v, {static_cast<int64_t>(v.size())}, DType::int64, x[0].device());
  }
  return list(lstm(x[0], weights, p["bidirectional"], lengths, h, c));
}

Tensors convolved(const Json& p, In x) {
  const ConvOptions options{size2d(p["stride"]), size2d(p["padding"]), size2d(p["dilation"]),
                            p["groups"]};
  return {conv2d(x[0], x[1], x.size() > 2 ? x[2] : Tensor(), options)};
}

Tensors pooled(const Json& p, In x) {
  return {avg_pool2d(x[0], size2d(p["kernel_size"]), size2d(p["stride"]), size2d(p["padding"]),
                     p["count_include_pad"])};
}

#define P(...)                         \
  [](const Json& p, In x) -> Tensors { \
    (void)p;                           \
    return list(__VA_ARGS__);          \
  }
#define SAME(name)                  \
  {                                 \
#name, { #name, P(name(x[0])) } \
  }
#define SAME2(name)                       \
  {                                       \
#name, { #name, P(name(x[0], x[1])) } \
  }
#define REDUCED(golden, name)                             \
  {                                                       \
    golden, { #name, P(name(x[0], axes_of(p), keep(p))) } \
  }
#define SCANNED(name)                          \
  {                                            \
#name, { #name, P(name(x[0], p["axis"])) } \
  }

/// The gradient of sum(of^2), on the tape.
Tensor gradient(const Tensor& of, const Tensor& at) {
  if (!of.requires_grad()) return zeros_like(at);
  const Tensors outputs{sum(square(of))}, inputs{at};
  const Tensor g = grad(outputs, inputs, {}, {.create_graph = true, .allow_unused = true})[0];
  return g.defined() ? g : zeros_like(at);
}

/// golden/random_programs.py: the inputs, and what each step makes of tensors before it.
Tensors run_steps(const Json& steps, In x) {
  Tensors values(x.begin(), x.end());
  for (const Json& step : steps) {
    const std::string op = step["op"];
    Tensors operands;
    for (const Json& place : step["in"]) operands.push_back(values[place.get<size_t>()]);
    if (op == "grad") {
      values.push_back(gradient(operands[0], operands[1]));
    } else if (op == "checkpoint") {
      const auto inner = [&step](In v) { return Tensors{run_steps(step["steps"], v).back()}; };
      values.push_back(checkpoint(inner, operands)[0]);
    } else if (op == "detach") {
      values.push_back(operands[0].detach());
    } else if (op == "where") {
      values.push_back(where(greater(operands[0], 0), operands[1], operands[2]));
    } else {
      values.push_back(pinned_functions().at(op).f(step, operands)[0]);
    }
  }
  return values;
}

Tensors program(const Json& p, In x) {
  const Tensors values = run_steps(p["steps"], x);
  Tensors out;
  for (const Json& place : p["places"]) out.push_back(values[place.get<size_t>()]);
  return out;
}

using Table = std::map<std::string, Pinned>;

void add_elementwise(Table& t) {
  t.insert({SAME(neg),   SAME(abs),     SAME(sign),       SAME(floor),      SAME(round),
            SAME(exp),   SAME(expm1),   SAME(log),        SAME(log1p),      SAME(sqrt),
            SAME(rsqrt), SAME(square),  SAME(reciprocal), SAME(sin),        SAME(cos),
            SAME(asin),  SAME(acos),    SAME(atan),       SAME(asinh),      SAME(acosh),
            SAME(atanh), SAME(tan),     SAME(tanh),       SAME(sinh),       SAME(cosh),
            SAME(erf),   SAME(sigmoid), SAME(logsigmoid), SAME(relu),       SAME(silu),
            SAME(gelu),  SAME(mish),    SAME(isfinite),   SAME(logical_not)});
  t.insert({SAME2(add), SAME2(sub), SAME2(mul), SAME2(div), SAME2(maximum), SAME2(minimum),
            SAME2(atan2), SAME2(remainder), SAME2(logaddexp), SAME2(logical_and), SAME2(logical_or),
            SAME2(logical_xor)});
  t["eq"] = {"equal", P(equal(x[0], x[1]))};
  t["ne"] = {"not_equal", P(not_equal(x[0], x[1]))};
  t["lt"] = {"less", P(less(x[0], x[1]))};
  t["le"] = {"less_equal", P(less_equal(x[0], x[1]))};
  t["gt"] = {"greater", P(greater(x[0], x[1]))};
  t["ge"] = {"greater_equal", P(greater_equal(x[0], x[1]))};
  t["pow"] = {"pow", power};
  t["softplus"] = {"softplus", P(p.contains("beta") ? softplus(x[0] * p["beta"].get<double>()) /
                                                          p["beta"].get<double>()
                                                    : softplus(x[0]))};
  t["leaky_relu"] = {"leaky_relu", P(leaky_relu(x[0], number(p, "slope", 0.01)))};
  t["elu"] = {"elu", P(elu(x[0], number(p, "alpha", 1)))};
  t["hardtanh"] = {"hardtanh", P(hardtanh(x[0], number(p, "min", -1), number(p, "max", 1)))};
  t["clamp"] = {"clamp", P(clamp(x[0], number(p, "min", -std::numeric_limits<double>::infinity()),
                                 number(p, "max", std::numeric_limits<double>::infinity())))};
  t["where"] = {"where", P(where(x[0], x[1], x[2]))};
  t["program"] = {"add", program};
}

void add_reductions(Table& t) {
  t.insert({REDUCED("sum", sum), REDUCED("mean", mean), REDUCED("prod", prod), REDUCED("amax", max),
            REDUCED("amin", min), REDUCED("any", any), REDUCED("all", all),
            REDUCED("logsumexp", logsumexp), SCANNED(cumsum), SCANNED(cumprod),
            SCANNED(logcumsumexp), SCANNED(cummax), SCANNED(cummin)});
  t["var"] = {"var", P(var(x[0], axes_of(p), number(p, "correction", 1), keep(p)))};
  t["std"] = {"std", P(std(x[0], axes_of(p), number(p, "correction", 1), keep(p)))};
  t["norm"] = {"norm",
               P(norm(x[0], axes_of(p), std::stod(p.value("p", std::string("2"))), keep(p)))};
  t["max"] = {
      "max_with_index",
      P(p.contains("axis") ? list(max_with_index(x[0], p["axis"], keep(p))) : list(max(x[0])))};
  t["min"] = {
      "min_with_index",
      P(p.contains("axis") ? list(min_with_index(x[0], p["axis"], keep(p))) : list(min(x[0])))};
  t["median"] = {"median", P(p.contains("axis") ? list(median(x[0], p["axis"], keep(p)))
                                                : list(median(x[0])))};
  t["argmax"] = {"argmax", P(p.contains("axis") ? argmax(x[0], p["axis"], keep(p))
                                                : argmax(flatten(x[0]), 0))};
  t["argmin"] = {"argmin", P(p.contains("axis") ? argmin(x[0], p["axis"], keep(p))
                                                : argmin(flatten(x[0]), 0))};
  t["softmax"] = {"softmax", P(softmax(x[0], p["axis"]))};
  t["log_softmax"] = {"log_softmax", P(log_softmax(x[0], p["axis"]))};
}

void add_structural(Table& t) {
  t["reshape"] = {"reshape", P(reshape(x[0], dims(p["shape"])))};
  t["view"] = {"view", P(view(x[0], dims(p["shape"])))};
  t["permute"] = {"permute", P(permute(x[0], dims(p["axes"])))};
  t["transpose"] = {"transpose", P(transpose(x[0], p["axis0"], p["axis1"]))};
  t["expand"] = {"expand", P(expand(x[0], dims(p["shape"])))};
  t["squeeze"] = {"squeeze", squeezed_all};
  t["unsqueeze"] = {"unsqueeze", P(unsqueeze(x[0], integer(p, "axis")))};
  t["slice"] = {"slice", P(slice(x[0], p["axis"], p["start"], p["stop"], p["step"]))};
  t["flip"] = {"flip", P(flip(x[0], dims(p["axes"])))};
  t["roll"] = {"roll", rolled};
  t["pad"] = {"pad", padded};
  t["concat"] = {"concat", P(concat(x, p["axis"]))};
  t["stack"] = {"stack", P(stack(x, p["axis"]))};
  t["split"] = {"split", split_up};
  t["chunk"] = {"chunk", P(chunk(x[0], p["chunks"], p["axis"]))};
  t["unbind"] = {"unbind", P(unbind(x[0], p["axis"]))};
  t["tril"] = {"tril", P(tril(x[0], p["k"]))};
  t["triu"] = {"triu", P(triu(x[0], p["k"]))};
  t["diag"] = {"diag", P(diag(x[0], p["k"]))};
  t["as_strided"] = {"as_strided",
                     P(as_strided(x[0], dims(p["shape"]), dims(p["strides"]), p["offset"]))};
  t["gather"] = {"gather", P(gather(x[0], p["axis"], x[1]))};
  t["scatter_add"] = {"scatter_add", P(scatter_add(x[0], p["axis"], x[1], x[2]))};
  t["scatter_max"] = {"scatter_max", P(scatter_max(x[0], p["axis"], x[1], x[2]))};
  t["index_select"] = {"index_select", P(index_select(x[0], p["axis"], x[1]))};
  t["embedding"] = {"embedding", P(p.contains("padding_idx")
                                       ? embedding(x[0], x[1], p["padding_idx"].get<int64_t>())
                                       : embedding(x[0], x[1]))};
  t["one_hot"] = {"one_hot", P(one_hot(x[0], p["classes"], DType::int64))};
  t["sort"] = {"sort", P(sort(x[0], p["axis"], p.value("descending", false)))};
  t["topk"] = {"topk", P(topk(x[0], p["k"], p["axis"], p["largest"].get<bool>()))};
}

void add_products(Table& t) {
  t.insert({SAME2(matmul), SAME2(cdist), SAME2(solve), SAME(det), SAME(slogdet), SAME(inverse),
            SAME(cholesky), SAME(lu)});
  t["addmm"] = {"addmm",
                P(addmm(x[0] * p["beta"].get<double>(), x[1] * p["alpha"].get<double>(), x[2]))};
  t["linear"] = {"linear", P(linear(x[0], x[1], x.size() > 2 ? x[2] : Tensor()))};
  t["einsum"] = {"einsum", P(einsum(p["equation"].get<std::string>(), x))};
  t["tensordot"] = {"tensordot", [](const Json& p, In x) -> Tensors {
                      if (!p["axes"].is_number())
                        throw std::domain_error("only the last axes with the first");
                      return {tensordot(x[0], x[1], p["axes"])};
                    }};
  t["triangular_solve"] = {"triangular_solve",
                           P(triangular_solve(x[0], x[1], p["upper"], p["unit"]))};
  t["layer_norm"] = {"layer_norm",
                     P(layer_norm(x[0], dims(p["normalized_shape"]), x.size() > 1 ? x[1] : Tensor(),
                                  x.size() > 2 ? x[2] : Tensor(), p["eps"]))};
  t["mse"] = {"mse_loss", P(mse_loss(x[0], x[1], reduction(p)))};
  t["cross_entropy"] = {"cross_entropy", P(cross_entropy(x[0], x[1], reduction(p)))};
  t["conv2d"] = {"conv2d", convolved};
  t["avg_pool2d"] = {"avg_pool2d", pooled};
  t["max_pool2d"] = {"max_pool2d_with_index", [](const Json& p, In x) -> Tensors {
                       auto [y, index] =
                           max_pool2d_with_index(x[0], size2d(p["kernel_size"]),
                                                 size2d(p["stride"]), size2d(p["padding"]));
                       return {y, index};
                     }};
  t["adaptive_max_pool2d"] = {"adaptive_max_pool2d",
                              P(adaptive_max_pool2d(x[0], p["size"][0], p["size"][1]))};
  t["adaptive_avg_pool2d"] = {"adaptive_avg_pool2d",
                              P(adaptive_avg_pool2d(x[0], p["size"][0], p["size"][1]))};
  t["lstm"] = {"lstm", lstm_of};
}

}  // namespace

const std::map<std::string, Pinned>& pinned_functions() {
  static const Table table = [] {
    Table t;
    add_elementwise(t);
    add_reductions(t);
    add_structural(t);
    add_products(t);
    return t;
  }();
  return table;
}

}  // namespace flowgrad::testing
