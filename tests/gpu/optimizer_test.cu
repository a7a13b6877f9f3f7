// The CUDA optimiser steps against the reference loops.
#include <cmath>

#include "backend_support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

const std::vector<DType> kFloating{DType::float32, DType::float64};

/// Parameters, gradients and both moments of many slots; sizes repeat where there are more slots
/// than sizes. Every third one starts at odd places in its storages, and of every seven a few have
/// one array that does.
struct Slots {
  std::vector<Tensor> tensors;  // parameters, moments, moments, gradients

  Slots(size_t n, const std::vector<DType>& dtypes, const std::vector<int64_t>& sizes) {
    for (uint64_t kind = 0; kind < 4; ++kind) {
      for (size_t i = 0; i < n; ++i) {
        const int64_t size = sizes[i % sizes.size()];
        const int64_t offset = i % 3 == 2 || i % 7 == kind + 1 ? 1 : 0;
        const Tensor whole =
            values({size + offset}, dtypes[i % dtypes.size()], kind * n + i, kind == 2 ? 0 : -2, 2);
        tensors.push_back(
            Tensor::over(whole.storage_ref(), {Shape{size}, Strides{1}, offset}, whole.dtype()));
      }
    }
  }
  size_t n() const { return tensors.size() / 4; }
  std::vector<OptimizerSlot> of(const std::vector<View>& v, bool moments) const {
    std::vector<OptimizerSlot> slots;
    for (size_t i = 0; i < n(); ++i) {
      slots.push_back(
          {v[i], v[3 * n() + i], moments ? v[n() + i] : View(), moments ? v[2 * n() + i] : View()});
    }
    return slots;
  }
};

bool same_bits(const OnDevice& a, const OnDevice& b) {
  const Tensor x = a.back(), y = b.back();
  return std::memcmp(x.storage().data(), y.storage().data(), x.storage().bytes()) == 0;
}

const std::vector<int64_t> kSizes{1, 3, 4, 5, 0, 255, 1024, 1025, 7, 3000};

}  // namespace

TEST_CASE("adam: many slots of both dtypes", "[optimizer_test]") {
  for (size_t n : {1, 10, 63, 64, 65, 150}) {
    const Slots s(n, kFloating, kSizes);
    for (bool decoupled : {false, true}) {
      const AdamParams params{0.1, 0.9, 0.999, 1e-8, 0.01, 1 - 0.9, 1 - 0.999, decoupled, 0.7};
      same_as_reference(
          "adam, slots: " + std::to_string(n), s.tensors, 3 * n,
          [&](Backend& b, const std::vector<View>& v) { b.adam_step(s.of(v, true), params); });
    }
  }
  const Slots large({1, {DType::float32}, {65537}});
  same_as_reference("adam, large", large.tensors, 3, [&](Backend& b, const std::vector<View>& v) {
    b.adam_step(large.of(v, true), {1e-3, 0.9, 0.999, 1e-8, 0, 0.3, 0.01, false});
  });
  cuda_backend().adam_step({}, {});
}

TEST_CASE("sgd: plain, momentum, dampening, nesterov", "[optimizer_test]") {
  const Slots s(70, kFloating, kSizes);
  for (double momentum : {0.0, 0.9}) {
    for (bool nesterov : {false, true}) {
      for (bool first : {false, true}) {
        SgdParams params{0.1, momentum, nesterov ? 0 : 0.3, 0.01, nesterov, first};
        params.gradient_factor = 0.7;
        same_as_reference("sgd", s.tensors, momentum == 0 ? s.n() : 2 * s.n(),
                          [&](Backend& b, const std::vector<View>& v) {
                            b.sgd_step(s.of(v, momentum != 0), params);
                          });
      }
    }
  }
  // What the buffer held before the first step does not matter.
  const Tensor nan = Tensor::from(std::vector<double>(5, std::nan("")), {5}, DType::float32);
  same_as_reference("sgd, first step",
                    {values({5}, DType::float32, 1), nan, values({5}, DType::float32, 2)}, 2,
                    [](Backend& b, const std::vector<View>& v) {
                      const std::vector<OptimizerSlot> one{{v[0], v[2], v[1], View()}};
                      b.sgd_step(one, {0.1, 0.5, 0, 0, false, true});
                    });
}

