#include "flowgrad/autograd/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

void check_anomaly(const Tensor& t, const std::string& where);

namespace {

/// Open-addressing map from a tape node to its position in the list of visited nodes.
class NodeIndex {
 public:
  NodeIndex() : slots_(64) {}
  /// Position of node; `added` says that it is new and got position `next`.
  uint32_t insert(TapeNode* node, uint32_t next, bool& added) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    Slot& s = slots_[find(node)];
    added = s.node == nullptr;
    if (added) {
      s = {node, next};
      ++count_;
    }
    return s.at;
  }
  uint32_t at(TapeNode* node) const { return slots_[find(node)].at; }
  /// Null for a node that was not visited.
  const uint32_t* position(TapeNode* node) const {
    const Slot& s = slots_[find(node)];
    return s.node ? &s.at : nullptr;
  }
  bool contains(TapeNode* node) const { return slots_[find(node)].node == node; }

 private:
  struct Slot {
    TapeNode* node = nullptr;
    uint32_t at = 0;
  };
  size_t find(TapeNode* node) const {
    const size_t mask = slots_.size() - 1;
    size_t i = (std::bit_cast<uintptr_t>(node) * 0x9E3779B97F4A7C15u) >> 20 & mask;
    while (slots_[i].node && slots_[i].node != node) i = (i + 1) & mask;
    return i;
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 4);
    old.swap(slots_);
    for (const Slot& s : old) {
      if (s.node) slots_[find(s.node)] = s;
    }
  }
  std::vector<Slot> slots_;
  size_t count_ = 0;
};

/// One pass over the graph. Nodes are visited in falling creation order, so that every cotangent of
/// a node is complete before the node runs.
class Pass {
 public:
  Pass(const GradOptions& options, const char* caller) : options_(options), caller_(caller) {}

