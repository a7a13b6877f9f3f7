#pragma once

#include <cmath>
#include <cstdint>

#include "flowgrad/core/normal.h"

namespace flowgrad {

/// A point or a direction of the plane; y points up.
struct Vec2 {
  double x = 0.0, y = 0.0;

  friend Vec2 operator+(Vec2 a, Vec2 b) { return {a.x + b.x, a.y + b.y}; }
  friend Vec2 operator-(Vec2 a, Vec2 b) { return {a.x - b.x, a.y - b.y}; }
  friend Vec2 operator*(double s, Vec2 a) { return {s * a.x, s * a.y}; }
  friend bool operator==(Vec2, Vec2) = default;
};

inline double dot(Vec2 a, Vec2 b) { return a.x * b.x + a.y * b.y; }
/// Positive where b lies to the left of a.
inline double cross(Vec2 a, Vec2 b) { return a.x * b.y - a.y * b.x; }
inline double norm(Vec2 a) { return std::sqrt(dot(a, a)); }
/// a turned by a quarter to the left.
inline Vec2 left_of(Vec2 a) { return {-a.y, a.x}; }
/// The direction of a; the x axis for the zero vector.
inline Vec2 unit(Vec2 a) {
  const double length = norm(a);
  return length > 0.0 ? (1.0 / length) * a : Vec2{1.0, 0.0};
}

/// Random numbers of one episode, in order: draw k depends on (seed, stream, k) alone, and each has
/// a block of Philox to itself, whatever its kind.
class Draws {
 public:
  Draws(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  double uniform(double low, double high) {
    return low + (high - low) * uniform_at(seed_, stream_, next());
  }
  int integer(int count) {
    return static_cast<int>(integer_at(seed_, stream_, next(), static_cast<uint64_t>(count)));
  }
  double normal() { return normal_at(seed_, stream_, next()); }

 private:
  uint64_t next() { return 2 * next_++; }  // two indices share a block

  uint64_t seed_;
  uint64_t stream_;
  uint64_t next_ = 0;
};

}  // namespace flowgrad