TEST_CASE("sum of squares: many views, any layout, both dtypes", "[optimizer_test]") {
  const auto check = [](const std::vector<Tensor>& tensors) {
    std::vector<std::unique_ptr<OnDevice>> device;
    std::vector<View> views;
    std::vector<View> host;
    for (const Tensor& t : tensors) {
      device.push_back(std::make_unique<OnDevice>(t));
      views.push_back(device.back()->view());
      host.emplace_back(t);
    }
    const double got = cuda_backend().sum_of_squares(views);
    const double want = reference_backend().sum_of_squares(host);
    CHECK(std::abs(got - want) <= 1e-13 * want);
    CHECK(cuda_backend().sum_of_squares(views) == got);
    for (const auto& d : device) CHECK(d->is_untouched());
  };
  check({});
  check({values({0}, DType::float32, 1)});
  check({values({}, DType::float32, 1)});
  std::vector<Tensor> many;
  for (uint64_t i = 0; i < 300; ++i) {
    const DType dtype = kFloating[i % 2];
    const Tensor t = values({kSizes[i % kSizes.size()] % 40, 3}, dtype, i);
    many.push_back(i % 5 == 0 ? strided(t, i) : t);
  }
  many.push_back(values({16384}, DType::float32, 7));
  many.push_back(values({65537}, DType::float64, 8));
  many.push_back(strided(values({20, 1000}, DType::float32, 9), 3));
  check(many);
  // Squares that overflow float32 are carried in double.
  check({Tensor::from(std::vector<double>{1e30, 1e30}, {2}, DType::float32)});
}

TEST_CASE("scale and lerp: the CPU's bits", "[optimizer_test]") {
  for (DType dtype : kFloating) {
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{1}, Shape{1025}, Shape{3, 4, 5}}) {
      for (bool awkward : {false, true}) {
        const Tensor x = values(shape, dtype, 1);
        const Tensor a = awkward ? strided(x, 2) : x;
        const Tensor v = values(shape, dtype, 3);
        const Tensor b = awkward ? strided(v, 5) : v;
        same_as_reference("scale", {a}, 1, [](Backend& backend, const std::vector<View>& views) {
          backend.scale(views[0], -0.3);
        });
        same_as_reference("lerp", {a, b}, 1, [](Backend& backend, const std::vector<View>& views) {
          backend.lerp(views[0], views[1], 0.995);
        });
        const OnDevice device_a(a);
        const OnDevice device_b(b);
        cuda_backend().lerp(device_a.view(), device_b.view(), 0.995);
        cuda_backend().scale(device_a.view(), 1.7);
        const Tensor got = device_a.back();
        reference_backend().lerp(a, b, 0.995);
        reference_backend().scale(a, 1.7);
        CHECK(std::memcmp(got.storage().data(), a.storage().data(), a.storage().bytes()) == 0);
      }
    }
  }
}

TEST_CASE("averages of many arrays: the bits of one at a time", "[optimizer_test]") {
  for (size_t n : {1, 64, 65, 150}) {
    // Cut out of longer ones: averages of equal guard zones would not show a write past the end.
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < 2 * n; ++i) {
      const int64_t size = kSizes[i % n % kSizes.size()];
      const Tensor whole = values({size + 2}, kFloating[i % n % 2], i);
      const Layout inside{Shape{size}, Strides{1}, static_cast<int64_t>(i % 2)};
      tensors.push_back(Tensor::over(whole.storage_ref(), inside, whole.dtype()));
    }
    tensors[n - 1] = strided(tensors[n - 1], 2);
    if (n > 3) tensors[n + 3] = strided(tensors[n + 3], 2);  // a value, its average contiguous
    same_as_reference("averages: " + std::to_string(n), tensors, n,
                      [&](Backend& b, const std::vector<View>& v) {
                        std::vector<AverageSlot> slots;
                        for (size_t i = 0; i < n; ++i) slots.push_back({v[i], v[n + i]});
                        b.average_step(slots, {0.995});
                      });
    std::vector<std::unique_ptr<OnDevice>> many, single;
    std::vector<AverageSlot> slots;
    for (const Tensor& t : tensors) {
      many.push_back(std::make_unique<OnDevice>(t));
      single.push_back(std::make_unique<OnDevice>(t));
    }
    // Views point into tensors, which must stay where they are.
    for (size_t i = 0; i < n; ++i) slots.push_back({many[i]->view(), many[n + i]->view()});
    cuda_backend().average_step(slots, {0.9});
    for (size_t i = 0; i < n; ++i)
      cuda_backend().lerp(single[i]->view(), single[n + i]->view(), 0.9);
    for (size_t i = 0; i < n; ++i) CHECK(same_bits(*many[i], *single[i]));
  }
  cuda_backend().average_step({}, {0.5});
}

