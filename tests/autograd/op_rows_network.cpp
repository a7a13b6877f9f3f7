#include <limits>

#include "autograd/op_table.h"
#include "device/device.h"

// Layers, losses, and operations that make tensors or write into them.
namespace flowgrad::testing {
namespace {

constexpr DType kFloat = DType::float32;

int64_t size_or(const Shape& s, int axis, int64_t otherwise) {
  return axis < s.rank() ? s[axis] : otherwise;
}

Op of_rows(const char* name, Tensor (*f)(const Tensor&, int64_t)) {
  Op op{name, [f](const Shape& s) { return Case{{{s}}, FN(f(x[0], -1)), {}}; }};
  const std::string n = name;
  op.also({{{3, 2}}}, FN(f(x[0], 0)));
  op.refuses((n + ": axis 2 given; a tensor of rank 2").c_str(), {{{3, 4}}}, FN(f(x[0], 2)));
  op.refuses((n + ": axis -3 given").c_str(), {{{3, 4}}}, FN(f(x[0], -3)));
  op.refuses((n + ": x is int64; float32 and float64").c_str(), {index_to({3}, 3)}, FN(f(x[0], 0)));
  return op.smooth().dtypes("refused refused refused").mixes("one tensor");
}

/// Sequences of 2 features and hidden size 2; the weights of one direction are x[1] to x[4].
Case sequences(const Shape& s) {
  if (s.empty()) return none("x (N, L, in) is needed");
  const int64_t in = size_or(s, 2, 2);
  return {{{{s[0], size_or(s, 1, 3), in}}, {{8, in}}, {{8, 2}}, {{8}}, {{8}}},
          FN(lstm(x[0], std::vector<LstmWeights>{{x[1], x[2], x[3], x[4]}})),
          {}};
}
Tensors lstm_with(In x, const std::vector<int64_t>& n) {
  const Tensor lengths =
      Tensor::from(n, {static_cast<int64_t>(n.size())}, DType::int64, x[0].device());
  const std::vector<LstmWeights> weights{{x[1], x[2], x[3], x[4]}};
  return list(lstm(x[0], weights, false, lengths));
}

Case images(const Shape& s) {
  if (s.empty()) return none("images (N, C, H, W) are needed");
  const int64_t channels = size_or(s, 1, 2);
  return {{{{s[0], channels, 3, size_or(s, 2, 3)}}, {{2, channels, 2, 2}}, {{2}}},
          FN(conv2d(x[0], x[1], x[2])),
          {}};
}
std::function<Case(const Shape&)> pictures(MultiFunction f) {
  return [f](const Shape& s) {
    if (s.empty()) return none("images (N, C, H, W) are needed");
    return Case{{{{s[0], size_or(s, 1, 2), 4, size_or(s, 2, 3)}}}, f, {}};
  };
}

/// A row of pooling, which is slow beyond small images.
Op pooling(const char* name, MultiFunction f) {
  return Op{name, pictures(std::move(f))}
      .tries({1, 1})
      .sizes_to(257)
      .dtypes("refused refused refused")
      .mixes("one tensor");
}

MultiFunction drop(double p, bool training = true) {
  return [=](In x) {
    Generator g(7);
    return list(dropout(x[0], p, g, training));
  };
}

}  // namespace

void add_network_rows(std::vector<Op>& t) {
  const char* real = "refused refused refused";
  t.push_back(of_rows("softmax", softmax));
  t.push_back(of_rows("log_softmax", log_softmax));
  t.push_back(
      Op{"layer_norm",
         [](const Shape& s) {
           if (s.empty()) return none("one axis or more is needed");
           return Case{
               {{s}, {{last(s)}}, {{last(s)}}}, FN(layer_norm(x[0], {last(s)}, x[1], x[2])), {}};
         }}
          .smooth()
          .dtypes(real)
          .also({{{2, 3}}}, FN(layer_norm(x[0], {3})))
          .also({{{2, 2, 3}}, {{2, 3}}}, FN(layer_norm(x[0], {2, 3}, x[1])))
          .refuses("layer_norm: x is (3, 4) and normalized_shape is (3,)", {{{3, 4}}},
                   FN(layer_norm(x[0], {3})))
          .refuses("layer_norm: weight is (3,) and normalized_shape is (4,); they must be equal",
                   {{{3, 4}}, {{3}}}, FN(layer_norm(x[0], {4}, x[1])))
          .refuses("layer_norm: x is (3, 4) and normalized_shape is ()", {{{3, 4}}},
                   FN(layer_norm(x[0], {}))));
  t.push_back(Op{"dropout",
                 [](const Shape& s) {
                   return Case{{{s}}, drop(0.3), {}};
                 }}
                  .smooth()
                  .dtypes(real)
                  .mixes("one tensor")
                  .hides_nan("the element may be dropped")
                  .also({{{2, 3}}}, drop(1))
                  .refuses("dropout: p = 1.5 given; 0 to 1", {{{3}}}, drop(1.5))
                  .refuses("dropout: p = -0.1 given", {{{3}}}, drop(-0.1))
                  .refuses("dropout: x is int64", {index_to({3}, 3)}, drop(0.5)));
  t.push_back(Op{"mse_loss", AT((std::vector<Arg>{{s}, {s}}), mse_loss(x[0], x[1]))}
                  .smooth()
                  .dtypes(real)
                  .also({{{2, 3}}, {{2, 3}}}, FN(mse_loss(x[0], x[1], Reduction::none)))
                  .also({{{2, 3}}, {{2, 3}}}, FN(mse_loss(x[0], x[1], Reduction::sum)))
                  .refuses("mse_loss: input is (3, 4), target is (4,); equal shapes",
                           {{{3, 4}}, {{4}}}, FN(mse_loss(x[0], x[1])))
                  .refuses("mse_loss: input is int64", {index_to({3}, 3), index_to({3}, 3)},
                           FN(mse_loss(x[0], x[1])))
                  .refuses("mse_loss: input is (), target is (1,)", {{{}}, {{1}}},
                           FN(mse_loss(x[0], x[1]))));
  t.push_back(
      Op{"cross_entropy",
         [](const Shape& s) {
           if (s.rank() != 1) return none("(N, C) and (N,) are needed");
           return Case{{{{last(s), 5}}, index_to(s, 5)}, FN(cross_entropy(x[0], x[1])), {}};
         }}
          .smooth()
          .tries({3})
          .dtypes(real)
          .mixes("one tensor")
          .also({{{3, 4}}, index_to({3}, 4)}, FN(cross_entropy(x[0], x[1], Reduction::none)))
          .also({{{3, 2}}, index_to({3}, 2)}, FN(cross_entropy(x[0], x[1], Reduction::sum, 1)))
          .refuses("cross_entropy: class 4 given in row 0 of target; 0 to 3",
                   {{{2, 4}}, {{2}, 4, 5, Fill::index}}, FN(cross_entropy(x[0], x[1])))
          .refuses("cross_entropy: logits are (2, 4), target is (3,)", {{{2, 4}}, index_to({3}, 4)},
                   FN(cross_entropy(x[0], x[1])))
          .refuses("cross_entropy: target is float64; int64 classes", {{{2, 4}}, {{2}}},
                   FN(cross_entropy(x[0], x[1]))));
  t.push_back(
      Op{"conv2d", images}
          .smooth()
          .tries({1, 1})
          .sizes_to(129)
          .dtypes(real)
          .also({{{1, 2, 4, 3}}, {{2, 1, 2, 2}}}, FN(conv2d(x[0], x[1], {}, {2, 1, 1, 2})))
          .also({{{1, 1, 5, 4}}, {{1, 1, 2, 2}}, {{1}}}, FN(conv2d(x[0], x[1], x[2], {1, 0, 2, 1})))
          .also({{{1, 2, 5, 4}}, {{2, 2, 2, 2}}}, FN(conv2d(x[0], x[1], {}, {3, 0, 1, 1})))
          .also({{{1, 1, 2, 3}}, {{2, 1, 1, 1}}}, FN(conv2d(x[0], x[1], {}, {2, 2, 1, 1})))
          .also({{{1, 2, 3, 3}}, {{2, 1, 2, 2}}, {{2}}}, FN(conv2d(x[0], x[1], x[2], {1, 2, 2, 2})))
          .also({{{2, 3, 4}}, {{2, 2, 2, 2}}, {{2}}}, FN(conv2d(x[0], x[1], x[2], {1, 1, 1, 1})))
          .also({{{1, 1, 3, 3}}, {{2, 1, 2, 2}}, {{2}}},
                FN(conv2d(x[0], x[1], x[2], {1, 0, 1, 1, Epilogue::sigmoid})))
          .refuses("conv2d: x is (3, 4); images (N, C, H, W)", {{{3, 4}}, {{1, 1, 2, 2}}},
                   FN(conv2d(x[0], x[1])))
          .refuses("conv2d: bias is (3,), weight is (2, 1, 2, 2)",
                   {{{1, 1, 4, 4}}, {{2, 1, 2, 2}}, {{3}}}, FN(conv2d(x[0], x[1], x[2])))
          .refuses("conv2d: x is (1, 1, 2, 2); the kernel covers 3 elements of axis 2",
                   {{{1, 1, 2, 2}}, {{1, 1, 3, 3}}}, FN(conv2d(x[0], x[1])))
          .also({{{1, 2, 4, 5}}, {{2, 2, 1, 3}}},
                FN(conv2d(x[0], x[1], {}, {{2, 1}, {0, 2}, {1, 2}})))
          .refuses("conv2d: padding = (0, -1) given", {{{1, 1, 4, 4}}, {{1, 1, 2, 2}}},
                   FN(conv2d(x[0], x[1], {}, {1, {0, -1}})))
          .also({{{1, 1, 4, 3}}, {{1, 1, 2, 2}}}, FN(conv2d(x[0], x[1], {}, {1000000})))
          .refuses("conv2d: dilation = 4611686018427387904 given; at most 16777216",
                   {{{1, 1, 4, 4}}, {{1, 1, 2, 2}}},
                   FN(conv2d(x[0], x[1], {}, {1, 0, int64_t{1} << 62})))
          .refuses("conv2d: stride = 0 given", {{{1, 1, 4, 4}}, {{1, 1, 2, 2}}},
                   FN(conv2d(x[0], x[1], {}, {0}))));
  t.push_back(
      pooling("avg_pool2d", FN(avg_pool2d(x[0], 2)))
          .smooth()
          .also({{{1, 1, 4, 3}}}, FN(avg_pool2d(x[0], 2, 1, 1)))
          .also({{{1, 1, 4, 3}}}, FN(avg_pool2d(x[0], 2)))
          .also({{{2, 4, 3}}}, FN(avg_pool2d(x[0], 2, 1)))
          .also({{{1, 2, 4, 3}}}, FN(avg_pool2d(x[0], {3, 2}, {1, 2}, {1, 0}, false)))
          .refuses("avg_pool2d: x is (3, 4); images", {{{3, 4}}}, FN(avg_pool2d(x[0], 2)))
          .refuses("avg_pool2d: padding = 2 given with kernel = 2; at most half", {{{1, 1, 4, 4}}},
                   FN(avg_pool2d(x[0], 2, 1, 2)))
          .refuses("avg_pool2d: padding = (1, 2) given with kernel = (2, 3); at most half",
                   {{{1, 1, 4, 4}}}, FN(avg_pool2d(x[0], {2, 3}, 1, {1, 2})))
          .refuses("avg_pool2d: x is (1, 1, 0, 4); images of height and width at least 1",
                   {{{1, 1, 0, 4}}}, FN(avg_pool2d(x[0], 2, 1, 1, false)))
          .refuses("avg_pool2d: padding = 9223372036854775807 given; at most 16777216",
                   {{{1, 1, 4, 4}}}, FN(avg_pool2d(x[0], 2, 1, INT64_MAX)))
          .also({{{1, 2, 3, 1}}}, FN(avg_pool2d(x[0], {2, 5}, 1000000, {1, 2}, false)))
          .refuses("avg_pool2d: kernel = 0 given", {{{1, 1, 4, 4}}}, FN(avg_pool2d(x[0], 0))));
  t.push_back(pooling("adaptive_avg_pool2d", FN(adaptive_avg_pool2d(x[0], 3, 2)))
                  .smooth()
                  .also({{{1, 1, 2, 3}}}, FN(adaptive_avg_pool2d(x[0], 1, 4)))
                  .also({{{2, 3, 4}}}, FN(adaptive_avg_pool2d(x[0], 2, 3)))
                  .refuses("adaptive_avg_pool2d: x is (3, 4); images", {{{3, 4}}},
                           FN(adaptive_avg_pool2d(x[0], 2, 2)))
                  .refuses("adaptive_avg_pool2d: height = 0 given", {{{1, 1, 4, 4}}},
                           FN(adaptive_avg_pool2d(x[0], 0, 2)))
                  .refuses("at least 1 are accepted", {{{1, 1, 0, 4}}},
                           FN(adaptive_avg_pool2d(x[0], 2, 2))));
  t.push_back(
      pooling("max_pool2d", FN(max_pool2d(x[0], 2)))
          .also({{{1, 2, 4, 3}}}, FN(max_pool2d(x[0], {3, 2}, 1, {1, 0})))
          .also({{{2, 4, 3}}}, FN(max_pool2d(x[0], 2, 1)))
          .refuses("max_pool2d: x is (3, 4); images", {{{3, 4}}}, FN(max_pool2d(x[0], 2)))
          .refuses("max_pool2d: stride = -1 given", {{{1, 1, 4, 4}}}, FN(max_pool2d(x[0], 2, -1)))
          .refuses("max_pool2d: x is (1, 1, 0, 4); images of height and width at least 1",
                   {{{1, 1, 0, 4}}}, FN(max_pool2d(x[0], 2, 1, 1))));
  t.push_back(pooling("max_pool2d_with_index", FN(max_pool2d_with_index(x[0], {3, 2}, 1)))
                  .also({{{2, 4, 3}}}, FN(max_pool2d_with_index(x[0], 2, {2, 1}, {1, 0})))
                  .refuses("max_pool2d_with_index: kernel = (2, 0) given", {{{1, 1, 4, 4}}},
                           FN(max_pool2d_with_index(x[0], {2, 0})))
                  .refuses("max_pool2d_with_index: padding = 1 given with kernel = 1; at most half",
                           {{{1, 1, 4, 4}}}, FN(max_pool2d_with_index(x[0], 1, 1, 1)))
                  .refuses("max_pool2d_with_index: x is (1, 1, 2, 2); the kernel covers 3 elements",
                           {{{1, 1, 2, 2}}}, FN(max_pool2d_with_index(x[0], 3))));
  t.push_back(pooling("adaptive_max_pool2d", FN(adaptive_max_pool2d(x[0], 3, 2)))
                  .also({{{1, 1, 2, 3}}}, FN(adaptive_max_pool2d(x[0], 1, 4)))
                  .also({{{2, 3, 4}}}, FN(adaptive_max_pool2d(x[0], 2, 3)))
                  .refuses("adaptive_max_pool2d: width = 0 given", {{{1, 1, 4, 4}}},
                           FN(adaptive_max_pool2d(x[0], 2, 0)))
                  .refuses("adaptive_max_pool2d: x is (3, 4); images", {{{3, 4}}},
                           FN(adaptive_max_pool2d(x[0], 2, 2)))
                  .refuses("adaptive_max_pool2d: x is (1, 1, 0, 4); images of height and width",
                           {{{1, 1, 0, 4}}}, FN(adaptive_max_pool2d(x[0], 2, 2))));
  t.push_back(Op{"lstm", sequences}
                  .smooth()
                  .tries({1, 2})
                  .sizes_to(129)
                  .dtypes(real)
                  .also({{{2, 3, 1}}, {{4, 1}}, {{4, 1}}, {{4}}, {{4}}}, FN(lstm_with(x, {1, 3})))
                  .refuses("lstm: x is (3, 4); (N, L, in)",
                           {{{3, 4}}, {{8, 4}}, {{8, 2}}, {{8}}, {{8}}}, FN(lstm_with(x, {})))
                  .refuses("lstm: weight_ih of weights[0] is (8, 3); (8, 4) is accepted",
                           {{{2, 3, 4}}, {{8, 3}}, {{8, 2}}, {{8}}, {{8}}}, FN(lstm_with(x, {})))
                  .refuses("lstm: length 4 given for row 1; 0 to 3",
                           {{{2, 3, 4}}, {{8, 4}}, {{8, 2}}, {{8}}, {{8}}},
                           FN(lstm_with(x, {1, 4}))));
}

void add_source_rows(std::vector<Op>& t) {
  const auto source = [](const char* name, std::function<Case(const Shape&)> at) {
    return Op{name, std::move(at)}
        .constant()
        .dtypes("no floating argument")
        .mixes("one tensor")
        .hides_nan("no argument");
  };
  const auto drawn = [&](const char* name, Tensor (*f)(const Shape&, Generator&)) {
    return source(name,
                  [f](const Shape& s) {
                    return Case{{},
                                [f, s](In) {
                                  Generator g(5);
                                  return list(f(s, g));
                                },
                                {}};
                  })
        .refuses("shape: negative size in (2, -1)", {}, [f](In) {
          Generator g;
          return list(f({2, -1}, g));
        });
  };
  const char* negative = "shape: negative size in (2, -1)";
  const char* huge = "more than 2^";
  const auto made = [&](const char* name, Tensor (*f)(const Shape&)) {
    return source(name,
                  [f](const Shape& s) {
                    return Case{{}, FN(f(s)), {}};
                  })
        .refuses(negative, {}, FN(f({2, -1})))
        .refuses(huge, {}, FN(f({int64_t{1} << 40, int64_t{1} << 40})))
        .refuses("only floating", {}, FN(cast(f({2}), DType::int64).requires_grad_()));
  };
  t.push_back(made("zeros", [](const Shape& s) { return zeros(s, kFloat, test_device()); }));
  t.push_back(made("ones", [](const Shape& s) { return ones(s, DType::float64, test_device()); }));
  t.push_back(made("full", [](const Shape& s) { return full(s, 1.5, kFloat, test_device()); }));
  t.push_back(made("zeros_like",
                   [](const Shape& s) { return zeros_like(ones(s, kFloat, test_device())); }));
  t.push_back(
      made("ones_like", [](const Shape& s) { return ones_like(zeros(s, kFloat, test_device())); }));
  t.push_back(source("scalar", AT({}, scalar(static_cast<double>(numel(s)), kFloat, test_device())))
                  .refuses("only floating", {}, FN(scalar(1, DType::int64).requires_grad_()))
                  .refuses("scalar", {}, FN(reshape(scalar(1), {2})))
                  .refuses("rank 0", {}, FN(slice(scalar(1), 0, 0, 1))));
  t.back().refusals[1].message = "reshape: shape () has 1 elements";
  t.push_back(
      source("tensor", AT({}, tensor({1, 2, static_cast<double>(numel(s))}, kFloat, test_device())))
          .refuses("only floating", {}, FN(tensor({1, 2}, DType::boolean).requires_grad_()))
          .refuses("accepts -1 to 0", {}, FN(sum(tensor({1, 2}), {1})))
          .refuses("do not broadcast", {}, FN(tensor({1, 2}) + tensor({1, 2, 3}))));
  t.push_back(source("arange", AT({}, arange(0.5, static_cast<double>(numel(s)) + 0.25, 1, kFloat,
                                             test_device())))
                  .refuses("arange: start 0, stop 3, step 0 given", {}, FN(arange(0, 3, 0)))
                  .refuses("arange: start 0, stop nan", {},
                           FN(arange(0, std::numeric_limits<double>::quiet_NaN())))
                  .refuses("elements asked for", {}, FN(arange(0, 1e30))));
  t.push_back(
      source("linspace", AT({}, linspace(-1, 2, numel(s), DType::float64, test_device())))
          .refuses("linspace: n = -1 given; at least 0", {}, FN(linspace(0, 1, -1)))
          .refuses(huge, {}, FN(linspace(0, 1, int64_t{1} << 61)))
          .refuses("only floating", {}, FN(linspace(0, 1, 3, DType::int64).requires_grad_())));
  t.push_back(source("eye", AT({}, eye(std::min<int64_t>(numel(s), 300), kFloat, test_device())))
                  .refuses("shape: negative size", {}, FN(eye(-1)))
                  .refuses(huge, {}, FN(eye(int64_t{1} << 40)))
                  .refuses("only floating", {}, FN(eye(2, DType::int64).requires_grad_())));
  t.push_back(
      drawn("rand", [](const Shape& s,
                       Generator& g) { return rand(s, g, DType::float64, -1, 2, test_device()); })
          .refuses("rand: low = 1 and high = 1 given", {},
                   [](In) {
                     Generator g;
                     return list(rand({2}, g, DType::float32, 1, 1));
                   })
          .refuses("rand: low = -3e+38 and high = 3e+38 given", {},
                   [](In) {
                     Generator g;
                     return list(rand({2}, g, DType::float32, -3e38, 3e38));
                   })
          .refuses("rand: dtype int64 given", {}, [](In) {
            Generator g;
            return list(rand({2}, g, DType::int64));
          }));
  t.push_back(drawn("randn",
                    [](const Shape& s, Generator& g) { return randn(s, g, kFloat, test_device()); })
                  .refuses("randn: dtype int64 given; float32 and float64", {},
                           [](In) {
                             Generator g;
                             return list(randn({2}, g, DType::int64));
                           })
                  .refuses(huge, {}, [](In) {
                    Generator g;
                    return list(randn({int64_t{1} << 61}, g));
                  }));
  t.push_back(drawn("randint", [](const Shape& s,
                                  Generator& g) { return randint(-3, 9, s, g, test_device()); })
                  .refuses("randint: low = 2 and high = 2 given", {},
                           [](In) {
                             Generator g;
                             return list(randint(2, 2, {2}, g));
                           })
                  .refuses("within -2^53 and 2^53", {}, [](In) {
                    Generator g;
                    return list(randint(0, INT64_MAX, {2}, g));
                  }));
  t.push_back(
      drawn("bernoulli", [](const Shape& s,
                            Generator& g) { return bernoulli(s, 0.3, g, kFloat, test_device()); })
          .refuses("bernoulli: p = 2 given; 0 to 1", {},
                   [](In) {
                     Generator g;
                     return list(bernoulli({2}, 2, g));
                   })
          .refuses("bernoulli: p = nan given", {}, [](In) {
            Generator g;
            return list(bernoulli({2}, std::numeric_limits<double>::quiet_NaN(), g));
          }));
  t.push_back(
      drawn("rademacher",
            [](const Shape& s, Generator& g) { return rademacher(s, g, kFloat, test_device()); })
          .refuses("rademacher: dtype int64 given", {},
                   [](In) {
                     Generator g;
                     return list(rademacher({2}, g, DType::int64));
                   })
          .refuses("rademacher: dtype bool given", {}, [](In) {
            Generator g;
            return list(rademacher({2}, g, DType::boolean));
          }));
  t.push_back(source("randperm",
                     [](const Shape& s) {
                       return Case{{},
                                   [n = numel(s)](In) {
                                     Generator g(5);
                                     return list(randperm(n, g, test_device()));
                                   },
                                   {}};
                     })
                  .refuses("randperm: n = -1 given", {},
                           [](In) {
                             Generator g;
                             return list(randperm(-1, g));
                           })
                  .refuses("randperm: n = -9", {},
                           [](In) {
                             Generator g;
                             return list(randperm(-9, g));
                           })
                  .refuses("only floating", {}, [](In) {
                    Generator g;
                    return list(randperm(3, g).requires_grad_());
                  }));
  t.push_back(source("copy_", AT({Arg{s}},
                                 [&x] {
                                   const Tensor y = zeros_like(x[0]);
                                   copy_(y, x[0]);
                                   return y;
                                 }()))
                  .dtypes("int64 bool bfloat16")
                  .refuses("copy_: source of shape (2,) given for a tensor of shape (3,)",
                           {{{3}}, {{2}}},
                           [](In x) {
                             copy_(x[0], x[1]);
                             return Tensors{};
                           })
                  .refuses("copy_: the tensor of shape (3,) is on the tape", {{{3}}, {{3}}},
                           [](In x) {
                             copy_(x[0].detach().requires_grad_(), x[1]);
                             return Tensors{};
                           })
                  .refuses("copy_: the tensor", {{{3}}, {{3}}}, [](In x) {
                    copy_(exp(x[0].detach().requires_grad_()), x[1]);
                    return Tensors{};
                  }));
  t.push_back(source("fill_", AT({},
                                 [&] {
                                   const Tensor y = ones(s, kFloat, test_device());
                                   fill_(y, 2.5);
                                   return y;
                                 }()))
                  .refuses("fill_: the tensor of shape (3,) is on the tape", {{{3}}},
                           [](In x) {
                             fill_(x[0].detach().requires_grad_(), 1);
                             return Tensors{};
                           })
                  .refuses("use slice_scatter, where", {{{3}}},
                           [](In x) {
                             fill_(exp(x[0].detach().requires_grad_()), 1);
                             return Tensors{};
                           })
                  .refuses("modified in place since by fill_", {{{3}}}, [](In x) {
                    const Tensor leaf = clone(x[0]).requires_grad_();
                    const Tensor y = sin(leaf);
                    {
                      NoGrad off;
                      fill_(leaf, 1);
                    }
                    return list(grad(sum(y), leaf));
                  }));
}

}  // namespace flowgrad::testing
