#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

using namespace reference;

void ReferenceBackend::matmul(View a, View b, View bias, bool accumulate, View out) {
  require_dtype("matmul", "b", b, a.dtype);
  require_dtype("matmul", "out", out, a.dtype);
  if (bias.defined()) require_dtype("matmul", "bias", bias, a.dtype);
  const int row = out.rank() - 2;
  const int column = out.rank() - 1;
  const int64_t rows = (*out.shape)[row];
  const int64_t columns = (*out.shape)[column];
  const int64_t depth = (*a.shape)[column];
  Shape batch = *out.shape;
  // One element of each matrix stands for the matrix; an empty matrix keeps the walk empty.
  if (rows > 0) batch[row] = 1;
  if (columns > 0) batch[column] = 1;
  visit_floating("matmul", a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_each(
        batch,
        [&](int64_t ia, int64_t ib, int64_t o) {
          for (int64_t m = 0; m < rows; ++m) {
            for (int64_t n = 0; n < columns; ++n) {
              const T* x = a.as<T>() + ia + m * (*a.strides)[row];
              const T* y = b.as<T>() + ib + n * (*b.strides)[column];
              double sum = 0;
              for (int64_t k = 0; k < depth; ++k) {
                sum += static_cast<double>(x[k * (*a.strides)[column]]) *
                       static_cast<double>(y[k * (*b.strides)[row]]);
              }
              T& z = out.as<T>()[o + m * (*out.strides)[row] + n * (*out.strides)[column]];
              if (bias.defined()) sum += static_cast<double>(bias.as<T>()[n * (*bias.strides)[0]]);
              if (accumulate) sum += static_cast<double>(z);
              z = static_cast<T>(sum);
            }
          }
        },
        *a.strides, *b.strides, *out.strides);
  });
}

}  // namespace flowgrad::kernels
