// Factorisations of square matrices and solves with triangles, which products can do most of.
#include <fmt/format.h>

#include "flowgrad/autograd/ops.h"
#include "support/bench.h"

namespace flowgrad::bench {
namespace {

using kernels::Backend;
using Tensors = std::vector<Tensor>;

/// The last `outputs` tensors are written.
Case make(const char* kernel, std::string size, double flops, Device device, Tensors tensors,
          size_t outputs, const Work& work) {
  Case c;
  c.kernel = kernel;
  c.size = std::move(size);
  c.impl = "flowgrad";
  c.flops = flops;
  for (const Tensor& t : tensors)
    c.bytes += static_cast<double>(t.numel()) * static_cast<double>(size_of(t.dtype()));
  for (size_t i = tensors.size() - outputs; i < tensors.size(); ++i) c.results.push_back(i);
  c.poisoned = c.results;
  c.tensors = std::move(tensors);
  set_work(c, device, work);
  return c;
}

std::vector<Case> cases(const Options& o) {
  std::vector<Case> out;
  const std::string sizes = o.sizes.empty() ? "32,256,512" : o.sizes;
  for (const auto& size : parse_sizes(sizes, 1, 2)) {
    const int64_t n = size[0], columns = size.back();
    const std::string square_size = std::to_string(n);
    const auto cubed = static_cast<double>(n * n * n);
    Generator generator(1);
    const Device d = o.device;
    const Tensor a = randn({n, n}, generator, DType::float32, d);
    const auto space = [&](int64_t width) { return zeros({n, width}, DType::float32, d); };
    out.push_back(make("lu", square_size, 2 * cubed / 3, d,
                       {a, space(n), zeros({n}, DType::int64, d), zeros({}, DType::float32, d)}, 3,
                       [](Backend& k, const Tensors& t) { k.lu(t[0], t[1], t[2], t[3]); }));
    const Tensor square = matmul(a, transpose(a)) / static_cast<double>(n) + to(eye(n), d);
    out.push_back(make("cholesky", square_size, cubed / 3, d, {square, space(n)}, 1,
                       [](Backend& k, const Tensors& t) { k.cholesky(t[0], t[1]); }));
    const Tensor triangle = a + to(eye(n), d) * static_cast<double>(n);
    const Tensor right = randn({n, columns}, generator, DType::float32, d);
    out.push_back(make(
        "triangular solve", columns == n ? square_size : fmt::format("{}x{}", n, columns),
        static_cast<double>(n * n * columns), d, {triangle, right, space(columns)}, 1,
        [](Backend& k, const Tensors& t) { k.triangular_solve(t[0], t[1], true, false, t[2]); }));
  }
  return out;
}

}  // namespace
}  // namespace flowgrad::bench

int main(int argc, char** argv) {
  return flowgrad::bench::run_cases(
      argc, argv,
      {"Dense linear algebra",
       "Rows of square matrices N, or NxCOLUMNS of what a solve is given, a list",
       flowgrad::bench::cases});
}
