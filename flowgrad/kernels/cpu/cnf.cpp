#include <algorithm>
#include <vector>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/product.h"
#include "flowgrad/kernels/cpu/scratch.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/parallel.h"

// A continuous flow's solve, a tile of rows at a time: all steps of a tile run in one thread and in
// its caches, values and tangents as the two halves of one product.
namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Rows of a tile.
constexpr int64_t kRows = 32;
/// Numbers up to which a solve keeps all stages for its gradient, which then has none to evaluate
/// again: what the third-level cache holds.
constexpr int64_t kKeptNumbers = 1 << 23;
/// Inputs of a product up to which the kernel that needs it computes it.
constexpr int64_t kFewInputs = 8;
/// Elements of the partial sums of the weights' gradients, all together.
constexpr int64_t kPartialElements = 1 << 22;

/// Numbers of a stage of kRows rows, see Stage.
int64_t stage_elements(int64_t d, int64_t h) { return kRows * (d + 2 + 4 * h); }

/// What a solve leaves for its gradient: all of its stages, a tile's one after the other. Where
/// they are too many, the states in which its steps start.
int64_t kept_stages(const SolveSteps& steps, int64_t n, int64_t d, int64_t h) {
  return divide_up(n, kRows) * steps.n_steps * steps.stages * stage_elements(d, h);
}

/// The field with its weights as the tiles read them.
template <class T>
struct Field {
  int64_t n, d, h, inputs;  // inputs: y, t and 1
  bool with_trace, own;     // own: the trace has a matrix of its own, `exact`
  const T *middle, *middle_bias, *out, *out_bias, *left, *right, *exact;
  /// (inputs, H): the first layer's columns, t and bias; the others transposed.
  std::vector<T> first, middle_t, exact_t;
  const SolveSteps& steps;

  Field(const CnfField& f, const SolveSteps& steps, int64_t rows)
      : n(rows),
        d((*f.x.shape)[1]),
        h((*f.x.shape)[0]),
        inputs(d + 2),
        with_trace(f.left.defined() || f.exact.defined()),
        own(f.exact.defined()),
        middle(f.middle.as<T>()),
        middle_bias(f.middle_bias.as<T>()),
        out(f.out.as<T>()),
        out_bias(f.out_bias.as<T>()),
        left(f.left.defined() ? f.left.as<T>() : nullptr),
        right(f.right.defined() ? f.right.as<T>() : nullptr),
        exact(own ? f.exact.as<T>() : nullptr),
        steps(steps) {
    first.resize(static_cast<size_t>(inputs * h));
    const T* const x = f.x.as<T>();
    for (int64_t j = 0; j < h; ++j) {
      for (int64_t i = 0; i < d; ++i) first[static_cast<size_t>(i * h + j)] = x[j * d + i];
      first[static_cast<size_t>(d * h + j)] = f.t.as<T>()[j];
      first[static_cast<size_t>((d + 1) * h + j)] = f.bias.as<T>()[j];
    }
    middle_t = transpose(middle);
    if (own) exact_t = transpose(exact);
  }

  T step_time(int64_t step, int stage) const {
    return static_cast<T>(steps.t0 + (static_cast<double>(step) + steps.time[stage]) * steps.h);
  }
  T previous(int stage) const { return static_cast<T>(steps.previous[stage] * steps.h); }
  T weight(int stage) const { return static_cast<T>(steps.weight[stage] * steps.h); }
  int64_t stage_elements() const { return flowgrad::kernels::stage_elements(d, h); }
  bool keeps_stages() const { return kept_stages(steps, n, d, h) <= kKeptNumbers; }
  /// Rows of the stacked halves: values, and tangents where they share the middle matrix.
  int64_t halves() const { return with_trace && !own ? 2 : 1; }

 private:
  std::vector<T> transpose(const T* square) const {
    std::vector<T> out_t(static_cast<size_t>(h * h));
    for (int64_t i = 0; i < h; ++i)
      for (int64_t j = 0; j < h; ++j) out_t[static_cast<size_t>(j * h + i)] = square[i * h + j];
    return out_t;
  }
};