TEST_CASE("a captured update reads its numbers and its verdict", "[optimizer_test]") {
  const Slots s(70, kFloating, kSizes);
  const double clip = 0.37;
  const AdamParams adam{0.1, 0.9, 0.999, 1e-8, 0.01, 1 - 0.9, 1 - 0.999, true};
  for (const double factor : {1.0, clip}) {
    for (const bool counts : {true, false}) {
      const StepVerdict verdict{1, 2, factor, counts ? 1.0 : 0.0};
      const DeviceArray<StepVerdict> verdict_there(std::vector<StepVerdict>{verdict});
      // f(backend, views, CapturedStep): with the numbers as arguments after clipping by `scale`,
      // and with other arguments and the numbers on the device.
      const auto check = [&](const std::string& what, const StepNumbers& numbers, auto&& f) {
        INFO(what << ", factor " << factor << ", counts " << counts);
        const DeviceArray<StepNumbers> numbers_there(std::vector<StepNumbers>{numbers});
        std::vector<std::unique_ptr<OnDevice>> plain, captured;
        std::vector<View> plain_views, captured_views;
        for (const Tensor& t : s.tensors) {
          plain.push_back(std::make_unique<OnDevice>(t));
          captured.push_back(std::make_unique<OnDevice>(t));
          plain_views.push_back(plain.back()->view());
          captured_views.push_back(captured.back()->view());
        }
        if (counts) {
          if (factor < 1) {
            for (size_t i = 3 * s.n(); i < 4 * s.n(); ++i)
              cuda_backend().scale(plain_views[i], factor);
          }
          f(plain_views, CapturedStep{});
        }
        f(captured_views, CapturedStep{numbers_there.get(), verdict_there.get()});
        for (size_t i = 0; i < 3 * s.n(); ++i) CHECK(same_bits(*plain[i], *captured[i]));
        for (size_t i = 3 * s.n(); i < 4 * s.n(); ++i) CHECK(captured[i]->is_untouched());
      };
      check("adam", numbers_of(adam), [&](const std::vector<View>& v, const CapturedStep& c) {
        AdamParams p = adam;
        if (c.numbers != nullptr) {  // what was so at the capture
          p.lr = 5;
          p.correction1 = p.correction2 = p.gradient_factor = 0.5;
          p.captured = c;
        }
        cuda_backend().adam_step(s.of(v, true), p);
      });
      for (const double momentum : {0.0, 0.9}) {
        for (const bool first : {true, false}) {
          const SgdParams sgd{0.1, momentum, 0.3, 0.01, false, first};
          check("sgd", numbers_of(sgd), [&](const std::vector<View>& v, const CapturedStep& c) {
            SgdParams p = sgd;
            if (c.numbers != nullptr) {
              p.lr = 5;
              p.first_step = !first;
              p.captured = c;
            }
            cuda_backend().sgd_step(s.of(v, momentum != 0), p);
          });
        }
      }
      check("average", {.decay = 0.9}, [&](const std::vector<View>& v, const CapturedStep& c) {
        std::vector<AverageSlot> slots;
        for (size_t i = 0; i < s.n(); ++i) slots.push_back({v[s.n() + i], v[i]});
        cuda_backend().average_step(slots, {c.numbers != nullptr ? 0.1 : 0.9, c});
      });
    }
  }
}

