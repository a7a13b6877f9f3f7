#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "flowgrad/core/dtype.h"
#include "flowgrad/core/layout.h"
#include "flowgrad/core/storage.h"
#include "flowgrad/core/tape.h"

namespace flowgrad {

class Leaf;

/// An n-dimensional array: a handle to a strided view of a storage, with an optional place on the
/// tape. Copying a Tensor copies the handle. Arithmetic lives in autograd/ops.h.
class Tensor {
 public:
  /// An undefined tensor; `defined()` is false.
  Tensor() = default;

  /// Uninitialised contiguous tensor.
  static Tensor empty(const Shape& shape, DType dtype = DType::float32,
                      Device device = Device::cpu());
  /// Copies `values` (row-major) into a new tensor; raises ShapeError when the counts differ.
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape, DType dtype = dtype_of<T>(),
                     Device device = Device::cpu());
  /// A view of another storage; raises ShapeError when the layout reaches outside of it.
  static Tensor over(Ref<Storage> storage, const Layout& layout, DType dtype);

  bool defined() const { return static_cast<bool>(impl_); }
  const Shape& shape() const { return impl().layout.shape; }
  const Strides& strides() const { return impl().layout.strides; }
  const Layout& layout() const { return impl().layout; }
  int rank() const { return impl().layout.rank(); }
  int64_t numel() const { return impl().numel; }
  /// Size along an axis, which may be negative.
  int64_t size(int64_t axis) const;
  DType dtype() const { return impl().dtype; }
  Device device() const { return storage().device(); }
  bool is_contiguous() const { return impl().layout.is_contiguous(); }
  Storage& storage() const { return *impl().storage; }
  const Ref<Storage>& storage_ref() const { return impl().storage; }

  /// Address of the first element, for host code. Raises DTypeError when T is not the element type,
  /// and DeviceError when the tensor is not on the CPU.
  template <class T>
  T* data() const {
    if (dtype_of<T>() != dtype()) wrong_type(name_of(dtype_of<T>()));
    if (!device().is_cpu()) wrong_device();
    return static_cast<T*>(storage().data()) + impl().layout.offset;
  }
  /// Address of the first element on the tensor's device, untyped; that of the memory where there
  /// is none, which an offset may lie beyond.
  void* raw() const {
    const int64_t offset = numel() == 0 ? 0 : impl().layout.offset;
    return static_cast<char*>(storage().data()) + offset * static_cast<int64_t>(size_of(dtype()));
  }
  // These wait for the work of a device and copy from it.
  /// The single element as a double. Raises ShapeError for any other count.
  double item() const;
  /// All elements in row-major order, converted to T, whatever the layout, dtype and device.
  template <class T>
  std::vector<T> to_vector() const;
  /// Element at an index of full rank, as a double.
  double at(const Dims& index) const;

  /// Same storage under another layout, off the tape.
  Tensor with_layout(const Layout& layout) const;
  /// Same storage and layout, off the tape.
  Tensor detach() const;
  /// Gives this tensor, for every handle of it, the storage of `other`, which has its shape and
  /// dtype but may live on another device. A leaf stays the same leaf and loses its gradient; a
  /// graph that saved the old value raises GradError naming `writer`.
  void replace_storage(const Tensor& other, const char* writer) const;

  // --- the tape ---
  /// True for a leaf that asks for gradients and for everything computed from one.
  bool requires_grad() const { return impl_ && impl_->node; }
  bool is_leaf() const { return !impl_ || !impl_->node || impl_->node->is_leaf(); }
  /// Makes this a leaf of the tape. Raises DTypeError for a non-floating dtype and GradError on the
  /// result of a recorded operation. Off, it keeps the gradient that it has and gets no other, and
  /// is the same leaf when switched on again. Returns the tensor itself.
  Tensor requires_grad_(bool on = true) const;
  /// The stored gradient of a leaf (or of a tensor marked by retain_grad); undefined when there is
  /// none.
  Tensor grad() const;
  /// Stores it off the tape. Raises GradError for another shape or dtype, or for elements shown
  /// more than once (expand): later gradients are added in place.
  void set_grad(const Tensor& grad) const;
  void zero_grad() const;

  const Ref<TapeNode>& node() const { return impl().node; }
  uint32_t output_number() const { return impl().output; }
  /// For autograd/: places this handle's value on the tape.
  void attach(Ref<TapeNode> node, uint32_t output) const;
  /// For autograd/: gradient slot of a non-leaf.
  void set_retained(Ref<Leaf> slot) const { impl().retained = std::move(slot); }
  bool retains_grad() const { return impl_ && impl_->node && impl_->retained; }

  /// Two handles of one tensor object.
  bool same_as(const Tensor& other) const { return impl_.get() == other.impl_.get(); }
  /// Nobody else can see this tensor's bytes.
  bool is_sole_owner() const {
    return impl_ && impl_->use_count() == 1 && impl_->storage->use_count() == 1;
  }

 private:
  struct Impl final : RefCounted {
    Impl(const Layout& layout, int64_t numel, Ref<Storage> storage, DType dtype)
        : layout(layout), numel(numel), storage(std::move(storage)), dtype(dtype) {}
    Layout layout;
    int64_t numel;
    Ref<Storage> storage;
    Ref<TapeNode> node;
    /// Of a result the slot of its gradient, if it is asked for; else a leaf that is frozen.
    Ref<Leaf> retained;
    uint32_t output = 0;
    DType dtype;
  };
  // Not a constructor: Tensor would have a second reading of {0}.
  static Tensor of(const Layout& layout, int64_t numel, Ref<Storage> storage, DType dtype) {
    Tensor t;
    t.impl_ = make_ref<Impl>(layout, numel, std::move(storage), dtype);
    return t;
  }
  Impl& impl() const {
    if (!impl_) undefined();
    return *impl_;
  }
  [[noreturn]] static void undefined();
  [[noreturn]] void wrong_type(const char* asked) const;
  [[noreturn]] void wrong_device() const;

  Ref<Impl> impl_;
};

/// The tape's end for a tensor that the user asks gradients for; owns the gradient. Additions are
/// guarded, so graphs on several threads may share a leaf.
class Leaf final : public TapeNode {
 public:
  Leaf(const Layout& layout, DType dtype, Device device)
      : TapeNode(true), layout(layout), dtype(dtype), device(device) {}

  /// The tensor's layout; a stored gradient takes its axis order.
  Layout layout;
  DType dtype;
  Device device;
  std::mutex mutex;
  Tensor grad;
  /// Gradients pass it by.
  std::atomic<bool> frozen = false;
};

/// Tensors by name, in a meaningful order: parameters of a model, content of a file.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// "[[1, 2], [3, 4]]" with shape and dtype, long tensors abbreviated.
std::string to_string(const Tensor& t);
std::ostream& operator<<(std::ostream& out, const Tensor& t);

}  // namespace flowgrad