  /// Leaves out what is older than `oldest`, the number of the oldest input: no way from there
  /// leads to an input, and a derivative inside of a long computation does not walk through all of
  /// it.
  void collect(std::span<const Tensor> outputs, uint64_t oldest = 0) {
    std::vector<TapeNode*> stack;
    const auto visit = [&](TapeNode* node) {
      bool added = false;
      index_.insert(node, static_cast<uint32_t>(visits_.size()), added);
      if (!added) return;
      visits_.push_back({Ref<TapeNode>(node)});
      stack.push_back(node);
    };
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].requires_grad()) {
        throw GradError(fmt::format(
            "{}: output {} does not depend on anything that requires gradients", caller_, i));
      }
      visit(outputs[i].node().get());
    }
    while (!stack.empty()) {
      TapeNode* node = stack.back();
      stack.pop_back();
      if (node->is_leaf()) continue;
      const auto& edges = static_cast<Node*>(node)->edges;
      for (size_t i = 0; i < edges.size(); ++i) {
        if (edges[i].node && edges[i].node->number() >= oldest) visit(edges[i].node.get());
      }
    }
    order_.resize(visits_.size());
    for (size_t i = 0; i < order_.size(); ++i)
      order_[i] = {visits_[i].node->number(), static_cast<uint32_t>(i)};
    std::sort(order_.begin(), order_.end(),
              [](const auto& a, const auto& b) { return a.first > b.first; });
    size_t total = 0;
    for (Visit& v : visits_) {
      v.first_gradient = static_cast<uint32_t>(total);
      total += v.node->is_leaf() ? 1 : static_cast<Node*>(v.node.get())->outputs.size();
    }
    gradients_.resize(total);
  }

  /// Marks the nodes from which an input can be reached.
  void restrict_to(std::span<const Tensor> inputs) {
    for (const Tensor& t : inputs) {
      if (!index_.contains(t.node().get())) continue;
      Visit& v = visits_[index_.at(t.node().get())];
      v.needed = true;
      v.is_target = true;
    }
    for (size_t k = order_.size(); k-- > 0;) {
      Visit& v = visits_[order_[k].second];
      if (v.node->is_leaf()) continue;
      const auto& edges = static_cast<Node*>(v.node.get())->edges;
      for (size_t i = 0; i < edges.size(); ++i) {
        const uint32_t* at = edges[i].node ? index_.position(edges[i].node.get()) : nullptr;
        if (at && visits_[*at].needed) {
          v.needed = true;
          v.runs = true;
        }
      }
    }
  }
  void need_everything() {
    for (Visit& v : visits_) {
      v.needed = true;
      v.runs = !v.node->is_leaf();
    }
  }

  void seed(const Tensor& output, Tensor cotangent) {
    add_to(gradient_of(output),
           check(std::move(cotangent), output.node().get(), output.output_number(), nullptr, 0));
  }

  Tensor& gradient_of(const Tensor& t) {
    return gradients_[visits_[index_.at(t.node().get())].first_gradient + t.output_number()];
  }
  bool reached(const Tensor& t) const { return index_.contains(t.node().get()); }

  void run(bool store_in_leaves) {
    for (const auto& [number, at] : order_) {
      Visit& v = visits_[at];
      if (!v.needed) continue;
      Tensor* cotangents = &gradients_[v.first_gradient];
      if (v.node->is_leaf()) {
        Leaf* const leaf = static_cast<Leaf*>(v.node.get());
        if (store_in_leaves && cotangents->defined() && !leaf->frozen)
          pending_.push_back({Ref<Leaf>(leaf), std::move(*cotangents)});
      } else {
        run_node(v, cotangents, store_in_leaves);
      }
      if (!v.is_target) drop(v);
    }
    // Only now, when nothing can fail any more: an error leaves every stored gradient as it was.
    for (Pending& p : pending_) {
      std::lock_guard lock(p.leaf->mutex);
      if (!p.leaf->grad.defined()) make_own(p);
    }
    for (Pending& p : pending_) store(p);
  }

 private:
  /// A gradient on its way into a leaf.
  struct Pending {
    Ref<Leaf> leaf;
    Tensor gradient;
    bool owned = false;
  };

  struct Visit {
    Ref<TapeNode> node;
    uint32_t first_gradient = 0;
    bool needed = false;
    bool runs = false;
    bool is_target = false;
  };

  void run_node(Visit& v, Tensor* cotangents, bool store_in_leaves) {
    Ref<Node> node(static_cast<Node*>(v.node.get()));
    bool any = false;
    for (size_t i = 0; i < node->outputs.size(); ++i) any = any || cotangents[i].defined();
    if (!any) return;
    if (store_in_leaves) {
      for (auto& [output, slot] : node->retained) {
        if (cotangents[output].defined()) pending_.push_back({slot, cotangents[output]});
      }
    }
    if (!v.runs) return;
    Backward backward(node, cotangents);
    backward.is_last_reader = !v.is_target;
    for (size_t i = 0; i < node->edges.size(); ++i) backward.slots[i] = slot_of(node->edges[i]);
    node->run(backward);
    for (size_t i = 0; i < node->edges.size(); ++i) {
      const Edge& edge = node->edges[i];
      Tensor& g = backward.results[i];
      if (!edge.node || !g.defined()) continue;
      if (mode().anomaly != AnomalyCheck::off) {
        check_anomaly(g, fmt::format("the gradient that {} gave its input {}", node->label(), i));
      }
      if (Tensor* const slot = backward.slots[i])
        add_to(*slot, check(std::move(g), edge.node.get(), edge.output, node.get(), i));
    }
    if (!options_.retain_graph) node->release_saved();
  }

  /// Where the gradient that goes along an edge is collected; null where nobody asks for it.
  Tensor* slot_of(const Edge& edge) {
    const uint32_t* const at = edge.node ? index_.position(edge.node.get()) : nullptr;
    if (at == nullptr || !visits_[*at].needed) return nullptr;
    return &gradients_[visits_[*at].first_gradient + edge.output];
  }

  void drop(const Visit& v) {
    const size_t n = v.node->is_leaf() ? 1 : static_cast<Node*>(v.node.get())->outputs.size();
    for (size_t i = 0; i < n; ++i) gradients_[v.first_gradient + i] = Tensor();
  }

  /// The one place where broadcast gradients are summed and dtypes converted.
  Tensor check(Tensor g, TapeNode* target, uint32_t output, const Node* from, size_t input) {
    const Shape* shape = nullptr;
    DType dtype = DType::float32;
    Device device;
    if (target->is_leaf()) {
      shape = &static_cast<Leaf*>(target)->layout.shape;
      dtype = static_cast<Leaf*>(target)->dtype;
      device = static_cast<Leaf*>(target)->device;
    } else {
      const auto& info = static_cast<Node*>(target)->outputs[output];
      shape = &info.shape;
      dtype = info.dtype;
      device = info.device;
    }
    if (g.device() != device) misplaced(g, device, from, input);
    if (g.dtype() != dtype) {
      if (!is_floating(g.dtype())) wrong(g, *shape, dtype, from, input);
      g = cast(g, dtype);
    }
    if (!(g.shape() == *shape)) {
      const int lead = g.rank() - shape->rank();
      bool fits = lead >= 0 && from != nullptr;
      for (int i = 0; fits && i < shape->rank(); ++i) {
        fits = (*shape)[i] == g.shape()[lead + i] || (*shape)[i] == 1;
      }
      if (!fits) wrong(g, *shape, dtype, from, input);
      g = in_float32(g, [&](const Tensor& wide) { return sum_to(wide, *shape); });
    }
    return g;
  }

  /// f(g), which has arithmetic, in the dtype of g.
  template <class F>
  static Tensor in_float32(const Tensor& g, F&& f) {
    return g.dtype() == DType::bfloat16 ? cast(f(cast(g, DType::float32)), g.dtype()) : f(g);
  }
  static Tensor sum_of(const Tensor& a, const Tensor& b) {
    return in_float32(a, [&](const Tensor& wide) { return wide + cast(b, wide.dtype()); });
  }
  static void add_in_place(const Tensor& g, const Tensor& to) {
    kernels::Backend& backend = kernels::backend(to.device());
    if (to.dtype() == DType::bfloat16)
      backend.copy(sum_of(to, g), to);
    else
      backend.add_into(g, to);
  }

  static std::string giver(const Node* from, size_t input) {
    return from ? fmt::format("{} returned a gradient for input {}", from->label(), input)
                : std::string("the cotangent given");
  }
  [[noreturn]] void misplaced(const Tensor& g, Device device, const Node* from, size_t input) {
    throw DeviceError(fmt::format("{}: {} on {}; expected on {}", caller_, giver(from, input),
                                  g.device().to_string(), device.to_string()));
  }
  [[noreturn]] void wrong(const Tensor& g, const Shape& shape, DType dtype, const Node* from,
                          size_t input) {
    throw GradError(fmt::format("{}: {} of shape {} {}; expected shape {} {}", caller_,
                                giver(from, input), g.shape().to_string(), name_of(g.dtype()),
                                shape.to_string(), name_of(dtype)));
  }

  void add_to(Tensor& slot, Tensor g) {
    if (!slot.defined()) {
      slot = std::move(g);
    } else if (!mode().recording && slot.is_sole_owner() && slot.is_contiguous()) {
      add_in_place(g, slot);
    } else {
      slot = sum_of(slot, g);
    }
  }

  /// Makes the buffer that the leaf will own, in the leaf's axis order.
  static void make_own(Pending& p) {
    p.owned = true;
    const Leaf& leaf = *p.leaf;
    const bool row_major = leaf.layout.is_contiguous();
    // Take the buffer over where nobody else holds it.
    if (row_major && p.gradient.is_contiguous() && p.gradient.is_sole_owner()) {
      p.gradient = p.gradient.detach();
      return;
    }
    Tensor own = Tensor::empty(leaf.layout.shape, leaf.dtype, leaf.device);
    if (!row_major) {
      const Layout like{leaf.layout.shape, leaf.layout.strides, 0};
      if (is_dense(like)) own = own.with_layout(like);
    }
    kernels::backend(leaf.device).copy(p.gradient, own);
    p.gradient = own;
  }

  /// Row-major in some order of the axes: every element once, without gaps.
  static bool is_dense(const Layout& l) {
    int64_t next = 1;
    for (unsigned left = (1u << l.rank()) - 1; left;) {
      int found = -1;
      for (int i = 0; i < l.rank(); ++i) {
        if ((left >> i & 1) && (l.shape[i] == 1 || l.strides[i] == next)) found = i;
      }
      if (found < 0) return false;
      next *= l.shape[found];
      left &= ~(1u << found);
    }
    return true;
  }

  static void store(Pending& p) {
    Leaf& leaf = *p.leaf;
    std::lock_guard lock(leaf.mutex);
    if (leaf.grad.defined()) {
      add_in_place(p.gradient, leaf.grad);
      leaf.grad.storage().mark_written("backward");
    } else {
      if (!p.owned) make_own(p);
      leaf.grad = std::move(p.gradient);
    }
  }

  GradOptions options_;
  const char* caller_;
  NodeIndex index_;
  std::vector<Visit> visits_;
  std::vector<std::pair<uint64_t, uint32_t>> order_;
  std::vector<Tensor> gradients_;
  std::vector<Pending> pending_;
};