/// What one stage of a tile computes. The tangent half of each pair lies right behind its values,
/// and each kind of all stages of a step in one sequence, so that one product sums over all of
/// them: the inputs from the last stage on, the order in which the adjoint meets them.
template <class T>
struct Stage {
  T* inputs;         // (rows, inputs)
  T *one, *tangent;  // (rows, H) each: tanh of the first layer, and what the trace multiplies
  T *two, *along;    // tanh of the second layer, and the trace's product
};

template <class T>
Stage<T> stage_at(const Field<T>& f, T* memory, int64_t rows, int stage) {
  const int64_t stages = f.steps.stages, pair = 2 * rows * f.h;
  T* const inputs = memory + (stages - 1 - stage) * rows * f.inputs;
  T* const one = memory + stages * kRows * f.inputs + stage * pair;
  T* const two = one + stages * pair;
  return {inputs, one, one + rows * f.h, two, two + rows * f.h};
}

/// The product a (rows, inputs) b (inputs, h), by the kernel that needs it or before it, in c.
template <class T>
FewInputs<T> few_inputs(int64_t rows, int64_t h, int64_t inputs, const T* a, const T* b, T* c) {
  if (inputs <= kFewInputs) return {a, inputs, b};
  multiply(rows, h, inputs, rows_of(a, inputs), rows_of(b, h), c);
  return {nullptr, 0, nullptr};
}

/// Both hidden layers of a stage whose inputs are in place, and the trace (rows).
template <class T>
void evaluate(const Field<T>& f, const Stage<T>& s, int64_t row, int64_t rows, T* trace) {
  const CnfTable<T>& table = cnf_table<T>();
  const auto of_rows = [&](const T* p) { return p == nullptr ? p : p + row * f.h; };
  table.first(few_inputs(rows, f.h, f.inputs, s.inputs, f.first.data(), s.one), of_rows(f.right),
              rows, f.h, s.one, f.with_trace ? s.tangent : nullptr);
  multiply(f.halves() * rows, f.h, f.h, rows_of<T>(s.one, f.h), rows_of<T>(f.middle_t.data(), f.h),
           s.two);
  if (f.own) {
    multiply(rows, f.h, f.h, rows_of<T>(s.tangent, f.h), rows_of<T>(f.exact_t.data(), f.h),
             s.along);
  }
  table.second(f.middle_bias, of_rows(f.left), f.with_trace ? s.along : nullptr, rows, f.h, s.two,
               trace);
}

template <class T>
void set_inputs(const Field<T>& f, const Stage<T>& s, int64_t step, int stage, int64_t rows,
                const T* start, const T* slope) {
  const T previous = f.previous(stage), time = f.step_time(step, stage);
  for (int64_t r = 0; r < rows; ++r) {
    T* const to = s.inputs + r * f.inputs;
    for (int64_t i = 0; i < f.d; ++i) {
      const T y = start[r * f.d + i];
      to[i] = stage == 0 ? y : y + previous * slope[r * f.d + i];
    }
    to[f.d] = time;
    to[f.d + 1] = 1;
  }
}

template <class T>
void slopes(const Field<T>& f, const Stage<T>& s, int64_t rows, T* slope) {
  multiply(rows, f.d, f.h, rows_of<T>(s.two, f.h), transposed(f.out, f.h), slope, false,
           f.out_bias);
}

/// The first of a step's stages as cnf_solve keeps them.
template <class T>
T* kept_step(const Field<T>& f, T* kept, int64_t row, int64_t step) {
  return kept + (row / kRows * f.steps.n_steps + step) * f.steps.stages * f.stage_elements();
}

