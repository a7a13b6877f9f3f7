#include "flowgrad/models/ode_tableau.h"

namespace flowgrad {

const DormandPrince& dormand_prince() {
  static const DormandPrince pair = {
      {0, 1.0 / 5, 3.0 / 10, 4.0 / 5, 8.0 / 9, 1, 1},
      {{},
       {1.0 / 5},
       {3.0 / 40, 9.0 / 40},
       {44.0 / 45, -56.0 / 15, 32.0 / 9},
       {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
       {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
       {35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84}},
      {35.0 / 384 - 1951.0 / 21600, 0, 500.0 / 1113 - 22642.0 / 50085, 125.0 / 192 - 451.0 / 720,
       -2187.0 / 6784 + 12231.0 / 42400, 11.0 / 84 - 649.0 / 6300, -1.0 / 60},
      {6025192743.0 / 30085553152 / 2, 0, 51252292925.0 / 65400821598 / 2,
       -2691868925.0 / 45128329728 / 2, 187940372067.0 / 1594534317056 / 2,
       -1776094331.0 / 19743644256 / 2, 11237099.0 / 235043384 / 2}};
  return pair;
}

const std::vector<Tableau>& fixed_step_tableaus() {
  static const std::vector<Tableau> all = [] {
    std::vector<Tableau> out = {
        {"euler", {0}, {{}}, {1}},
        {"midpoint", {0, 0.5}, {{}, {0.5}}, {0, 1}},
        {"heun", {0, 1}, {{}, {1}}, {0.5, 0.5}},
        {"rk4",
         {0, 0.5, 0.5, 1},
         {{}, {0.5}, {0, 0.5}, {0, 0, 1}},
         {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6}},
    };
    // Without an error estimate the last stage is not needed.
    const DormandPrince& pair = dormand_prince();
    out.push_back({"dopri5_fixed",
                   {pair.c.begin(), pair.c.end() - 1},
                   {pair.a.begin(), pair.a.end() - 1},
                   pair.a.back()});
    return out;
  }();
  return all;
}

}  // namespace flowgrad
