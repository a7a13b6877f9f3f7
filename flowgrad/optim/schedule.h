#pragma once

#include <cstdint>
#include <functional>

namespace flowgrad {

/// Learning rate at a step (the first is 0). Schedules are values: the step is all their state.
/// Making one raises ValueError for a rate that is negative or not finite, or too few steps.
using Schedule = std::function<double(int64_t step)>;

Schedule constant_schedule(double lr);
/// Half a cosine from lr to `final_lr` over `steps` steps, and final_lr from there on.
Schedule cosine_schedule(double lr, int64_t steps, double final_lr = 0);
/// PyTorch's OneCycleLR with cosine annealing: up from max_lr / div over the first `warm_fraction`
/// of the steps, then down to max_lr / div / final_div; the last value from there on.
Schedule one_cycle_schedule(double max_lr, int64_t steps, double warm_fraction = 0.3,
                            double div = 25, double final_div = 1e4);
/// `after` (which starts at its step 0) preceded by a straight line from 0 over `warm_up` steps;
/// step s of the line has factor (s + 1) / warm_up of after's first value.
Schedule warm_up_schedule(int64_t warm_up, Schedule after);

}  // namespace flowgrad
