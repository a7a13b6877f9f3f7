#include "flowgrad/core/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <ostream>

#include "flowgrad/core/convert.h"
#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/tensor_bytes.h"

namespace flowgrad {
namespace {

/// Calls f(element offset) for every element in row-major order.
template <class F>
void for_each_offset(const Layout& l, F&& f) {
  const int64_t n = numel(l.shape);
  Dims index = Dims::filled(l.rank(), 0);
  int64_t offset = l.offset;
  for (int64_t i = 0; i < n; ++i) {
    f(offset);
    for (int d = l.rank() - 1; d >= 0; --d) {
      offset += l.strides[d];
      if (++index[d] < l.shape[d]) break;
      offset -= l.strides[d] * l.shape[d];
      index[d] = 0;
    }
  }
}

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  const int64_t n = flowgrad::numel(shape);
  return of(contiguous_layout(shape), n,
            make_ref<Storage>(static_cast<size_t>(n) * size_of(dtype), device), dtype);
}

Tensor Tensor::over(Ref<Storage> storage, const Layout& layout, DType dtype) {
  const Extent e = extent_of(layout);
  const auto have = static_cast<int64_t>(storage->bytes() / size_of(dtype));
  if (e.begin < 0 || e.end > have) {
    throw ShapeError(
        fmt::format("view: shape {} with strides {} and offset {} touches elements {} to {}; the "
                    "storage has {}",
                    layout.shape.to_string(), layout.strides.to_string(), layout.offset, e.begin,
                    e.end - 1, have));
  }
  return of(layout, flowgrad::numel(layout.shape), std::move(storage), dtype);
}

Tensor Tensor::with_layout(const Layout& layout) const {
  return of(layout, flowgrad::numel(layout.shape), impl().storage, impl().dtype);
}

Tensor Tensor::detach() const { return of(layout(), numel(), impl().storage, dtype()); }

int64_t Tensor::size(int64_t axis) const {
  if (rank() == 0)
    throw ShapeError(fmt::format("size: axis {} given; a tensor of rank 0 has none", axis));
  return shape()[normalize_axis("size", axis, rank())];
}

template <class T>
Tensor Tensor::from(const std::vector<T>& values, const Shape& shape, DType dtype, Device device) {
  const Tensor t = empty(shape, dtype);
  if (t.numel() != static_cast<int64_t>(values.size())) {
    throw ShapeError(fmt::format("Tensor::from: {} values given for shape {} ({} elements)",
                                 values.size(), shape.to_string(), t.numel()));
  }
  visit(dtype, [&](auto tag) {
    using To = typename decltype(tag)::type;
    To* out = t.data<To>();
    for (size_t i = 0; i < values.size(); ++i) out[i] = convert<To>(static_cast<T>(values[i]));
  });
  if (device.is_cpu()) return t;
  const Tensor moved = empty(shape, dtype, device);
  copy_from_host(t.raw(), moved);
  return moved;
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  const HostElements elements(*this);
  std::vector<T> out;
  out.reserve(static_cast<size_t>(numel()));
  visit(dtype(), [&](auto tag) {
    using From = typename decltype(tag)::type;
    const From* base = reinterpret_cast<const From*>(elements.base());
    for_each_offset(elements.layout(), [&](int64_t o) { out.push_back(convert<T>(base[o])); });
  });
  return out;
}

template Tensor Tensor::from(const std::vector<float>&, const Shape&, DType, Device);
template Tensor Tensor::from(const std::vector<double>&, const Shape&, DType, Device);
template Tensor Tensor::from(const std::vector<int64_t>&, const Shape&, DType, Device);
template Tensor Tensor::from(const std::vector<bool>&, const Shape&, DType, Device);
template std::vector<float> Tensor::to_vector() const;
template std::vector<double> Tensor::to_vector() const;
template std::vector<int64_t> Tensor::to_vector() const;
template std::vector<bool> Tensor::to_vector() const;

double Tensor::item() const {
  if (numel() != 1) {
    throw ShapeError("item: shape " + shape().to_string() +
                     " given; exactly one element is accepted");
  }
  return at(Dims::filled(rank(), 0));
}

double Tensor::at(const Dims& index) const {
  if (index.rank() != rank()) {
    throw ShapeError(
        fmt::format("at: index {} given for shape {}", index.to_string(), shape().to_string()));
  }
  int64_t offset = layout().offset;
  for (int i = 0; i < rank(); ++i) {
    if (index[i] < 0 || index[i] >= shape()[i]) {
      throw ShapeError(fmt::format("at: index {} is outside of shape {} on axis {}",
                                   index.to_string(), shape().to_string(), i));
    }
    offset += index[i] * strides()[i];
  }
  return visit(dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* element = static_cast<const T*>(storage().data()) + offset;
    if (device().is_cpu()) return convert<double>(*element);
    T copied;
    device_memory(device().kind).copy_out(&copied, element, sizeof(T));
    return convert<double>(copied);
  });
}

void Tensor::undefined() { throw Error("tensor: an undefined tensor was used"); }

void Tensor::wrong_type(const char* asked) const {
  throw DTypeError(
      fmt::format("data: elements of {} asked for; the tensor holds {}", asked, name_of(dtype())));
}