/// All steps of the rows from `row` on; y holds y0 and gets the end.
template <class T>
void solve_tile(const Field<T>& f, int64_t row, int64_t rows, T* y, T* integral, T* kept) {
  const int64_t width = kRows * f.d;
  const int64_t stages = f.steps.stages * f.stage_elements();
  T* const memory = scratch_of<T>(ScratchSlot::solve, stages + 2 * width + kRows);
  const bool keeps_stages = kept != nullptr && f.keeps_stages();
  T* const slope = memory + stages;
  T* const sums = slope + width;
  T* const trace = sums + width;
  if (integral != nullptr) std::fill_n(integral, rows, T(0));
  for (int64_t step = 0; step < f.steps.n_steps; ++step) {
    if (kept != nullptr && !keeps_stages)
      std::copy_n(y, rows * f.d, kept + (step * f.n + row) * f.d);
    std::copy_n(y, rows * f.d, sums);
    for (int stage = 0; stage < f.steps.stages; ++stage) {
      const Stage<T> s = keeps_stages ? stage_at(f, kept_step(f, kept, row, step), rows, stage)
                                      : stage_at(f, memory, rows, 0);
      set_inputs(f, s, step, stage, rows, y, slope);
      evaluate(f, s, row, rows, trace);
      slopes(f, s, rows, slope);
      const T weight = f.weight(stage);
      for (int64_t i = 0; i < rows * f.d; ++i) sums[i] += weight * slope[i];
      if (integral == nullptr) continue;
      for (int64_t r = 0; r < rows; ++r) integral[r] += weight * trace[r];
    }
    std::copy_n(sums, rows * f.d, y);
  }
}

/// Sums over rows of the weights' cotangents, as a chunk of tiles adds them.
template <class T>
struct WeightSums {
  T *first, *middle, *middle_bias, *out, *out_bias, *exact;
  WeightSums(const Field<T>& f, T* memory) {
    first = memory;  // (inputs, H): x transposed, t, bias
    middle = first + f.inputs * f.h;
    middle_bias = middle + f.h * f.h;
    out = middle_bias + f.h;
    out_bias = out + f.d * f.h;
    exact = out_bias + f.d;
  }
  static int64_t elements(const Field<T>& f) {
    return f.inputs * f.h + f.h * f.h * (f.own ? 2 : 1) + f.h + f.d * f.h + f.d;
  }
};

template <class T>
struct Cotangents {
  T* kept;  // read only
  const T *y, *integral;
  T *y0, *left, *right;
};

/// The adjoint of a tile's steps, last step first.
template <class T>
class TileAdjoint {
 public:
  TileAdjoint(const Field<T>& f, const Cotangents<T>& g, const WeightSums<T>& sums, int64_t row,
              int64_t rows)
      : f_(f), g_(g), sums_(sums), row_(row), rows_(rows) {
    const int64_t width = kRows * f.d, hidden = kRows * f.h;
    stages_ = scratch_of<T>(ScratchSlot::solve, elements(f));
    slopes_ = stages_ + f.steps.stages * f.stage_elements();
    before_ = slopes_ + f.steps.stages * width;
    g_one_ = before_ + f.steps.stages * 2 * hidden;
    g_y_ = g_one_ + 2 * hidden * f.steps.stages;
    g_step_ = g_y_ + width;
    small_ = g_step_ + width;
    g_out_ = small_ + width;
    trace_ = g_out_ + width;
  }

