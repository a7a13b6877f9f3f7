#include <fmt/format.h>

#include <vector>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"

namespace flowgrad {

Tensor mse_loss(const Tensor& input, const Tensor& target, Reduction reduction) {
  if (input.shape() != target.shape()) {
    throw ShapeError(fmt::format("mse_loss: input is {}, target is {}; equal shapes are accepted",
                                 input.shape().to_string(), target.shape().to_string()));
  }
  check_promotion("mse_loss", input, "input", target, "target");
  check_same_device("mse_loss", input, target, "input", "target");
  const Tensor difference = input - target;
  const Tensor squares = square(difference);
  if (reduction == Reduction::none) return squares;
  return reduction == Reduction::sum ? sum(squares) : mean(squares);
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, Reduction reduction,
                     int64_t ignore_index) {
  check_floating("cross_entropy", logits, "logits");
  if (target.dtype() != DType::int64) {
    throw DTypeError(fmt::format("cross_entropy: target is {}; int64 classes are accepted",
                                 name_of(target.dtype())));
  }
  if (logits.rank() != 2 || target.rank() != 1 || target.shape()[0] != logits.shape()[0]) {
    throw ShapeError(
        fmt::format("cross_entropy: logits are {}, target is {}; (N, C) and (N,) are accepted",
                    logits.shape().to_string(), target.shape().to_string()));
  }
  check_same_device("cross_entropy", logits, target, "logits", "target");
  const Device device = logits.device();
  const int64_t classes = logits.shape()[1];
  std::vector<int64_t> picked = target.to_vector<int64_t>();
  std::vector<int64_t> counts(picked.size(), 1);
  int64_t counted_rows = 0;
  for (size_t i = 0; i < picked.size(); ++i) {
    if (picked[i] == ignore_index) {
      picked[i] = 0;
      counts[i] = 0;
      continue;
    }
    ++counted_rows;
    if (picked[i] < 0 || picked[i] >= classes) {
      throw ValueError(
          fmt::format("cross_entropy: class {} given in row {} of target; 0 to {} or "
                      "ignore_index = {} is accepted",
                      picked[i], i, classes - 1, ignore_index));
    }
  }
  const int64_t rows = logits.shape()[0];
  const bool some_ignored = counted_rows < rows;
  Tensor losses;
  if (classes == 0) {
    losses = sum(logits, {1});  // every row is ignored
  } else {
    const Tensor index = some_ignored ? Tensor::from(picked, {rows}, DType::int64, device) : target;
    losses = -squeeze(gather(log_softmax(logits, 1), 1, unsqueeze(index, 1)), 1);
  }
  if (some_ignored) {
    losses = where(Tensor::from(counts, {rows}, DType::boolean, device), losses,
                   filled({}, 0, logits.dtype(), device));
  }
  if (reduction == Reduction::none) return losses;
  const Tensor total = sum(losses);
  return reduction == Reduction::sum ? total : total / static_cast<double>(counted_rows);
}

}  // namespace flowgrad
