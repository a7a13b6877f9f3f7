#pragma once

#include <optional>
#include <span>
#include <string>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/kernels/backend.h"

/// Checks and small helpers that the files of operations share.
namespace flowgrad {

[[noreturn]] void mixed_devices(const char* op, const std::string& name_a, const Tensor& a,
                                const std::string& name_b, const Tensor& b);
/// DeviceError where operands, called so in the message, live on different devices. An undefined b
/// lives anywhere.
inline void check_same_device(const char* op, const Tensor& a, const Tensor& b,
                              const char* name_a = "a", const char* name_b = "b") {
  if (b.defined() && a.device() != b.device()) mixed_devices(op, name_a, a, name_b, b);
}
/// Its places in a list, called so, share one device.
void check_same_device(const char* op, const char* name, std::span<const Tensor> list);
/// ValueError unless low <= high.
void check_ordered(const char* op, double low, double high);

/// The table's operation of an epilogue that is not none.
kernels::UnaryOp operation_of(Epilogue epilogue);
/// Whether an epilogue is left to the kernel before it.
bool is_fused(Epilogue epilogue, bool records);
/// The epilogue of z: an operation, or, fused, what it records, for the memory of z holds it
/// already.
Tensor with_epilogue(const Tensor& z, Epilogue epilogue, bool fused);

/// Where `value` is the extreme that was found for its place: a NaN is one, and equals nothing.
Tensor is_extreme(const Tensor& value, const Tensor& extreme);

/// A tensor's storage under another layout, as a kernel argument, without a tensor object for it.
class ViewAs {
 public:
  ViewAs(const Tensor& t, const Layout& layout) : shape_(layout.shape), strides_(layout.strides) {
    const int64_t offset = t.numel() == 0 ? 0 : layout.offset;
    view_.data =
        static_cast<char*>(t.storage().data()) + offset * static_cast<int64_t>(size_of(t.dtype()));
    view_.shape = &shape_;
    view_.strides = &strides_;
    view_.dtype = t.dtype();
  }
  ViewAs(const ViewAs&) = delete;
  ViewAs& operator=(const ViewAs&) = delete;
  operator kernels::View() const { return view_; }  // NOLINT(google-explicit-constructor)

 private:
  Shape shape_;
  Strides strides_;
  kernels::View view_;
};

/// x shown with a broadcast shape (stride 0), off the tape, as a kernel argument; undefined where x
/// is.
class Spread {
 public:
  Spread(const Tensor& x, const Shape& shape) {
    if (!x.defined()) return;
    if (x.shape() == shape)
      view_ = x;
    else
      view_ = layout_.emplace(x, expanded("broadcast", x.layout(), shape));
  }
  Spread(const Spread&) = delete;
  Spread& operator=(const Spread&) = delete;
  operator kernels::View() const { return view_; }  // NOLINT(google-explicit-constructor)

 private:
  std::optional<ViewAs> layout_;
  kernels::View view_;
};

/// What a reduction does to a shape.
struct ReducedAxes {
  unsigned mask = 0;  // bit i: axis i is reduced
  Shape kept;         // size 1 on the reduced axes
  Shape out;          // without them, unless keepdim
  int64_t count = 1;  // elements that become one
};
/// No axes means all of them. ShapeError for an axis out of range or named twice.
ReducedAxes reduced_axes(const char* op, const Shape& shape, const Dims& axes, bool keepdim);

/// DTypeError unless x, called `argument` in the message, is float32 or float64.
void check_floating(const char* op, const Tensor& x, const char* argument = "x");
/// DTypeError unless a and b, called so in the message, promote to float32 or float64.
void check_promotion(const char* op, const Tensor& a, const char* name_a, const Tensor& b,
                     const char* name_b);
/// DTypeError unless x is float32, float64 or int64.
void check_numeric(const char* op, const Tensor& x);
/// DTypeError unless `given` has the dtype of x, DeviceError unless it is on the same device. The
/// message calls x `other`.
void check_like(const char* op, const char* argument, const Tensor& given, const Tensor& x,
                const char* other = "x");
/// check_indices with the text of indexing operations; DTypeError unless index is int64.
Tensor checked_index(const char* op, const Tensor& index, int64_t size);
/// bool as int64, anything else as it is: bools are counted, not added.
Tensor counted(const Tensor& x);
/// A tensor of one value on a device.
Tensor filled(const Shape& shape, double value, DType dtype, Device device);

// Operations that rules are made of. They record themselves, so every order of derivative works.
/// Zeros of `shape` with source added at index along axis; index has been checked.
Tensor scatter_zeros(const Tensor& source, int axis, const Tensor& index, const Shape& shape);
/// The elements before (by = 1) or after (by = -1) those of x along axis, `edge` where there is
/// none.
Tensor shifted(const Tensor& x, int axis, int by, double edge);
/// cumprod, from the end when reverse.
Tensor cumulative_product(const Tensor& x, int axis, bool reverse);

}  // namespace flowgrad