  void run() {
    const int64_t begin = row_ * f_.d;
    std::copy_n(g_.y + begin, rows_ * f_.d, g_y_);
    std::fill_n(g_out_, rows_ * f_.d, T(0));
    for (int64_t step = f_.steps.n_steps - 1; step >= 0; --step) {
      if (f_.keeps_stages())
        stages_ = kept_step(f_, g_.kept, row_, step);
      else
        replay(step);
      for (int stage = f_.steps.stages - 1; stage >= 0; --stage) reverse(stage);
      add_products();
      std::copy_n(g_step_, rows_ * f_.d, g_y_);
    }
    std::copy_n(g_y_, rows_ * f_.d, g_.y0 + begin);
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t i = 0; i < f_.d; ++i) sums_.out_bias[i] += g_out_[r * f_.d + i];
  }

 private:
  static int64_t elements(const Field<T>& f) {
    const int64_t width = kRows * f.d, hidden = kRows * f.h;
    return f.steps.stages * (f.stage_elements() + width + 4 * hidden) + 4 * width + kRows;
  }

  // Cotangents of a stage: of its slope, and before each tanh with that of the trace's product
  // behind it.
  T* slope(int stage) const { return slopes_ + stage * rows_ * f_.d; }
  T* before_two(int stage) const { return before_ + stage * 2 * rows_ * f_.h; }
  // From the last stage on; the next one's values take the place of its tangents.
  T* before_one(int stage) const { return g_one_ + (f_.steps.stages - 1 - stage) * rows_ * f_.h; }

  /// The step's stages again, keeping what their derivatives read.
  void replay(int64_t step) {
    const T* const start = g_.kept + (step * f_.n + row_) * f_.d;
    for (int stage = 0; stage < f_.steps.stages; ++stage) {
      const Stage<T> s = stage_at(f_, stages_, rows_, stage);
      set_inputs(f_, s, step, stage, rows_, start, small_);
      evaluate(f_, s, row_, rows_, trace_);
      if (stage + 1 < f_.steps.stages) slopes(f_, s, rows_, small_);
    }
  }

  void reverse(int stage) {
    const CnfTable<T>& table = cnf_table<T>();
    const Stage<T> s = stage_at(f_, stages_, rows_, stage);
    const int64_t d = f_.d, h = f_.h, hidden = rows_ * h;
    const T weight = f_.weight(stage);
    T *const g_slope = slope(stage), *const two = before_two(stage), *const one = before_one(stage);
    const bool last = stage + 1 == f_.steps.stages;
    if (last) std::copy_n(g_y_, rows_ * d, g_step_);
    for (int64_t i = 0; i < rows_ * d; ++i) {
      g_slope[i] = weight * g_y_[i];
      if (!last) g_slope[i] += f_.previous(stage + 1) * small_[i];
      g_out_[i] += g_slope[i];
    }
    for (int64_t r = 0; r < rows_; ++r) trace_[r] = weight * g_.integral[row_ + r];
    const auto of_rows = [&](auto* p) { return p == nullptr ? p : p + row_ * h; };
    table.second_grad(few_inputs<T>(rows_, h, d, g_slope, f_.out, two), s.two, of_rows(f_.left),
                      trace_, s.along, rows_, h, two + hidden, two, sums_.middle_bias,
                      of_rows(g_.left));
    multiply(f_.halves() * rows_, h, h, rows_of<T>(two, h), rows_of(f_.middle, h), one, false, {},
             s.one);
    if (f_.own)
      multiply(rows_, h, h, rows_of<T>(two + hidden, h), rows_of(f_.exact, h), one + hidden);
    table.first_grad(s.one, of_rows(f_.right), one + hidden, hidden, one, of_rows(g_.right));
    // The cotangent of the stage's y, which the stage before gets in turn.
    multiply(rows_, d, h, rows_of<T>(one, h), transposed<T>(f_.first.data(), h), small_);
    for (int64_t i = 0; i < rows_ * d; ++i) g_step_[i] += small_[i];
  }

  /// Products over the rows of all stages of the step.
  void add_products() const {
    const int64_t d = f_.d, h = f_.h;
    const int stages = f_.steps.stages;
    multiply(f_.inputs, h, stages * rows_,
             transposed<T>(stage_at(f_, stages_, rows_, stages - 1).inputs, f_.inputs),
             rows_of<T>(before_one(stages - 1), h), sums_.first, true);
    if (!f_.own) {
      multiply(h, h, stages * 2 * rows_, transposed<T>(before_two(0), h),
               rows_of<T>(stage_at(f_, stages_, rows_, 0).one, h), sums_.middle, true);
    }
    for (int stage = 0; stage < stages; ++stage) {
      const Stage<T> s = stage_at(f_, stages_, rows_, stage);
      const T* const two = before_two(stage);
      multiply(d, h, rows_, transposed<T>(slope(stage), d), rows_of<T>(s.two, h), sums_.out, true);
      if (!f_.own) continue;
      multiply(h, h, rows_, transposed(two, h), rows_of<T>(s.one, h), sums_.middle, true);
      multiply(h, h, rows_, transposed(two + rows_ * h, h), rows_of<T>(s.tangent, h), sums_.exact,
               true);
    }
  }

  const Field<T>& f_;
  const Cotangents<T>& g_;
  const WeightSums<T>& sums_;
  int64_t row_, rows_;
  T *stages_, *slopes_, *before_, *g_one_, *g_y_, *g_step_, *small_, *trace_;
  T* g_out_;  // cotangents of all slopes, a sum for each row
};

