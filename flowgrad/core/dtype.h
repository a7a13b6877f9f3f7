#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "flowgrad/core/error.h"
#include "flowgrad/core/host_device.h"

namespace flowgrad {

/// Element types. bfloat16 is a storage format: it can be copied and cast, not computed with.
enum class DType : uint8_t { boolean, int64, bfloat16, float32, float64 };

/// The upper half of a float32; conversion from float rounds to nearest even.
struct bfloat16 {
  uint16_t bits = 0;
  bfloat16() = default;
  FLOWGRAD_HOST_DEVICE explicit bfloat16(float x) {
    auto u = std::bit_cast<uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);  // keep NaN a NaN
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  FLOWGRAD_HOST_DEVICE explicit operator float() const {
    return std::bit_cast<float>(uint32_t{bits} << 16);
  }
};

/// Bytes of an element.
constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::boolean: return 1;
    case DType::bfloat16: return 2;
    case DType::float32: return 4;
    default: return 8;
  }
}
/// "float32", "float64", "bfloat16", "int64" or "bool".
const char* name_of(DType dtype);
inline bool is_floating(DType d) {
  return d == DType::float32 || d == DType::float64 || d == DType::bfloat16;
}
/// The dtype that both operands of a mixed operation are cast to:
/// bool < int64 < bfloat16 < float32 < float64.
inline DType promote(DType a, DType b) { return a < b ? b : a; }

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) {
    return DType::float32;
  } else if constexpr (std::is_same_v<T, double>) {
    return DType::float64;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return DType::int64;
  } else if constexpr (std::is_same_v<T, bool>) {
    return DType::boolean;
  } else {
    static_assert(std::is_same_v<T, bfloat16>, "not an element type");
    return DType::bfloat16;
  }
}

/// Calls f with std::type_identity of the element type: the one place where a runtime dtype becomes
/// a type. Use as `visit(dtype, [&](auto tag) { using T = typename decltype(tag)::type; ... })`.
template <class F>
decltype(auto) visit(DType dtype, F&& f) {
  switch (dtype) {
    case DType::boolean: return f(std::type_identity<bool>{});
    case DType::int64: return f(std::type_identity<int64_t>{});
    case DType::bfloat16: return f(std::type_identity<bfloat16>{});
    case DType::float32: return f(std::type_identity<float>{});
    default: return f(std::type_identity<double>{});
  }
}

/// As visit, for the two dtypes that floating arithmetic is done in; others raise DTypeError naming
/// op.
template <class F>
decltype(auto) visit_floating(const char* op, DType dtype, F&& f) {
  if (dtype == DType::float32) return f(std::type_identity<float>{});
  if (dtype == DType::float64) return f(std::type_identity<double>{});
  throw DTypeError(std::string(op) + ": dtype " + name_of(dtype) +
                   " given; float32 and float64 are accepted");
}

/// As visit, for dtypes with arithmetic: float32, float64, int64.
template <class F>
decltype(auto) visit_numeric(const char* op, DType dtype, F&& f) {
  if (dtype == DType::int64) return f(std::type_identity<int64_t>{});
  if (dtype == DType::float32) return f(std::type_identity<float>{});
  if (dtype == DType::float64) return f(std::type_identity<double>{});
  throw DTypeError(std::string(op) + ": dtype " + name_of(dtype) +
                   " given; float32, float64 and int64 are accepted");
}

}  // namespace flowgrad
