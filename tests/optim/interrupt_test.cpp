#include "flowgrad/optim/interrupt.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "optim/training.h"

using namespace optim_test;

namespace {

void (*handler_of(int number))(int) {
  struct sigaction now {};
  ::sigaction(number, nullptr, &now);
  return now.sa_handler;
}

void other_handler(int) {}

/// Exit code of a child that runs f.
template <class F>
int exit_code_of(F&& f) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    f();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

TEST_CASE("a signal is remembered while a guard lives and what was there returns",
          "[interrupt_test][serial]") {
  const auto before = ::signal(SIGTERM, other_handler);
  {
    const InterruptGuard outer;
    CHECK(InterruptGuard::signal() == 0);
    ::raise(SIGTERM);
    CHECK(InterruptGuard::signal() == SIGTERM);
    {
      const InterruptGuard inner;
      CHECK(InterruptGuard::signal() == SIGTERM);
    }
    CHECK(handler_of(SIGTERM) != other_handler);
    CHECK(handler_of(SIGPIPE) == SIG_IGN);
  }
  CHECK(handler_of(SIGTERM) == other_handler);
  CHECK(handler_of(SIGPIPE) != SIG_IGN);
  {
    const InterruptGuard off(false);
    CHECK(handler_of(SIGTERM) == other_handler);
  }
  const InterruptGuard anew;
  CHECK(InterruptGuard::signal() == 0);
  ::signal(SIGTERM, before);
}

TEST_CASE("a second signal ends the process at once", "[interrupt_test][serial]") {
  CHECK(exit_code_of([] {
          const InterruptGuard guard;
          ::raise(SIGINT);
          ::raise(SIGINT);
        }) == 130);
  CHECK(exit_code_of([] {
          const InterruptGuard guard;
          ::raise(SIGINT);
          ::raise(SIGTERM);
        }) == 143);
  CHECK(exit_code_of([] {
          const InterruptGuard guard;
          ::raise(SIGINT);
        }) == 0);
}

TEST_CASE("SIGINT ends a training after its step with a checkpoint", "[interrupt_test][serial]") {
  const Scratch scratch;
  Regression r(16);
  Capture capture;
  TrainerOptions o;
  o.steps = 100;
  o.run_folder = scratch / "run";
  o.progress = &capture;
  TrainerParts p = r.parts();
  p.after_step = [](int64_t done) {
    if (done == 17) ::raise(SIGINT);
  };
  const auto before = handler_of(SIGINT);
  Trainer trainer(p, o);
  const TrainResult result = trainer.run();
  CHECK(handler_of(SIGINT) == before);
  CHECK(result.status == TrainStatus::interrupted);
  CHECK(result.signal == SIGINT);
  CHECK(result.steps_done == 17);
  CHECK(load_checkpoint(result.checkpoint).step == 17);
  CHECK(capture.finished == 1);
  // The same trainer can go on: the signal was dealt with.
  CHECK(trainer.run().status == TrainStatus::finished);
}

TEST_CASE("a signal that came before a training stops it after a step",
          "[interrupt_test][serial]") {
  const InterruptGuard guard;
  ::raise(SIGINT);
  Regression r(16);
  Capture capture;
  TrainerOptions o;
  o.progress = &capture;
  const TrainResult result = Trainer(r.parts(), o).run();
  CHECK(result.status == TrainStatus::interrupted);
  CHECK(result.steps_done == 1);
}

TEST_CASE("a closed pipe does not end a training", "[interrupt_test][serial]") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ::close(ends[0]);
  const auto progress = make_progress(false, ends[1], 0);
  Regression r(16);
  TrainerOptions o;
  o.steps = 5;
  o.progress = progress.get();
  CHECK(Trainer(r.parts(), o).run().status == TrainStatus::finished);
  ::close(ends[1]);
}
