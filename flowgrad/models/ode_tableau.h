#pragma once

#include <vector>

namespace flowgrad {

/// An explicit Runge-Kutta method (Hairer, Norsett & Wanner 1993, II.1): stage i is evaluated at
/// time c_i h and reads the earlier stages with weights a_i; the step ends at y + h sum b_i k_i.
struct Tableau {
  const char* name;
  std::vector<double> c;
  std::vector<std::vector<double>> a;
  std::vector<double> b;
};

/// Every method that runs in equal steps: euler, midpoint, heun, rk4 (the classical one) and
/// dopri5_fixed.
const std::vector<Tableau>& fixed_step_tableaus();

/// The fifth-order pair of Dormand & Prince (1980) with seven stages, the last of which is the
/// first one of the next step (FSAL). Its error estimate is the difference to Shampine's (1986)
/// fourth-order weights, which torchdiffeq and SciPy's predecessors use; `middle` gives y at half a
/// step to fourth order (Shampine 1986), for the interpolant.
struct DormandPrince {
  static constexpr double kOrder = 5;
  std::vector<double> c;
  std::vector<std::vector<double>> a;  // a of the last stage is the solution's weights b
  std::vector<double> error, middle;
};
const DormandPrince& dormand_prince();

}  // namespace flowgrad
