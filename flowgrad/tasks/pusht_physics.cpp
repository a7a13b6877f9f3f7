#include "flowgrad/tasks/pusht_physics.h"

#include "flowgrad/core/error.h"

#ifdef FLOWGRAD_HAVE_CHIPMUNK

#include <chipmunk/chipmunk.h>

#include <algorithm>
#include <cstdio>
#include <mutex>

namespace flowgrad {
namespace {

constexpr double kStep = 0.01;
constexpr int kPhysicsSubsteps = 10;
constexpr double kStiffness = 100.0;
constexpr double kDamping = 20.0;

/// Debian's Chipmunk is built with its checks and prints a banner on stdout at the first space,
/// where results of the command belong. The C library's streams are variables, so a stream to
/// nowhere takes its place meanwhile.
void silence_banner() {
  static std::once_flag once;
  std::call_once(once, [] {
#ifdef __GLIBC__
    std::FILE* const nowhere = std::fopen("/dev/null", "w");
    if (nowhere == nullptr) return;
    std::FILE* const out = stdout;
    stdout = nowhere;
    cpSpaceFree(cpSpaceNew());
    stdout = out;
    std::fclose(nowhere);
#endif
  });
}

}  // namespace

struct PushTPhysics::Bodies {
  cpSpace* space;
  cpBody* pusher;
  cpBody* block;
};

bool PushTPhysics::available() { return true; }

/// Shapes and bodies in the order of the published code, on which the solver's order depends.
PushTPhysics::PushTPhysics() : bodies_(std::make_unique<Bodies>()) {
  silence_banner();
  cpSpace* const space = bodies_->space = cpSpaceNew();
  cpSpaceSetDamping(space, 0.0);
  const cpVect walls[][2] = {
      {{5, 506}, {5, 5}}, {{5, 5}, {506, 5}}, {{506, 5}, {506, 506}}, {{5, 506}, {506, 506}}};
  for (const auto& [a, b] : walls) {
    cpSpaceAddShape(space, cpSegmentShapeNew(cpSpaceGetStaticBody(space), a, b, 2.0));
  }
  bodies_->pusher = cpSpaceAddBody(space, cpBodyNewKinematic());
  cpSpaceAddShape(space, cpCircleShapeNew(bodies_->pusher, 15.0, cpvzero));

  const cpVect bar[] = {{-60, 30}, {60, 30}, {60, 0}, {-60, 0}};
  const cpVect stem[] = {{-15, 30}, {-15, 120}, {15, 120}, {15, 30}};
  // The published code takes the bar's moment twice.
  const double moment = 2.0 * cpMomentForPoly(1.0, 4, bar, cpvzero, 0.0);
  bodies_->block = cpBodyNew(1.0, moment);
  cpBodySetCenterOfGravity(bodies_->block, cpv(0.0, 45.0));
  cpSpaceAddBody(space, bodies_->block);
  cpSpaceAddShape(space, cpPolyShapeNew(bodies_->block, 4, bar, cpTransformIdentity, 0.0));
  cpSpaceAddShape(space, cpPolyShapeNew(bodies_->block, 4, stem, cpTransformIdentity, 0.0));
}

PushTPhysics::~PushTPhysics() {
  cpSpace* const space = bodies_->space;
  cpSpaceEachShape(
      space,
      [](cpShape* shape, void* data) {
        cpSpaceAddPostStepCallback(
            static_cast<cpSpace*>(data),
            [](cpSpace* s, void* key, void*) {
              cpSpaceRemoveShape(s, static_cast<cpShape*>(key));
              cpShapeFree(static_cast<cpShape*>(key));
            },
            shape, nullptr);
      },
      space);
  for (cpBody* body : {bodies_->pusher, bodies_->block}) {
    cpSpaceRemoveBody(space, body);
    cpBodyFree(body);
  }
  cpSpaceFree(space);
}

void PushTPhysics::place(const std::array<double, 5>& state, Vec2 velocity) {
  cpBodySetPosition(bodies_->pusher, cpv(state[0], state[1]));
  cpBodySetVelocity(bodies_->pusher, cpv(velocity.x, velocity.y));
  // The angle turns the block about its centre of gravity, so it comes before the position.
  cpBodySetAngle(bodies_->block, state[4]);
  cpBodySetPosition(bodies_->block, cpv(state[2], state[3]));
  cpBodySetVelocity(bodies_->block, cpvzero);
  cpBodySetAngularVelocity(bodies_->block, 0.0);
}

void PushTPhysics::settle() { cpSpaceStep(bodies_->space, kStep); }

void PushTPhysics::step(Vec2 target) {
  for (int i = 0; i < kPhysicsSubsteps; ++i) {
    const cpVect position = cpBodyGetPosition(bodies_->pusher);
    const cpVect velocity = cpBodyGetVelocity(bodies_->pusher);
    const double ax = kStiffness * (target.x - position.x) - kDamping * velocity.x;
    const double ay = kStiffness * (target.y - position.y) - kDamping * velocity.y;
    cpBodySetVelocity(bodies_->pusher, cpv(velocity.x + ax * kStep, velocity.y + ay * kStep));
    cpSpaceStep(bodies_->space, kStep);
  }
}

std::array<double, 5> PushTPhysics::state() const {
  const cpVect pusher = cpBodyGetPosition(bodies_->pusher);
  const cpVect block = cpBodyGetPosition(bodies_->block);
  return {pusher.x, pusher.y, block.x, block.y, cpBodyGetAngle(bodies_->block)};
}

Vec2 PushTPhysics::velocity() const {
  const cpVect v = cpBodyGetVelocity(bodies_->pusher);
  return {v.x, v.y};
}

}  // namespace flowgrad

#else

namespace flowgrad {

struct PushTPhysics::Bodies {};

bool PushTPhysics::available() { return false; }
PushTPhysics::PushTPhysics() {
  throw ValueError(
      "pusht: this build was configured without Chipmunk, the engine of its physics; install "
      "libchipmunk-dev and configure again");
}
PushTPhysics::~PushTPhysics() = default;
void PushTPhysics::place(const std::array<double, 5>&, Vec2) {}
void PushTPhysics::settle() {}
void PushTPhysics::step(Vec2) {}
std::array<double, 5> PushTPhysics::state() const { return {}; }
Vec2 PushTPhysics::velocity() const { return {}; }

}  // namespace flowgrad

#endif