Tensor default_cotangent(const char* caller, const Tensor& output, size_t i) {
  if (output.numel() != 1) {
    throw GradError(
        fmt::format("{}: output {} has shape {}; a cotangent of that shape must be given for "
                    "anything but a single element",
                    caller, i, output.shape().to_string()));
  }
  Tensor one = Tensor::empty(output.shape(), output.dtype(), output.device());
  kernels::backend(output.device()).fill(one, 1);
  return one;
}

void start(Pass& pass, const char* caller, std::span<const Tensor> outputs,
           std::span<const Tensor> cotangents) {
  if (!cotangents.empty() && cotangents.size() != outputs.size()) {
    throw GradError(fmt::format("{}: {} cotangents given for {} outputs", caller, cotangents.size(),
                                outputs.size()));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const bool given = !cotangents.empty() && cotangents[i].defined();
    pass.seed(outputs[i], given ? cotangents[i] : default_cotangent(caller, outputs[i], i));
  }
}

}  // namespace

std::vector<Tensor> grad(std::span<const Tensor> outputs, std::span<const Tensor> inputs,
                         std::span<const Tensor> cotangents, const GradOptions& given) {
  GradOptions options = given;
  options.retain_graph = options.retain_graph || options.create_graph;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) {
      throw GradError(fmt::format("grad: input {} of shape {} does not require gradients", i,
                                  inputs[i].shape().to_string()));
    }
  }
  NoGrad recording_as_asked(!options.create_graph);
  Pass pass(options, "grad");
  uint64_t oldest = std::numeric_limits<uint64_t>::max();
  for (const Tensor& t : inputs) oldest = std::min(oldest, t.node()->number());
  pass.collect(outputs, oldest);
  pass.restrict_to(inputs);
  const auto unused = [&](size_t i) {
    return GradError(
        fmt::format("grad: the outputs do not depend on input {} of shape {}; allow_unused "
                    "gives an undefined tensor instead",
                    i, inputs[i].shape().to_string()));
  };
  // Before the pass frees anything.
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!options.allow_unused && !pass.reached(inputs[i])) throw unused(i);
  }
  start(pass, "grad", outputs, cotangents);
  pass.run(false);
  std::vector<Tensor> result;
  result.reserve(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensor g = pass.reached(inputs[i]) ? pass.gradient_of(inputs[i]) : Tensor();
    if (!g.defined() && !options.allow_unused) throw unused(i);
    result.push_back(g);
  }
  return result;
}

