#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/bench.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/parallel.h"

namespace flowgrad::cli {

Tensor exact(const Tensor& x) { return cast(to(x, Device::cpu()), DType::float64); }

Tensor product_in_loops(const Tensor& a, const Tensor& b) {
  const int64_t n = b.size(1), depth = a.size(1);
  const Tensor x = exact(a), y = exact(b), out = zeros({a.size(0), n}, DType::float64);
  const auto *const from = static_cast<const double*>(x.raw()), *const by =
                                                                    static_cast<const double*>(
                                                                        y.raw());
  auto* const to = static_cast<double*>(out.raw());
  kernels::parallel_for(a.size(0), [&](int64_t i) {
    for (int64_t k = 0; k < depth; ++k) {
      const double factor = from[i * depth + k];
      for (int64_t j = 0; j < n; ++j) to[i * n + j] += factor * by[k * n + j];
    }
  });
  return out;
}

double relative_error(const std::vector<double>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / std::max(norm, 1e-300));
}

namespace {

std::string judge(const Tensor& result, const Tensor& again, const Tensor& reference,
                  double tolerance) {
  const double error = relative_error(result.to_vector<double>(), reference.to_vector<double>());
  if (!(error <= tolerance))
    return fmt::format("relative error {:.2g} against float64; {:.0e} is demanded", error,
                       tolerance);
  if (result.to_vector<float>() != again.to_vector<float>()) return "two runs differ in their bits";
  return "";
}

BenchCase matmul_case(int64_t m, int64_t k, int64_t n, Device device) {
  BenchCase c;
  c.name = fmt::format("matmul/f32/{}x{}x{}", m, k, n);
  c.flops = 2.0 * static_cast<double>(m) * static_cast<double>(k) * static_cast<double>(n);
  c.prepare = [m, k, n, device] {
    Generator g(1);
    const Tensor a = randn({m, k}, g, DType::float32, device);
    const Tensor b = randn({k, n}, g, DType::float32, device);
    const Tensor out = full({m, n}, NAN, DType::float32, device);
    auto run = [a, b, out] { kernels::backend(out.device()).matmul(a, b, {}, false, out); };
    auto verify = [a, b, out, run] {
      run();
      const Tensor first = clone(out);
      fill_(out, NAN);
      run();
      return judge(first, out, product_in_loops(a, b), 2e-6);
    };
    return BenchCase::Prepared{run, verify};
  };
  return c;
}

/// f(x) in double by the plain loops of kernels/reference.
Tensor in_loops(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
  struct Restore {
    kernels::CpuBackend before = kernels::cpu_backend();
    ~Restore() { kernels::set_cpu_backend(before); }
  } restore;
  kernels::set_cpu_backend(kernels::CpuBackend::reference);
  return f(exact(x));
}

BenchCase function_case(const std::string& name, const Shape& shape, double bytes, Device device,
                        const std::function<Tensor(const Tensor&)>& f) {
  BenchCase c;
  c.name = name;
  c.bytes = bytes;
  c.prepare = [shape, device, f] {
    Generator g(2);
    const Tensor x = randn(shape, g, DType::float32, device);
    return BenchCase::Prepared{[x, f] { f(x); },
                               [x, f] { return judge(f(x), f(x), in_loops(f, x), 1e-6); }};
  };
  return c;
}

BenchCase chain_case(Device device) {
  BenchCase c;
  c.name = "autograd/chain/1000x8";
  c.prepare = [device] {
    Generator g(3);
    const Tensor x = randn({8}, g, DType::float32, device).requires_grad_();
    auto run = [x] {
      Tensor y = x;
      for (int i = 0; i < 500; ++i) y = y * 1.0001 + 0.0001;
      backward(sum(y));
      x.zero_grad();
    };
    auto verify = [x]() -> std::string {
      Tensor y = x;
      for (int i = 0; i < 500; ++i) y = y * 1.0001 + 0.0001;
      const double got = grad(sum(y), x).at({0});
      const double want = std::pow(1.0001, 500);
      return std::abs(got - want) < 1e-4 ? ""
                                         : fmt::format("gradient {} where {} is right", got, want);
    };
    return BenchCase::Prepared{run, verify};
  };
  return c;
}

}  // namespace

std::vector<BenchCase> kernel_bench_cases(Device device) {
  std::vector<BenchCase> out;
  const int64_t shapes[][3] = {
      {32, 391, 512},     {64, 64, 64},       {256, 2, 256}, {256, 256, 256}, {512, 512, 512},
      {1024, 1024, 1024}, {2048, 2048, 2048}, {1, 512, 512}, {4096, 64, 64},  {12544, 147, 64}};
  for (const auto& s : shapes) out.push_back(matmul_case(s[0], s[1], s[2], device));
  out.push_back(chain_case(device));
  const double mega = 4.0 * (1 << 20);
  const Shape long_row{1 << 20};
  out.push_back(function_case("elementwise/tanh/1M", long_row, 2 * mega, device,
                              [](const Tensor& a) { return tanh(a); }));
  out.push_back(function_case("elementwise/silu/1M", long_row, 2 * mega, device,
                              [](const Tensor& a) { return silu(a); }));
  out.push_back(function_case("elementwise/exp/1M", long_row, 2 * mega, device,
                              [](const Tensor& a) { return exp(a); }));
  out.push_back(function_case("elementwise/add/1M", long_row, 2 * mega, device,
                              [](const Tensor& a) { return a + a; }));
  const Shape rows{4096, 256};
  out.push_back(function_case("reduce/sum/4096x256", rows, mega, device,
                              [](const Tensor& a) { return sum(a, {-1}); }));
  out.push_back(function_case("reduce/softmax/4096x256", rows, 2 * mega, device,
                              [](const Tensor& a) { return softmax(a, -1); }));
  return out;
}

}  // namespace flowgrad::cli
