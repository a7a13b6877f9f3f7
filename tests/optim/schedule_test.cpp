#include "flowgrad/optim/schedule.h"

#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "core/io_support.h"
#include "optim/golden_numbers.h"

using namespace flowgrad;
using io_test::Contains;
using io_test::error_of;

namespace {

void check_rates(const Schedule& schedule, const std::vector<double>& golden) {
  for (size_t s = 0; s < golden.size(); ++s) {
    INFO("step " << s);
    CHECK(std::abs(schedule(static_cast<int64_t>(s)) - golden[s]) < 1e-14);
  }
}

std::string refusal(const std::function<void()>& f) { return error_of<ValueError>(f); }

}  // namespace

TEST_CASE("one-cycle and cosine give PyTorch's rates", "[schedule_test]") {
  check_rates(one_cycle_schedule(0.3, 10), pytorch::one_cycle_10);
  check_rates(one_cycle_schedule(2, 7, 0.5, 10, 100), pytorch::one_cycle_7);
  check_rates(one_cycle_schedule(0.3, 2), pytorch::one_cycle_2);
  check_rates(cosine_schedule(0.4, 10, 0.01), pytorch::cosine_10);
}

TEST_CASE("schedules stay at their last value", "[schedule_test]") {
  CHECK(cosine_schedule(0.4, 10, 0.01)(1000) == Catch::Approx(0.01).epsilon(1e-14));
  CHECK(cosine_schedule(0.4, 10)(10) == 0);
  CHECK(one_cycle_schedule(0.3, 10)(9) == Catch::Approx(0.3 / 25 / 1e4).epsilon(1e-12));
  CHECK(one_cycle_schedule(0.3, 10)(10000) == one_cycle_schedule(0.3, 10)(9));
  CHECK(one_cycle_schedule(0.3, 1)(0) == Catch::Approx(0.3 / 25 / 1e4).epsilon(1e-12));
  CHECK(constant_schedule(0.5)(0) == 0.5);
  CHECK(constant_schedule(0.5)(1 << 20) == 0.5);
}

TEST_CASE("a warm-up leads to the first rate of what follows", "[schedule_test]") {
  const Schedule s = warm_up_schedule(4, cosine_schedule(0.8, 10));
  CHECK(s(0) == Catch::Approx(0.2));
  CHECK(s(1) == Catch::Approx(0.4));
  CHECK(s(3) == Catch::Approx(0.8));
  CHECK(s(4) == Catch::Approx(0.8));
  CHECK(s(9) == Catch::Approx(0.4));
  CHECK(s(14) == Catch::Approx(0).margin(1e-15));
  CHECK(warm_up_schedule(0, constant_schedule(0.5))(0) == 0.5);
}

TEST_CASE("schedules refuse what makes no sense", "[schedule_test]") {
  const double infinite = std::numeric_limits<double>::infinity();
  CHECK_THAT(refusal([] { cosine_schedule(0.1, 0); }), Contains("cosine_schedule: 0 steps"));
  CHECK_THAT(refusal([] { cosine_schedule(-0.1, 5); }), Contains("cosine_schedule: lr = -0.1"));
  CHECK_THAT(refusal([=] { cosine_schedule(0.1, 5, infinite); }), Contains("final_lr = inf"));
  CHECK_THAT(refusal([] { constant_schedule(std::nan("")); }),
             Contains("constant_schedule: lr = nan"));
  CHECK_THAT(refusal([] { one_cycle_schedule(0.1, 0); }), Contains("one_cycle_schedule: 0 steps"));
  CHECK_THAT(refusal([] { one_cycle_schedule(0.1, 5, 1.5); }), Contains("warm_fraction = 1.5"));
  CHECK_THAT(refusal([] { one_cycle_schedule(0.1, 5, 0.3, 0); }), Contains("div = 0"));
  CHECK_THAT(refusal([] { warm_up_schedule(-1, constant_schedule(1)); }), Contains("-1 steps"));
  CHECK_THAT(refusal([] { warm_up_schedule(3, {}); }), Contains("no schedule given"));
}