std::vector<Tensor> grad(const Tensor& output, std::initializer_list<Tensor> inputs,
                         const GradOptions& options) {
  return grad(std::span(&output, 1), std::span(inputs.begin(), inputs.size()), {}, options);
}

std::vector<Tensor> grad(const Tensor& output, const std::vector<Tensor>& inputs,
                         const GradOptions& options) {
  return grad(std::span(&output, 1), inputs, {}, options);
}

std::vector<Tensor> grad(const Tensor& output, const NamedTensors& inputs,
                         const GradOptions& options) {
  std::vector<Tensor> tensors;
  for (const auto& [name, tensor] : inputs) tensors.push_back(tensor);
  return grad(output, tensors, options);
}

Tensor grad(const Tensor& output, const Tensor& input, const GradOptions& options) {
  return grad(std::span(&output, 1), std::span(&input, 1), {}, options)[0];
}

void backward(std::span<const Tensor> outputs, std::span<const Tensor> cotangents,
              bool retain_graph) {
  NoGrad off;
  Pass pass({.retain_graph = retain_graph}, "backward");
  pass.collect(outputs);
  pass.need_everything();
  start(pass, "backward", outputs, cotangents);
  pass.run(true);
}

void backward(const Tensor& output, const Tensor& cotangent, bool retain_graph) {
  backward(std::span(&output, 1), std::span(&cotangent, 1), retain_graph);
}

void retain_grad(const Tensor& x) {
  if (!x.requires_grad()) throw GradError("retain_grad: the tensor does not require gradients");
  if (x.is_leaf() || x.retains_grad()) return;
  Ref<Leaf> slot = make_ref<Leaf>(x.layout(), x.dtype(), x.device());
  static_cast<Node*>(x.node().get())->retained.push_back({x.output_number(), slot});
  x.set_retained(slot);
}

}  // namespace flowgrad