void Tensor::wrong_device() const {
  throw DeviceError(
      fmt::format("data: the tensor is on {}; host code reads it with to_vector, or moves it to "
                  "the CPU first",
                  device().to_string()));
}

void Tensor::replace_storage(const Tensor& other, const char* writer) const {
  if (other.shape() != shape() || other.dtype() != dtype()) {
    throw ShapeError(fmt::format("replace_storage: {} {} given for a tensor {} {}",
                                 other.shape().to_string(), name_of(other.dtype()),
                                 shape().to_string(), name_of(dtype())));
  }
  if (!is_leaf()) throw GradError("replace_storage: the tensor is the result of an operation");
  other.storage().mark_replacement_of(storage(), writer);
  impl().storage = other.impl().storage;
  impl().layout = other.impl().layout;
  if (!impl().node) return impl().retained.reset();
  Leaf& leaf = static_cast<Leaf&>(*impl().node);
  std::lock_guard lock(leaf.mutex);
  leaf.layout = other.layout();
  leaf.device = other.device();
  leaf.grad = {};
}

Tensor Tensor::requires_grad_(bool on) const {
  if (!is_leaf()) {
    throw GradError(
        "requires_grad_: the tensor is the result of a recorded operation; use detach() first");
  }
  // A frozen leaf keeps its gradient and is the same leaf again when it is asked for.
  if (!on) {
    if (!impl().node) return *this;
    impl().retained = Ref<Leaf>(static_cast<Leaf*>(impl().node.get()));
    impl().retained->frozen = true;
    impl().node.reset();
  } else if (!impl().node && impl().retained) {
    impl().retained->frozen = false;
    impl().node = std::exchange(impl().retained, {});
  } else if (!impl().node) {
    if (!is_floating(dtype())) {
      throw DTypeError(fmt::format(
          "requires_grad_: dtype {} given; only floating dtypes have gradients", name_of(dtype())));
    }
    impl().node = make_ref<Leaf>(layout(), dtype(), device());
  }
  return *this;
}

void Tensor::attach(Ref<TapeNode> node, uint32_t output) const {
  impl().node = std::move(node);
  impl().output = output;
}

namespace {
Leaf* slot_of(const Tensor& t, const Ref<Leaf>& retained) {
  if (retained) return retained.get();
  return t.node() && t.node()->is_leaf() ? static_cast<Leaf*>(t.node().get()) : nullptr;
}
}  // namespace

Tensor Tensor::grad() const {
  Leaf* leaf = slot_of(*this, impl().retained);
  if (!leaf) return {};
  std::lock_guard lock(leaf->mutex);
  return leaf->grad;
}

void Tensor::set_grad(const Tensor& grad) const {
  Leaf* leaf = slot_of(*this, impl().retained);
  if (!leaf) throw GradError("set_grad: the tensor does not require gradients");
  if (grad.defined() && (grad.shape() != shape() || grad.dtype() != dtype())) {
    throw GradError(fmt::format("set_grad: gradient {} {} given for a tensor {} {}",
                                grad.shape().to_string(), name_of(grad.dtype()),
                                shape().to_string(), name_of(dtype())));
  }
  if (grad.defined() && grad.device() != device()) {
    throw DeviceError(fmt::format("set_grad: gradient on {} given for a tensor on {}",
                                  grad.device().to_string(), device().to_string()));
  }
  const int repeated = grad.defined() ? repeated_axis(grad.layout()) : -1;
  if (repeated >= 0) {
    throw GradError(
        fmt::format("set_grad: the gradient shows elements more than once along axis "
                    "{}; a tensor whose elements are its own is accepted, see clone",
                    repeated));
  }
  std::lock_guard lock(leaf->mutex);
  leaf->grad = grad.defined() && grad.requires_grad() ? grad.detach() : grad;
}

void Tensor::zero_grad() const { set_grad({}); }

std::string to_string(const Tensor& t) {
  if (!t.defined()) return "undefined tensor";
  const std::vector<double> v = t.to_vector<double>();
  const Shape& s = t.shape();
  std::string out;
  size_t at = 0;
  constexpr int64_t kEdge = 4;  // longer axes show this many elements at both ends
  const auto print = [&](auto&& self, int axis) -> void {
    if (axis == s.rank()) {
      out += t.dtype() == DType::boolean ? (v[at] != 0.0 ? "true" : "false")
                                         : fmt::format("{:.6g}", v[at]);
      ++at;
      return;
    }
    size_t inner = 1;
    for (int i = axis + 1; i < s.rank(); ++i) inner *= static_cast<size_t>(s[i]);
    out += '[';
    for (int64_t i = 0; i < s[axis]; ++i) {
      if (s[axis] > 2 * kEdge + 1 && i == kEdge) {
        out += ", ...";
        at += inner * static_cast<size_t>(s[axis] - 2 * kEdge);
        i = s[axis] - kEdge;
      }
      if (i > 0) out += ", ";
      self(self, axis + 1);
    }
    out += ']';
  };
  if (t.numel() == 0) {
    out = "[]";
  } else {
    print(print, 0);
  }
  return fmt::format("{} {} {}", out, name_of(t.dtype()), s.to_string());
}

std::ostream& operator<<(std::ostream& out, const Tensor& t) { return out << to_string(t); }

}  // namespace flowgrad
