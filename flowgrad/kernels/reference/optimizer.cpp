#include <cmath>

#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

using namespace reference;

namespace {

/// As ReferenceBackend::scale leaves a gradient.
template <class T>
double scaled(T gradient, double factor) {
  return static_cast<double>(static_cast<T>(static_cast<double>(gradient) * factor));
}

}  // namespace

/// Adam (Kingma and Ba 2015, algorithm 1) and AdamW (Loshchilov and Hutter 2019, algorithm 2).
void ReferenceBackend::adam_step(std::span<const OptimizerSlot> slots, const AdamParams& o) {
  for (const OptimizerSlot& slot : slots) {
    visit_floating("adam_step", slot.parameter.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      T* parameter = slot.parameter.as<T>();
      const T* gradient = slot.gradient.as<T>();
      T* moment1 = slot.moment1.as<T>();
      T* moment2 = slot.moment2.as<T>();
      const int64_t n = slot.parameter.numel();
      for (int64_t i = 0; i < n; ++i) {
        auto w = static_cast<double>(parameter[i]);
        double g = scaled(gradient[i], o.gradient_factor);
        if (o.decoupled) {
          w *= 1.0 - o.lr * o.weight_decay;
        } else {
          g += o.weight_decay * w;
        }
        const double m = o.beta1 * static_cast<double>(moment1[i]) + (1.0 - o.beta1) * g;
        const double v = o.beta2 * static_cast<double>(moment2[i]) + (1.0 - o.beta2) * g * g;
        w -= o.lr * (m / o.correction1) / (std::sqrt(v / o.correction2) + o.epsilon);
        moment1[i] = static_cast<T>(m);
        moment2[i] = static_cast<T>(v);
        parameter[i] = static_cast<T>(w);
      }
    });
  }
}

/// Momentum as in Sutskever et al. 2013, with PyTorch's convention (the rate multiplies the
/// buffer).
void ReferenceBackend::sgd_step(std::span<const OptimizerSlot> slots, const SgdParams& o) {
  for (const OptimizerSlot& slot : slots) {
    visit_floating("sgd_step", slot.parameter.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      T* parameter = slot.parameter.as<T>();
      const T* gradient = slot.gradient.as<T>();
      T* buffer = slot.moment1.as<T>();
      const int64_t n = slot.parameter.numel();
      for (int64_t i = 0; i < n; ++i) {
        const auto w = static_cast<double>(parameter[i]);
        double g = scaled(gradient[i], o.gradient_factor) + o.weight_decay * w;
        if (o.momentum != 0.0) {
          // The buffer starts as the first gradient, undamped.
          const double b =
              o.first_step ? g
                           : o.momentum * static_cast<double>(buffer[i]) + (1.0 - o.dampening) * g;
          buffer[i] = static_cast<T>(b);
          g = o.nesterov ? g + o.momentum * b : b;
        }
        parameter[i] = static_cast<T>(w - o.lr * g);
      }
    });
  }
}

double ReferenceBackend::sum_of_squares(std::span<const View> views) {
  double sum = 0;
  for (const View& view : views) {
    visit_floating("sum_of_squares", view.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for_each(
          *view.shape,
          [&](int64_t i) {
            const auto x = static_cast<double>(view.as<T>()[i]);
            sum += x * x;
          },
          *view.strides);
    });
  }
  return sum;
}

void ReferenceBackend::scale(View out, double factor) {
  visit_floating("scale", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_each(
        *out.shape,
        [&](int64_t i) {
          out.as<T>()[i] = static_cast<T>(static_cast<double>(out.as<T>()[i]) * factor);
        },
        *out.strides);
  });
}

void ReferenceBackend::lerp(View average, View value, double decay) {
  require_dtype("lerp", "value", value, average.dtype);
  visit_floating("lerp", average.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_each(
        *average.shape,
        [&](int64_t i, int64_t j) {
          T& a = average.as<T>()[i];
          a = static_cast<T>(decay * static_cast<double>(a) +
                             (1.0 - decay) * static_cast<double>(value.as<T>()[j]));
        },
        *average.strides, *value.strides);
  });
}

}  // namespace flowgrad::kernels
