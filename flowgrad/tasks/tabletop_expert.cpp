#include <algorithm>

#include "flowgrad/tasks/tabletop.h"

namespace flowgrad {
namespace {

/// Distance at which the pusher circles a disc, and the disc the pillar.
constexpr double kPusherCircle = Tabletop::kContact + 0.02;
constexpr double kPillarCircle = Tabletop::kPillarRadius + Tabletop::kDiscRadius + 0.02;
/// The disc is pushed straight at the pillar up to this distance: before, nothing tells the side,
/// and from here the mean of both ways goes on straight and has no room left to decide.
constexpr double kCommit = 0.18;

/// True where the straight way from one point to another comes nearer than `radius` to an obstacle.
bool blocks(Vec2 from, Vec2 to, Vec2 obstacle, double radius) {
  const Vec2 way = to - from;
  const double length = std::max(dot(way, way), 1e-12);
  const double along = std::clamp(dot(obstacle - from, way) / length, 0.0, 1.0);
  return norm(from + along * way - obstacle) < radius;
}

/// Direction that passes a circle round an obstacle on the left (side 1) or right (-1): along the
/// tangent from outside of it, outwards as well from within.
Vec2 around(Vec2 from, Vec2 obstacle, double radius, int side) {
  const Vec2 ahead = unit(obstacle - from);
  const double distance = norm(obstacle - from);
  const Vec2 sideways = static_cast<double>(side) * left_of(ahead);
  if (distance <= radius) {
    return unit(sideways - std::min((radius - distance) / 0.02, 1.0) * ahead);
  }
  const double sine = radius / distance;
  return std::sqrt(1.0 - sine * sine) * ahead + sine * sideways;
}

/// Direction of the disc: to its zone, in the fork past the pillar on the chosen side.
Vec2 disc_heading(const Tabletop& world, Vec2 disc, int side) {
  const Vec2 zone = Tabletop::zone_center(world.zone());
  if (world.is_fork() && norm(disc - world.pillar()) < kCommit &&
      blocks(disc, zone, world.pillar(), kPillarCircle - 0.005)) {
    return around(disc, world.pillar(), kPillarCircle, side);
  }
  return unit(zone - disc);
}

/// The way of the pusher to a free point, round the first disc that stands in it.
Vec2 approach(const Tabletop& world, Vec2 to) {
  const Vec2 from = world.pusher();
  const Vec2 way = to - from;
  Vec2 heading = unit(way);
  double nearest = 1e9;
  for (int i = 0; i < world.disc_count(); ++i) {
    const Vec2 disc = world.disc(i);
    const double distance = norm(disc - from);
    if (distance >= nearest || !blocks(from, to, disc, kPusherCircle - 0.01)) continue;
    nearest = distance;
    heading = around(from, disc, kPusherCircle, cross(way, disc - from) > 0.0 ? -1 : 1);
  }
  return from + std::min(Tabletop::kSpeed, norm(way)) * heading;
}

}  // namespace

Vec2 expert_action(const Tabletop& world, int side) {
  constexpr double kAligned = 0.82;  // cosine of 35 degrees
  constexpr double kCorrection = 2.5;
  const Vec2 pusher = world.pusher();
  const Vec2 disc = world.disc(world.target());
  const Vec2 heading = disc_heading(world, disc, side);
  const Vec2 to_disc = disc - pusher;
  if (norm(to_disc) > kPusherCircle + 0.02 || dot(unit(to_disc), heading) < kAligned) {
    return approach(world, disc - kPusherCircle * heading);
  }
  const Vec2 beside = (dot(to_disc, heading) * heading) - to_disc;
  return pusher + Tabletop::kSpeed * unit(heading - (kCorrection / Tabletop::kContact) * beside);
}

}  // namespace flowgrad
