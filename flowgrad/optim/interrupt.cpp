#include "flowgrad/optim/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <mutex>

#include "flowgrad/core/file.h"

namespace flowgrad {
namespace {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");

constexpr int kCaught[] = {SIGINT, SIGTERM};
std::mutex installing;
int depth = 0;
struct sigaction previous[2];
struct sigaction previous_pipe;

void on_signal(int number) {
  int none = 0;
  if (received.compare_exchange_strong(none, number)) return;
  remove_own_temporaries();
  ::_exit(128 + number);
}

}  // namespace

InterruptGuard::InterruptGuard(bool install) : installed_(install) {
  if (!installed_) return;
  const std::lock_guard lock(installing);
  if (depth++ > 0) return;
  received = 0;
  struct sigaction action {};
  ::sigemptyset(&action.sa_mask);
  // Reads and writes go on: only the flag matters.
  action.sa_flags = SA_RESTART;
  action.sa_handler = on_signal;
  for (int i = 0; i < 2; ++i) ::sigaction(kCaught[i], &action, &previous[i]);
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &action, &previous_pipe);
}

InterruptGuard::~InterruptGuard() {
  if (!installed_) return;
  const std::lock_guard lock(installing);
  if (--depth > 0) return;
  for (int i = 0; i < 2; ++i) ::sigaction(kCaught[i], &previous[i], nullptr);
  ::sigaction(SIGPIPE, &previous_pipe, nullptr);
}

int InterruptGuard::signal() { return received; }

}  // namespace flowgrad
