#include <algorithm>
#include <numeric>

#include "autograd/conformance.h"

/// Conformance C70 to C80: broadcasting, indexing, systematic shapes, dtypes, layers.
namespace flowgrad::conformance {
namespace {

Tensor ramp(const Shape& shape, double start, double step) {
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = start + step * static_cast<double>(i);
  return values(v, shape);
}

TEST_CASE("C70 eight binary operations over all pairs of four shapes",
          "[conformance_shapes][conformance_total][device]") {
  const Case c("C70");
  const std::map<std::string, Tensor (*)(const Tensor&, const Tensor&)> ops{
      {"add", add}, {"sub", sub},     {"mul", mul},        {"div", div}, {"remainder", remainder},
      {"pow", pow}, {"atan2", atan2}, {"maximum", maximum}};
  int seen = 0;
  for (const PinnedLine& row : pinned("C70")) {
    const Tensor a = ramp(row.at("a").dims(), 1.35, .37).requires_grad_();
    const Tensor b = ramp(row.at("b").dims(), .8, .11).requires_grad_();
    INFO(row.at("op").word << " of " << a.shape().to_string() << " and " << b.shape().to_string());
    const Tensor y = ops.at(row.at("op").word)(a, b);
    const auto g = grads(y, {a, b}, fill(y.shape()));
    CHECK(differs({weigh(y)}, row.at("y").numbers()) == "");
    CHECK(differs({weigh(g[0])}, row.at("da").numbers(), 1e-11) == "");
    CHECK(differs({weigh(g[1])}, row.at("db").numbers(), 1e-11) == "");
    ++seen;
  }
  CHECK(seen == 128);
}

TEST_CASE("C71 gradients of broadcasting and of a matrix product",
          "[conformance_shapes][conformance_total][device]") {
  const Case c("C71");
  const Tensor a = fill({3, 1}).requires_grad_();
  const Tensor b = fill({1, 4}, 1).requires_grad_();
  const auto g = grad(sum(a + b), {a, b});
  CHECK(differs(g[0], values({4, 4, 4}, {3, 1})) == "");
  CHECK(differs(g[1], values({3, 3, 3, 3}, {1, 4})) == "");
  const Tensor x = eye(3, DType::float64, test_device()).requires_grad_();
  const Tensor y = leaf({2, 0, -2}, {1, 3});
  const auto h = grad(sum(matmul(y, x)), {x, y});
  CHECK(differs(h[0], values({2, 2, 2, 0, 0, 0, -2, -2, -2}, {3, 3})) == "");
  CHECK(differs(h[1], values({1, 1, 1}, {1, 3})) == "");
}

TEST_CASE("C72 repeated indices add up", "[conformance_shapes][conformance_total][device]") {
  const Case c("C72");
  const Tensor x = fill({4, 4}).requires_grad_();
  const Tensor rows = grad(sum(index_select(x, 0, indices({1, 1, 3, 2, 1, 2}))), x);
  CHECK(differs(rows, values({0, 0, 0, 0, 3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1}, {4, 4})) == "");
  // x[[[1, 2], [0, 0]], [[0, 1], [1, 1]]] by flat positions.
  const Tensor pairs = index_select(reshape(x, {16}), 0, indices({4, 9, 1, 1}));
  CHECK(differs(grad(sum(pairs), x), pinned("C72")[1].at("pairs").numbers()) == "");
  const Tensor table = fill({3, 2}).requires_grad_();
  CHECK(differs(grad(sum(embedding(table, indices({0, 2, 2}), 0)), table), {0, 0, 0, 0, 2, 2}) ==
        "");
  const Tensor single = cast(fill({3, 2}), DType::float32).requires_grad_();
  const Tensor many = indices(std::vector<int64_t>(65536, 2));
  CHECK(differs(grad(sum(embedding(single, many)), single), {0, 0, 0, 0, 65536, 65536}, 0) == "");
}

TEST_CASE("C73 sort, running extremes and the largest, to second order",
          "[conformance_shapes][conformance_total][device]") {
  const Case c("C73");
  const auto rows = pinned("C73");
  const auto cubes = [](const Function& f) {
    return [f](const Tensor& x) { return sum(pow(f(x), 3)) / 3; };
  };
  const Tensor at = values({3, 1, 2, 5, 4});
  const Tensor w = values({10, 20, 30, 40, 50});
  const Tensor x = leaf({3, 1, 2, 5, 4});
  CHECK(differs(sort(x).first, {1, 2, 3, 4, 5}) == "");
  CHECK(differs(grads(sort(x).first, {x}, w)[0], {30, 10, 20, 50, 40}) == "");
  const auto weighted = [&](const Tensor& t) { return sum(w * pow(sort(t).first, 3)) / 3; };
  CHECK(differs(hessian_row_sums(weighted, at), rows[0].at("sort_second").numbers()) == "");
  const auto running = [&](const char* name, auto f, const PinnedLine& row) {
    const Tensor t = leaf({3, 3, 1, 5, 5});
    CHECK(differs(grad(sum(f(t, 0).first), t), row.at(name).numbers()) == "");
    CHECK(differs(f(t, 0).second, row.at("indices").numbers()) == "");
    const Function values_of = [f](const Tensor& u) { return f(u, 0).first; };
    CHECK(differs(hessian_row_sums(cubes(values_of), t), row.at("second").numbers()) == "");
  };
  running("cummax", cummax, rows[1]);
  running("cummin", cummin, rows[2]);
  const Tensor m = leaf({1, 2, 6, 4, 5, 9, 5, 6, 7, 8}, {2, 5});
  const Function top = [](const Tensor& t) { return topk(t, 2).first; };
  CHECK(differs(top(m), values({6, 5, 9, 8}, {2, 2})) == "");
  CHECK(differs(grad(sum(top(m)), m), rows[3].at("topk2").numbers()) == "");
  CHECK(differs(hessian_row_sums(cubes(top), m), rows[3].at("second").numbers()) == "");
}

TEST_CASE("C74 scattering sums and maxima", "[conformance_shapes][conformance_total][device]") {
  const Case c("C74");
  for (const PinnedLine& row : pinned("C74")) {
    const Tensor base = leaf({1, 2, 3, 4});
    const Tensor update = leaf(row.at("update").numbers());
    const auto f = row.at("op").word == "add" ? scatter_add : scatter_max;
    const Tensor y = f(base, 0, indices({1, 3}), update);
    CHECK(differs(y, row.at("y").numbers()) == "");
    const auto g = grads(y, {base, update}, values({4, 5, 6, 7}));
    CHECK(differs(g[0], row.at("dbase").numbers()) == "");
    CHECK(differs(g[1], row.at("dupdate").numbers()) == "");
  }
}

TEST_CASE("C75 overlapping strides", "[conformance_shapes][conformance_total][device]") {
  const Case c("C75");
  for (const PinnedLine& row : pinned("C75")) {
    if (row.count("dv")) continue;
    const Tensor x = ones64({11}).requires_grad_();
    const Dims shape = row.at("shape").dims();
    const Tensor y = as_strided(x, shape, row.at("strides").dims(),
                                static_cast<int64_t>(row.at("offset").number()));
    const Tensor cotangent = shape[0] == 5 ? ones64({5, 5}) : ramp({3, 3}, 0, 1);
    CHECK(differs(grads(y, {x}, cotangent)[0], row.at("dx").numbers()) == "");
  }
  const Tensor v = leaf({1});
  CHECK(differs(grad(sum(matmul(values({1, 2, 3, 4}, {2, 2}), expand(v, {2}))), v), {10}) == "");
}

using Many = std::vector<Tensor>;

/// Contracts the named axes: PyTorch's tensordot with lists, by moving them to where ours takes
/// them.
Tensor dot_axes(const Tensor& a, const Tensor& b, const Pinned& axes) {
  if (!axes.is_list) return tensordot(a, b, static_cast<int64_t>(axes.number()));
  const auto normal = [](const Pinned& list, const Tensor& t) {
    Dims out;
    for (int64_t i : list.dims()) out.push_back(i < 0 ? i + t.rank() : i);
    return out;
  };
  const Dims ka = normal(axes.items[0], a);
  const Dims kb = normal(axes.items[1], b);
  const auto free = [](const Tensor& t, const Dims& taken) {
    Dims out;
    for (int64_t i = 0; i < t.rank(); ++i) {
      if (std::find(taken.begin(), taken.end(), i) == taken.end()) out.push_back(i);
    }
    return out;
  };
  Dims order_a = free(a, ka);
  for (int64_t i : ka) order_a.push_back(i);
  Dims order_b = kb;
  for (int64_t i : free(b, kb)) order_b.push_back(i);
  return tensordot(permute(a, order_a), permute(b, order_b), ka.rank());
}

Many shape_case(const PinnedLine& row, const Many& in, std::string& name) {
  const auto has = [&](const char* key) {
    if (row.count(key)) name = key;
    return row.count(key) != 0;
  };
  const auto whole = [&](const std::string& key) {
    return static_cast<int64_t>(row.at(key).number());
  };
  if (has("einsum")) return {einsum(row.at(name).word, in)};
  if (has("tensordot")) return {dot_axes(in[0], in[1], row.at(name))};
  if (has("permute")) return {permute(in[0], row.at(name).dims())};
  if (has("tril")) return {tril(in[0], whole(name))};
  if (has("triu")) return {triu(in[0], whole(name))};
  if (has("diag")) return {diag(in[0], whole(name))};
  if (has("roll")) return {roll(in[0], row.at(name).dims()[0], row.at(name).dims()[1])};
  if (has("concat")) return {concat(in, whole(name))};
  if (has("stack")) return {stack(in, whole(name))};
  if (has("split_in_4")) return chunk(in[0], 4, whole(name));
  if (has("split_at_1_2")) return split(in[0], {1, 1, in[0].size(whole(name)) - 2}, whole(name));
  if (has("pad")) {
    const Dims p = row.at(name).dims();
    return {pad(in[0], {{p[0], p[1]}, {p[2], p[3]}})};
  }
  if (has("repeat_each_twice_axis")) {
    std::vector<int64_t> index(static_cast<size_t>(2 * in[0].size(whole(name))));
    for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<int64_t>(i / 2);
    return {index_select(in[0], whole(name), indices(index))};
  }
  return {};
}

TEST_CASE("C76 einsum, tensordot and the operations of shape, systematically",
          "[conformance_shapes][conformance_total][device]") {
  const Case c("C76");
  std::map<std::string, int> seen;
  for (const PinnedLine& row : pinned("C76")) {
    if (row.count("split_dx")) continue;
    Many in;
    for (const Pinned& shape : row.at("in").items)
      in.push_back(fill(shape.dims(), static_cast<int64_t>(in.size())).requires_grad_());
    std::string name;
    const Many out = shape_case(row, in, name);
    ++seen[name];
    INFO(name << " " << row.at(name).word << " line " << seen[name]);
    REQUIRE(out.size() == row.at("out").items.size());
    Many cotangents;
    for (size_t i = 0; i < out.size(); ++i) {
      CHECK(out[i].shape() == row.at("out").items[i].dims());
      cotangents.push_back(fill(out[i].shape(), 9 + static_cast<int64_t>(i)));
    }
    const auto weights = [](const Many& list) {
      std::vector<double> w;
      for (const Tensor& t : list) w.push_back(weigh(t));
      return w;
    };
    CHECK(differs(weights(out), row.at("y").numbers()) == "");
    CHECK(differs(weights(grad(out, in, cotangents)), row.at("g").numbers()) == "");
  }
  CHECK(seen["einsum"] == 20);
  CHECK(seen["tensordot"] == 10);
  CHECK(seen["permute"] == 6);
  CHECK(seen.size() == 13);
  const Tensor x = ramp({6}, 0, 1).requires_grad_();
  const auto p = split(x, {2, 2, 2});
  CHECK(differs(grad(sum(p[0] * p[1] + p[2]), x), {2, 3, 0, 1, 1, 1}) == "");
}

TEST_CASE("C77 the gradient has the leaf's dtype and axis order",
          "[conformance_shapes][conformance_total][device]") {
  const Case c("C77");
  const Tensor x = tensor({1.5, 2.5}, DType::float32, test_device()).requires_grad_();
  const Tensor g = grad(sum(cast(x, DType::float64) * 3), x);
  CHECK(g.dtype() == DType::float32);
  CHECK(differs(g, {3, 3}) == "");
  const Tensor turned = transpose(fill({2, 3})).detach().requires_grad_();
  CHECK(turned.strides() == Strides{1, 3});
  backward(sum(turned * 2));
  CHECK(not_all(turned.grad(), 2) == "");
  CHECK(turned.grad().strides() == Strides{1, 3});
  backward(sum(turned * turned));
  CHECK(differs(turned.grad(), 2 + 2 * transpose(fill({2, 3}))) == "");
  // A leaf whose elements share memory gets a gradient whose elements do not.
  const Tensor shared = as_strided(fill({5}), {3, 3}, {1, 1}).detach().requires_grad_();
  backward(shared * shared, ramp({3, 3}, 1, 1));
  CHECK(differs(shared.grad(), 2 * shared.detach() * ramp({3, 3}, 1, 1)) == "");
}

/// Value, gradients with the cotangent fill(9), gradients of sum_k <g_k, fill(5 + k)>, against the
/// pinned.
void check_orders(const PinnedLine& row, const MultiFunction& f, const Many& inputs, double rtol) {
  Many in;
  for (const Tensor& t : inputs) in.push_back(t.detach().requires_grad_());
  const Tensor y = f(in)[0];
  CHECK(differs(y, row.at("y").numbers(), rtol) == "");
  const Tensor cotangent = fill(y.shape(), 9);
  const Many g = grad(std::span(&y, 1), in, std::span(&cotangent, 1), {.create_graph = true});
  Tensor total = number(0);
  for (size_t k = 0; k < g.size(); ++k) {
    const auto& want = row.at("g").items;
    CHECK(differs(g[k], (g.size() == 1 ? row.at("g") : want[k]).numbers(), rtol) == "");
    total = total + sum(g[k] * fill(g[k].shape(), 5 + static_cast<int64_t>(k)));
  }
  const Many h = grad(std::span(&total, 1), in, {}, {.allow_unused = true});
  for (size_t k = 0; k < h.size(); ++k) {
    const auto want = (h.size() == 1 ? row.at("second") : row.at("second").items[k]).numbers();
    CHECK(differs(h[k].defined() ? h[k] : zeros_like(in[k]), want, rtol) == "");
  }
}

TEST_CASE("C78 softmax's Jacobian; layer norm, attention, cross-entropy",
          "[conformance_shapes][conformance_total][device]") {
  const Case c("C78");
  const auto rows = pinned("C78");
  const Tensor j = jacobian([](const Tensor& x) { return softmax(x); }, values({1, 2, 3}));
  CHECK(differs(j, rows[0].at("softmax_jacobian").numbers()) == "");
  CHECK(differs(select(j, 0, 0), {.08192506906499322, -.02203304452017429, -.059892024544818914}) ==
        "");
  const double rtol = 2e-12;
  const Many norm_in{fill({2, 3}), fill({3}, 1), fill({3}, 2)};
  check_orders(
      rows[1], [](auto in) { return Many{layer_norm(in[0], {3}, in[1], in[2])}; }, norm_in, rtol);
  const auto composed_norm = [](std::span<const Tensor> in) {
    const Tensor centred = in[0] - mean(in[0], {1}, true);
    return Many{centred / sqrt(mean(centred * centred, {1}, true) + 1e-5) * in[1] + in[2]};
  };
  check_orders(rows[1], composed_norm, norm_in, rtol);
  const auto attention = [](std::span<const Tensor> in) {
    return Many{matmul(softmax(matmul(in[0], transpose(in[1])) / std::sqrt(2.0)), in[2])};
  };
  check_orders(rows[2], attention, {fill({2, 2}), fill({3, 2}, 1), fill({3, 2}, 2)}, rtol);
  const Tensor labels = indices({2, 0});
  check_orders(
      rows[3], [&](auto in) { return Many{cross_entropy(in[0], labels)}; }, {fill({2, 3})}, rtol);
  const auto composed_loss = [&](std::span<const Tensor> in) {
    return Many{mean(logsumexp(in[0], {1}) - sum(in[0] * one_hot(labels, 3, DType::float64), {1}))};
  };
  check_orders(rows[3], composed_loss, {fill({2, 3})}, rtol);
}

TEST_CASE("C79 a gradient penalty", "[conformance_shapes][conformance_total][device]") {
  const Case c("C79");
  const Tensor w = leaf({1, 2, 3, 4}, {2, 2});
  const Tensor x = leaf({.5, -.25});
  const Tensor gx = grad(sum(tanh(matmul(w, x))), x, {.create_graph = true});
  const Tensor y = square(norm(gx) - 1);
  CHECK(differs(y, {26.473809794393453}) == "");
  CHECK(differs(grad(y, w), {5.62537630474038, 8.616866054873968, -14.23578847631983,
                             16.106641233258262}) == "");
}

TEST_CASE("C80 divergence, exact and by all four probes",
          "[conformance_shapes][conformance_total][device]") {
  const Case c("C80");
  const Function f = [](const Tensor& x) {
    const Tensor a = select(x, 1, 0);
    const Tensor b = select(x, 1, 1);
    return stack({a * b, sin(b) + a}, 1);
  };
  CHECK(differs(divergence(f, values({.3, .7}, {1, 2})).derivative, {1.4648421872844883}) == "");
  // One row for each probe: rows do not mix.
  const Tensor at = values({.1, .2, .1, .2, .1, .2, .1, .2}, {4, 2});
  const Tensor probes = values({-1, -1, -1, 1, 1, -1, 1, 1}, {4, 2});
  CHECK(differs(mean(hutchinson_divergence(f, at, probes).derivative), {1.1800665778412416}) == "");
  CHECK(differs(divergence(f, at).derivative, std::vector<double>(4, 1.1800665778412416)) == "");
}

}  // namespace
}  // namespace flowgrad::conformance
