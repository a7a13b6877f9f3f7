#pragma once

#include <functional>
#include <string>
#include <vector>

#include "catch.hpp"
#include "close.h"
#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/module.h"

namespace flowgrad::testing {

/// Moves every parameter away from its start (zeros included) by normal numbers of this size.
inline void shake(Module& module, uint64_t seed, double size) {
  Generator generator(seed);
  NoGrad off;
  for (auto& [name, p] : module.parameters()) {
    const double fan_in = p.rank() > 1 ? static_cast<double>(p.size(-1)) : 1;
    copy_(p, p + randn(p.shape(), generator, p.dtype(), p.device()) * (size / std::sqrt(fan_in)));
  }
}

/// What `f` raises of type E, as text; "nothing" when it returns.
template <class E>
std::string raised(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing";
}

inline bool contains(const std::string& text, const std::vector<std::string>& parts) {
  for (const auto& p : parts) {
    if (text.find(p) == std::string::npos) return false;
  }
  return true;
}

}  // namespace flowgrad::testing
