#include "flowgrad/models/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/execution.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/verify_subject.h"

namespace flowgrad {
namespace verification {
namespace {

constexpr uint64_t kRows = 1, kConditions = 2, kTimes = 3, kProbe = 4, kNoise = 5, kSeen = 6;

/// n rows of x, from the start again where it has fewer.
Tensor cycled(const Tensor& x, int64_t n) {
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < n; at += x.size(0))  // never 0: Subject refuses it
    parts.push_back(slice(x, 0, 0, std::min(x.size(0), n - at)));
  return parts.size() == 1 ? contiguous(parts[0]) : concat(parts, 0);
}

}  // namespace

double difference(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  if (x.size() != y.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double d = std::abs(x[i] - y[i]);
    worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(worst, d);
  }
  return worst;
}

double error_of(const Tensor& a, const Tensor& b) {
  NoGrad off;
  const Tensor wanted = cast(b, DType::float64);
  const Tensor scale = 1.0 + abs(wanted);
  return difference(cast(a, DType::float64) / scale, wanted / scale);
}

Subject::Subject(Model& m, const VerifyOptions& o, const std::function<void(const Verdict&)>& told)
    : model(m),
      options(o),
      device(m.module().device()),
      dim(m.width()),
      condition_dim(m.condition_width()),
      told_(told) {
  if (o.rows < 4)
    throw ValueError(fmt::format("verify: {} rows given; at least 4 are accepted", o.rows));
  for (const Tensor* given : {&o.data, &o.condition}) {
    if (given->defined() && (given->rank() == 0 || given->size(0) == 0)) {
      throw ValueError(fmt::format("verify: {} {} given; at least one row is accepted",
                                   given == &o.data ? "data" : "condition",
                                   given->shape().to_string()));
    }
  }
  wide = copy(DType::float64);
  narrow = copy(DType::float32);
  NoGrad off;
  if (o.data.defined()) {
    check_rows("verify", o.data, dim);
    data_ = to(cast(o.data, DType::float64), device);
  }
  if (condition_dim > 0 && o.data.defined() && !o.condition.defined()) {
    throw ValueError(fmt::format(
        "verify: data without conditions given; (N, {}) are accepted beside it", condition_dim));
  }
  Generator conditions = generator(kConditions);
  if (condition_dim > 0) {
    condition_ =
        o.condition.defined()
            ? to(cast(check_condition("verify", o.condition,
                                      data_.defined() ? data_.size(0) : o.condition.size(0),
                                      condition_dim),
                      DType::float64),
                 device)
            : randn({o.rows, condition_dim}, conditions, DType::float64, device);
  }
  if (data_.defined()) return;
  Generator rows = generator(kRows);
  if (m.has("log_prob") && m.has("inverse")) {
    QuantityInputs in;
    if (condition_dim > 0) in.condition = cycled(condition_, o.rows);
    data_ = wide->evaluate("sample", in, {.n_samples = o.rows}, rows);
  } else {
    data_ = randn({o.rows, dim}, rows, DType::float64, device);
  }
}

std::unique_ptr<Model> Subject::copy(DType dtype, const Config& keys) const {
  if (options.make) return options.make(dtype, keys);
  Config config = model.config();
  for (const auto& [name, value] : keys) config[name] = value;
  Generator unused(0);
  auto out = make_model(model.name(), config, unused, dtype);
  out->module().load_state_dict(model.module().state_dict());
  out->module().to(device);
  out->module().train(false);
  return out;
}

QuantityInputs Subject::inputs(int64_t n, DType dtype) const {
  NoGrad off;
  QuantityInputs in;
  // Through float32, so that both dtypes see the same numbers.
  const auto rounded = [dtype](const Tensor& t) { return cast(cast(t, DType::float32), dtype); };
  in.input = rounded(cycled(data_, n));
  if (condition_dim > 0) in.condition = rounded(cycled(condition_, n));
  Generator times = generator(kTimes), probe = generator(kProbe);
  if (const int64_t steps = key("n_timesteps")) {
    in.time = randint(0, steps, {n}, times, device);
  } else if (model.has("velocity") || model.has("end_point")) {
    in.time = cast(rand({n}, times, DType::float32, 0, 1, device), dtype);
  }
  if (row_quantity() == "generate") {
    Generator noise = generator(kNoise);
    in.noise = cast(randn({n, model.noise_width()}, noise, DType::float32, device), dtype);
  }
  Generator seen = generator(kSeen);
  const QuantityInputs around = model.observation(n, seen);
  in.images = around.images.defined() ? rounded(around.images) : Tensor();
  in.robot = around.robot.defined() ? rounded(around.robot) : Tensor();
  in.tokens = around.tokens;
  if (model.name() == "cnf") in.probe_noise = rademacher({n, dim}, probe, dtype, device);
  return in;
}

std::string Subject::row_quantity() const {
  for (const char* q : {"velocity", "noise_prediction", "end_point", "log_prob", "generate"}) {
    if (model.has(q)) return q;
  }
  throw ValueError(fmt::format("verify: model {} has no quantity of rows", model.name()));
}

int64_t Subject::key(const char* name) const {
  const auto found = model.config().find(name);
  return found == model.config().end() ? 0 : std::stoll(found->second);
}

void Subject::judge(int check, const std::string& name, double measured, double demanded,
                    const std::string& note, const char* relation) {
  const bool least = std::string(relation) == ">=";
  // A NaN compares false both ways and so fails.
  const bool good = least ? measured >= demanded : measured <= demanded;
  verdicts.push_back(
      {check, name, measured, relation, demanded, good ? Outcome::passed : Outcome::failed, note});
  if (told_) told_(verdicts.back());
}

void Subject::skip(int check, const std::string& name, const std::string& reason) {
  verdicts.push_back({.check = check, .name = name, .outcome = Outcome::skipped, .note = reason});
  if (told_) told_(verdicts.back());
}

void check_rows_alone(Subject& s) {
  const std::string q = s.row_quantity();
  const auto value = [&](Model& m, const QuantityInputs& in) {
    NoGrad off;
    Generator generator = s.generator(9);
    return m.evaluate(q, in, {.n_steps = q == "generate" ? 4 : 0}, generator);
  };
  const auto row = [](const Tensor& t, int64_t i) {
    return t.defined() ? contiguous(slice(t, 0, i, i + 1)) : t;
  };
  const int64_t n = 33;
  const QuantityInputs all = s.inputs(n, DType::float32);
  const Tensor together = value(*s.narrow, all);
  double worst = 0;
  for (const int64_t i : {int64_t{0}, int64_t{16}, n - 1}) {
    QuantityInputs one = all;
    for (Tensor* t : one.all()) *t = row(*t, i);
    worst = std::max(worst, difference(value(*s.narrow, one), row(together, i)));
  }
  // One step size for a whole batch makes rows depend on each other within the tolerance.
  const auto rtol = s.model.config().find("rtol");
  const bool adaptive = rtol != s.model.config().end() && q == "log_prob" &&
                        s.model.config().at("solver") == "dopri5";
  const bool shares = adaptive && s.model.config().at("per_row") == "false";
  const bool on_cpu = s.device.is_cpu();
  s.judge(22, fmt::format("{} of a row alone and in a batch", q), worst,
          shares   ? 10 * std::stod(rtol->second)
          : on_cpu ? 0
                   : 1e-6,
          shares ? "largest difference; the batch shares its step sizes"
                 : "largest difference; equal bits on the CPU");

  const QuantityInputs wide_rows = s.inputs(n, DType::float64);
  const Tensor wide = value(*s.wide, wide_rows);
  if (on_cpu) {
    const ReferenceKernels reference;
    s.judge(24, "fast against reference kernels, float32",
            error_of(together, value(*s.narrow, all)), 1e-5 * (adaptive ? 100 : 1), q);
    s.judge(24, "fast against reference kernels, float64",
            error_of(wide, value(*s.wide, wide_rows)), adaptive ? 1e-9 : 1e-11, q);
  } else {
    const auto host = s.copy(DType::float64);
    host->module().to(Device::cpu());
    QuantityInputs in = wide_rows;
    for (Tensor* t : in.all()) {
      if (t->defined()) *t = to(*t, Device::cpu());
    }
    s.judge(24, "device against CPU, float64", error_of(to(wide, Device::cpu()), value(*host, in)),
            adaptive ? 1e-9 : 1e-11, q);
  }
  s.judge(24, "float32 against float64", error_of(together, wide), adaptive ? 1e-3 : 1e-4, q);
  if (on_cpu && ThreadCount::now() > 1) {
    const ThreadCount one(1);
    s.judge(23, "one thread against all", difference(value(*s.narrow, all), together), 0,
            "largest difference of " + q + "; equal bits");
  }
}

}  // namespace verification

std::vector<Verdict> verify(Model& model, const VerifyOptions& options,
                            const std::function<void(const Verdict&)>& told) {
  using namespace verification;
  Subject s(model, options, told);
  check_density(s);
  check_solver(s);
  check_training(s);
  check_generator(s);
  check_rows_alone(s);
  return std::move(s.verdicts);
}

}  // namespace flowgrad