TEST_CASE("the verdict on a step: the host's numbers, bit for bit", "[optimizer_test]") {
  const double inf = HUGE_VAL;
  for (const DType dtype : kFloating) {
    const auto check = [&](double loss, const std::vector<Tensor>& gradients, double clip,
                           int64_t refused = 0) {
      INFO("loss " << loss << ", clip " << clip << ", gradients " << gradients.size()
                   << ", refused " << refused);
      std::vector<std::unique_ptr<OnDevice>> device;
      std::vector<View> views;
      for (const Tensor& t : gradients) {
        device.push_back(std::make_unique<OnDevice>(t));
        views.push_back(device.back()->view());
      }
      const OnDevice value(Tensor::from(std::vector<double>{loss}, {}, dtype));
      const OnDevice no(Tensor::from(std::vector<int64_t>{refused}, {}));
      const DeviceArray<StepVerdict> there(1);
      cuda_backend().judge_step(value.view(), views, clip, no.view(), there.get());
      const StepVerdict v = there.values()[0];
      const double norm = std::sqrt(cuda_backend().sum_of_squares(views));
      const double factor = clip / (norm + 1e-6);
      const bool counts = std::isfinite(loss) && std::isfinite(norm) && refused == 0;
      const auto same = [](double a, double b) {
        return a == b || (std::isnan(a) && std::isnan(b));
      };
      CHECK(same(v.loss, loss));
      CHECK(same(v.norm, norm));
      CHECK(v.counts == (counts ? 1 : 0));
      CHECK(v.factor == (counts && clip > 0 && factor < 1 ? factor : 1));
    };
    std::vector<Tensor> many;
    for (uint64_t i = 0; i < 200; ++i) {
      const Tensor t = values({kSizes[i % kSizes.size()] % 40, 3}, kFloating[i % 2], i);
      many.push_back(i % 5 == 0 ? strided(t, i) : t);
    }
    many.push_back(values({65537}, dtype, 7));
    const auto one = [&](double x) { return Tensor::from(std::vector<double>{x}, {1}, dtype); };
    for (const double loss : {0.5, -2.0, inf, -inf, std::nan("")}) {
      for (const double clip : {0.0, 0.1, 3.0, 1e9}) {
        check(loss, many, clip);
        check(loss, {one(inf)}, clip);
        check(loss, {one(std::nan(""))}, clip);
        check(loss, {one(3)}, clip);
        check(loss, {one(3)}, clip, 1);
        check(loss, {one(3)}, clip, int64_t{1} << 40);
        check(loss, {one(0)}, clip);
        check(loss, {}, clip);
      }
    }
  }
}

TEST_CASE("optimiser: what is refused", "[optimizer_test]") {
  Backend& b = cuda_backend();
  const Tensor ints = values({2}, DType::int64, 1);
  const Tensor x = values({2}, DType::float32, 1);
  const std::vector<OptimizerSlot> slots{{ints, ints, ints, ints}};
  const std::vector<View> views{ints};
  CHECK_THROWS_AS(b.adam_step(slots, {}), DTypeError);
  CHECK_THROWS_AS(b.sgd_step(slots, {}), DTypeError);
  CHECK_THROWS_AS(b.sum_of_squares(views), DTypeError);
  CHECK_THROWS_AS(b.scale(ints, 2), DTypeError);
  CHECK_THROWS_AS(b.lerp(x, ints, 0.5), DTypeError);
  CHECK_THROWS_AS(b.average_step(std::vector<AverageSlot>{{x, ints}}, {0.5}), DTypeError);
  CHECK_THROWS_AS(b.average_step(std::vector<AverageSlot>{{ints, ints}}, {0.5}), DTypeError);
  CHECK_THROWS_AS(b.judge_step(x, views, 0, x, nullptr), DTypeError);
  CHECK_THROWS_AS(b.judge_step(ints, {}, 0, x, nullptr), DTypeError);
  const Tensor apart = strided(x, 1);
  const StepNumbers numbers;
  CHECK_THROWS_AS(
      b.average_step(std::vector<AverageSlot>{{apart, apart}}, {0.5, {&numbers, nullptr}}),
      DeviceError);
  CHECK_THROWS_AS(reference_backend().judge_step(x, {}, 0, x, nullptr), DeviceError);
}