/// The sums of all chunks in the order of cnf_solve_grad.
template <class T>
void write_sums(const Field<T>& f, const std::vector<T>& partial, int64_t chunks, T* out) {
  const int64_t share = WeightSums<T>::elements(f);
  std::vector<T> total(static_cast<size_t>(share));
  for (int64_t i = 0; i < share; ++i) {
    double sum = 0;
    for (int64_t c = 0; c < chunks; ++c)
      sum += static_cast<double>(partial[static_cast<size_t>(c * share + i)]);
    total[static_cast<size_t>(i)] = static_cast<T>(sum);
  }
  for (int64_t j = 0; j < f.h; ++j)
    for (int64_t i = 0; i < f.d; ++i) *out++ = total[static_cast<size_t>(i * f.h + j)];
  // t and bias, and all that follows them, lie in the order wanted.
  std::copy(total.begin() + f.d * f.h, total.end(), out);
}

}  // namespace

bool CpuBackendFast::has_cnf_solve(const CnfField& field, const SolveSteps& steps,
                                   bool gradient) const {
  return is_solvable(field, steps, gradient);
}

int64_t CpuBackendFast::cnf_kept(const CnfField& field, const SolveSteps& steps,
                                 int64_t rows) const {
  const int64_t h = (*field.x.shape)[0], d = (*field.x.shape)[1];
  const int64_t stages = kept_stages(steps, rows, d, h);
  return stages <= kKeptNumbers ? stages : Backend::cnf_kept(field, steps, rows);
}

void CpuBackendFast::cnf_solve(const CnfField& field, const SolveSteps& steps, View y0, View y,
                               View integral, View kept) {
  visit_floating("cnf_solve", y0.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (y0.numel() == 0) return;
    const Field<T> f(field, steps, (*y0.shape)[0]);
    parallel_for(divide_up(f.n, kRows), [&](int64_t tile) {
      const int64_t row = tile * kRows, rows = std::min(kRows, f.n - row);
      T* const end = y.as<T>() + row * f.d;
      std::copy_n(y0.as<const T>() + row * f.d, rows * f.d, end);
      solve_tile(f, row, rows, end, integral.defined() ? integral.as<T>() + row : nullptr,
                 kept.defined() ? kept.as<T>() : nullptr);
    });
  });
}

void CpuBackendFast::cnf_solve_grad(const CnfField& field, const SolveSteps& steps, View kept,
                                    View g_y, View g_integral, View g_y0, View g_left, View g_right,
                                    View g_weights) {
  visit_floating("cnf_solve_grad", g_y.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (g_y.numel() == 0) return fill(g_weights, 0);
    const Field<T> f(field, steps, (*g_y.shape)[0]);
    const Cotangents<T> g{kept.as<T>(),
                          g_y.as<const T>(),
                          g_integral.as<const T>(),
                          g_y0.as<T>(),
                          g_left.defined() ? g_left.as<T>() : nullptr,
                          g_right.defined() ? g_right.as<T>() : nullptr};
    if (g.left != nullptr) {
      fill(g_left, 0);
      fill(g_right, 0);
    }
    // The number of chunks, and so the order of the sums, depends on the sizes alone.
    const int64_t share = WeightSums<T>::elements(f), tiles = divide_up(f.n, kRows);
    const int64_t chunks = std::min(tiles, std::clamp<int64_t>(kPartialElements / share, 2, 64));
    std::vector<T> partial(static_cast<size_t>(chunks * share));
    parallel_for(chunks, [&](int64_t c) {
      const WeightSums<T> sums(f, partial.data() + c * share);
      for (int64_t tile = tiles * c / chunks; tile < tiles * (c + 1) / chunks; ++tile) {
        const int64_t row = tile * kRows;
        TileAdjoint<T>(f, g, sums, row, std::min(kRows, f.n - row)).run();
      }
    });
    write_sums(f, partial, chunks, g_weights.as<T>());
  });
}

}  // namespace flowgrad::kernels
