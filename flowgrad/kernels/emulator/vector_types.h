#pragma once

/// CUDA's built-in vector types, with CUDA's alignments, under CUDA's names.

// FLOWGRAD_VECTORS(float, float) declares float1 to float4 and make_float1 to make_float4.
#define FLOWGRAD_VECTORS(name, T)                                              \
  struct name##1 {                                                             \
    T x;                                                                       \
  };                                                                           \
  struct alignas(2 * sizeof(T)) name##2 {                                      \
    T x, y;                                                                    \
  };                                                                           \
  struct name##3 {                                                             \
    T x, y, z;                                                                 \
  };                                                                           \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 {            \
    T x, y, z, w;                                                              \
  };                                                                           \
  inline constexpr name##1 make_##name##1(T x) { return {x}; }                 \
  inline constexpr name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline constexpr name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline constexpr name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

FLOWGRAD_VECTORS(char, signed char)
FLOWGRAD_VECTORS(uchar, unsigned char)
FLOWGRAD_VECTORS(short, short)
FLOWGRAD_VECTORS(ushort, unsigned short)
FLOWGRAD_VECTORS(int, int)
FLOWGRAD_VECTORS(uint, unsigned)
FLOWGRAD_VECTORS(long, long)
FLOWGRAD_VECTORS(ulong, unsigned long)
FLOWGRAD_VECTORS(longlong, long long)
FLOWGRAD_VECTORS(ulonglong, unsigned long long)
FLOWGRAD_VECTORS(float, float)
FLOWGRAD_VECTORS(double, double)
#undef FLOWGRAD_VECTORS

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
