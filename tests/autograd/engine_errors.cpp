#include <algorithm>
#include <sstream>

#include "autograd/conformance.h"
#include "flowgrad/autograd/record.h"

/// Errors of the engine: what is raised, what it says, and that nothing is half done.
namespace flowgrad::conformance {
namespace {

/// Identity that counts passes through it and throws at the one it is told.
class Trap {
 public:
  Tensor through(const Tensor& x) {
    const int mine = n_++;
    return tap(x, [this, mine](const Tensor&) -> Tensor {
      if (mine == at_) throw Planned("planned at tap " + std::to_string(mine));
      return {};
    });
  }
  int size() const { return n_; }
  void reset(int at) {
    n_ = 0;
    at_ = at;
  }

 private:
  int n_ = 0;
  int at_ = -1;
};

/// Twenty graphs with traps on every edge; leaves are created late too, between the operations.
Tensor trapped_graph(int kind, Trap& trap, std::vector<Tensor>& leaves) {
  leaves.resize(4);
  const auto t = [&](const Tensor& x) { return trap.through(x); };
  const auto fresh = [&](int k) {
    Tensor& l = leaves[static_cast<size_t>(k)];
    if (!l.defined()) l = fill({3, 3}, k).requires_grad_();
    return l;
  };
  Tensor y = t(fresh(0));
  const int depth = 2 + kind / 5;
  for (int i = 0; i < depth; ++i) {
    switch ((kind + i) % 5) {
      case 0: y = t(tanh(y) * t(fresh(1))); break;
      case 1: y = t(matmul(y, t(fresh(2)))); break;
      case 2: y = t(concat({slice(y, 0, 0, 1), t(slice(y + fresh(3), 0, 1, 3))})); break;
      case 3: y = t(checkpoint([](const Tensor& at) { return sin(at) * at; }, y)); break;
      default: y = t(softmax(y) + t(transpose(y))); break;
    }
  }
  return sum(t(y));
}

TEST_CASE("an exception at every place of twenty graphs touches no gradient", "[engine_errors]") {
  int places = 0;
  for (int kind = 0; kind < 20; ++kind) {
    Trap trap;
    std::vector<Tensor> leaves;
    trap.reset(-1);
    const Tensor out = trapped_graph(kind, trap, leaves);
    const int n = trap.size();
    backward(out);
    for (size_t k = 0; k < leaves.size(); ++k) {
      if (!leaves[k].defined())
        leaves[k] = fill({3, 3}).requires_grad_();  // of no use in this graph
      if (!leaves[k].grad().defined()) leaves[k].set_grad(zeros({3, 3}, DType::float64));
    }
    std::vector<Tensor> want;
    for (const Tensor& l : leaves) want.push_back(clone(l.grad()));
    for (const bool stored : {false, true}) {
      for (int at = 0; at < n; ++at) {
        for (const Tensor& l : leaves) {
          l.zero_grad();
          if (stored) l.set_grad(full({3, 3}, 5, DType::float64));
        }
        trap.reset(at);
        const Tensor y = trapped_graph(kind, trap, leaves);
        CHECK(not_raised<Planned>([&] { backward(y); }, "planned at tap " + std::to_string(at)) ==
              "");
        bool untouched = true;
        for (const Tensor& l : leaves) {
          untouched = untouched && (stored ? not_all(l.grad(), 5).empty() : !l.grad().defined());
          l.zero_grad();
        }
        CHECK(untouched);
        CHECK(mode().recording);
        CHECK(checkpoint_scope() == nullptr);
        trap.reset(-1);
        backward(trapped_graph(kind, trap, leaves));
        bool right = true;
        for (size_t i = 0; i < leaves.size(); ++i)
          right = right && (leaves[i].grad().defined() ? differs(leaves[i].grad(), want[i], 0)
                                                       : not_all(want[i], 0))
                               .empty();
        CHECK(right);
        ++places;
      }
    }
  }
  CHECK(places >= 200);
}

TEST_CASE("a leaf made after an operation is not stored before that operation failed",
          "[engine_errors]") {
  const Tensor a = fill({4}).requires_grad_();
  const Tensor early = tap(a * a, [](const Tensor&) -> Tensor { throw Planned("early"); });
  const Tensor b = fill({4}, 1).requires_grad_();
  const Tensor kept = early * b;
  retain_grad(kept);
  const Tensor out = sum(kept * 2);
  CHECK(not_raised<Planned>([&] { backward(out); }, "early") == "");
  CHECK_FALSE(a.grad().defined());
  CHECK_FALSE(b.grad().defined());
  CHECK_FALSE(kept.grad().defined());
}

TEST_CASE("stored gradients share memory with nothing", "[engine_errors]") {
  const Tensor a = fill({4}).requires_grad_();
  const Tensor b = fill({4}, 1).requires_grad_();
  const Tensor cotangent = fill({4}, 2);
  const Tensor h = a + b;
  retain_grad(h);
  backward(h, cotangent);
  std::vector<double*> buffers{cotangent.data<double>(), a.grad().data<double>(),
                               b.grad().data<double>(), h.grad().data<double>()};
  std::sort(buffers.begin(), buffers.end());
  CHECK(std::unique(buffers.begin(), buffers.end()) == buffers.end());
  backward(a * 3, cotangent);
  CHECK(differs(a.grad(), 4 * fill({4}, 2)) == "");
  for (const Tensor& t : {b.grad(), h.grad(), cotangent}) CHECK(differs(t, fill({4}, 2), 0) == "");
  // Asking again for what is kept already does not forget it.
  retain_grad(h);
  CHECK(differs(h.grad(), cotangent, 0) == "");
}

TEST_CASE("outputs and cotangents that do not fit", "[engine_errors]") {
  const Tensor x = fill({2, 3}).requires_grad_();
  const Tensor y = x * x;
  CHECK(not_raised<GradError>([&] { backward(fill({2})); },
                              "backward: output 0 does not depend on anything") == "");
  CHECK(not_raised<GradError>([&] { backward(y); },
                              "has shape (2, 3); a cotangent of that shape must be given") == "");
  CHECK(not_raised<GradError>(
            [&] {
              backward(y, fill({3, 2}));
            },
            "the cotangent given of shape (3, 2) float64; expected shape (2, 3) float64") == "");
  CHECK(not_raised<GradError>([&] { backward(y, fill({3})); }, "expected shape (2, 3)") == "");
  CHECK(not_raised<GradError>(
            [&] {
              backward(y, Tensor::from(std::vector<int64_t>(6, 1), {2, 3}));
            },
            "int64; expected shape (2, 3) float64") == "");
  const std::vector<Tensor> outputs{y, y};
  const std::vector<Tensor> one{fill({2, 3})};
  CHECK(not_raised<GradError>([&] { backward(outputs, one); },
                              "1 cotangents given for 2 outputs") == "");
  CHECK(not_raised<GradError>(
            [&] {
              grad(sum(y), fill({2, 3}));
            },
            "input 0 of shape (2, 3) does not require gradients") == "");
  CHECK(not_raised<GradError>([&] { retain_grad(fill({2})); }, "retain_grad: ") == "");
  CHECK(not_raised<GradError>([&] { y.requires_grad_(); }, "use detach() first") == "");
  CHECK(not_raised<GradError>(
            [&] {
              x.set_grad(fill({3, 2}));
            },
            "gradient (3, 2) float64 given for a tensor (2, 3) float64") == "");
  CHECK(not_raised<GradError>(
            [&] {
              y.set_grad(fill({2, 3}));
            },
            "does not require gradients") == "");
  // None of this has spent the graph.
  backward(y, fill({2, 3}));
  CHECK(differs(x.grad(), 2 * fill({2, 3}) * fill({2, 3})) == "");
}

TEST_CASE("inputs as a list or by name, an axis as a number, a tensor in a stream",
          "[engine_errors]") {
  const Tensor x = leaf({1, 2, 3, 4}, {2, 2}), w = leaf({2, 3});
  const auto loss = [&] { return sum(square(sum(x, 1) * w)); };
  const std::vector<Tensor> by_braces = grad(loss(), {x, w});
  for (const auto& g :
       {grad(loss(), std::vector<Tensor>{x, w}), grad(loss(), NamedTensors{{"x", x}, {"w", w}})}) {
    REQUIRE(g.size() == 2);
    CHECK(differs(g[0], by_braces[0].to_vector<double>(), 0) == "");
    CHECK(differs(g[1], by_braces[1].to_vector<double>(), 0) == "");
  }
  CHECK(differs(mean(x, 0, true), {2, 3}) == "");
  CHECK(max(x, -1).shape() == Shape{2});
  CHECK(zeros(3).shape() == Shape{3});
  CHECK(differs(stddev(x, {1}), flowgrad::std(x, {1}).to_vector<double>(), 0) == "");
  std::ostringstream out;
  out << x.shape() << " " << w;
  CHECK(out.str() == "(2, 2) " + to_string(w));
}

TEST_CASE("an unused input is found before anything is freed", "[engine_errors]") {
  const Tensor x = leaf({1, 2});
  const Tensor stranger = leaf({1, 2});
  const Tensor y = sum(x * x);
  CHECK(not_raised<GradError>(
            [&] {
              grad(y, {x, stranger});
            },
            "do not depend on input 1 of shape (2,)") == "");
  CHECK(differs(grad(y, x), {2, 4}) == "");
}

TEST_CASE("freed values: what is freed, what is kept, and by whom", "[engine_errors]") {
  const Tensor x = leaf({1, 2});
  const Tensor shared = exp(x);
  const Tensor a = sum(shared * 2);
  const Tensor b = sum(sin(shared));
  grad(a, x);  // frees exp's saved value
  CHECK(not_raised<GradError>([&] { backward(b); }, "the saved values of exp #") == "");
  CHECK_FALSE(x.grad().defined());
  // grad() frees only what lies between: the part above another input stays.
  const Tensor h = exp(x);
  const Tensor y = sum(h * h);
  CHECK(differs(grad(y, h), 2 * h.detach()) == "");
  const Tensor ones_of_h = ones64({2});
  CHECK(differs(grads(h, {x}, ones_of_h)[0], h.detach()) == "");
}

TEST_CASE("versions: who saved, what, and who wrote", "[engine_errors]") {
  const Tensor x = leaf({1, 2, 3});
  const auto written = [&](const Tensor& y, auto&& write, const std::string& words) {
    const NoGrad off;
    write();
    CHECK(not_raised<GradError>([&] { backward(y); }, words) == "");
  };
  Tensor y = sum(sin(x));
  written(
      y, [&] { fill_(x, 2); }, " saved (3,) float64; modified in place since by fill_");
  written(
      y, [&] { fill_(x, 2); }, "backward: sin #");
  const Tensor out = tanh(x);
  y = sum(out);
  written(
      y, [&] { copy_(out, x); }, "backward: tanh #");
  // A write before the operation is nobody's business, and neither is one to a value that is not
  // saved.
  fill_(x.detach(), 1);
  const Tensor sums = x + 1;
  y = sum(sums);
  fill_(sums.detach(), 0);
  backward(y);
  CHECK(not_all(x.grad(), 1) == "");
  // backward() adds to a gradient that a graph has saved: found too.
  const Tensor g = x.grad();
  const Tensor z = leaf({1, 1, 1});
  const Tensor product = sum(z * g);
  backward(sum(x * 3));
  CHECK(not_raised<GradError>([&] { backward(product); }, "modified in place since by backward") ==
        "");
}

TEST_CASE("anomaly: operation, output, place; forward and backward; NaN or any non-finite",
          "[engine_errors]") {
  const Tensor x = leaf({0, -1, 4});
  {
    const Anomaly on;
    CHECK(not_raised<GradError>([&] { log(x); }, "the value of log #") == "");
    CHECK(not_raised<GradError>([&] { log(x); }, "(output 0) has") == "");
    CHECK(not_raised<GradError>([&] { log(x); }, "at element 1 of shape (3,)") == "");
    const MultiFunction two_values = [](std::span<const Tensor> in) {
      return std::vector<Tensor>{in[0] * 1, sqrt(in[0])};
    };
    const VjpRule first = [](auto g, auto, auto) { return std::vector<Tensor>{g[0]}; };
    const auto pair = [&] { custom_vjp("pair", two_values, first, std::span(&x, 1)); };
    CHECK(not_raised<GradError>(pair, "the value of pair #") == "");
    CHECK(not_raised<GradError>(pair, "(output 1) has") == "");
    const Tensor infinite = 1 / x;  // an infinity is no NaN
    CHECK(infinite.requires_grad());
    // Infinity times zero, in the backward pass only.
    const Tensor root = sqrt(square(slice(x, 0, 0, 1)));
    CHECK(not_raised<GradError>([&] { backward(sum(root)); }, "the gradient that square #") == "");
    const Tensor poisoned = tap(x * 2, [](const Tensor& g) { return g * std::nan(""); });
    CHECK(not_raised<GradError>([&] { backward(sum(poisoned)); }, "the gradient that tap #") == "");
    const MultiFunction product = [](std::span<const Tensor> in) {
      return std::vector<Tensor>{in[0] * in[1]};
    };
    const VjpRule poison = [](auto g, auto, auto) {
      return std::vector<Tensor>{g[0], g[0] * std::nan("")};
    };
    const Tensor second_input =
        custom_vjp("two", product, poison, std::vector<Tensor>{x, leaf({1, 1, 1})})[0];
    CHECK(not_raised<GradError>([&] { backward(sum(second_input)); }, "gave its input 1 has") ==
          "");
  }
  {
    const Anomaly on(AnomalyCheck::non_finite);
    CHECK(not_raised<GradError>([&] { 1 / x; }, "has inf at element 0") == "");
    const Anomaly off(AnomalyCheck::off);
    CHECK((1 / x).requires_grad());
  }
  CHECK(log(x).requires_grad());
}

}  // namespace
}  // namespace flowgrad::conformance
