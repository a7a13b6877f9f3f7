#include "flowgrad/models/glow.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

constexpr double kLogScaleBound = 3;

/// A product of C random reflections.
Tensor random_rotation(int64_t n, Generator& generator) {
  Tensor q = eye(n, DType::float64);
  for (int64_t i = 0; i < n; ++i) {
    const Tensor v = randn({n, 1}, generator, DType::float64);
    q = q - matmul(v, matmul(transpose(v), q)) * (2.0 / sum(square(v)));
  }
  return q;
}

Tensor channels_of(const Tensor& rows, const ImageShape& image) {
  return reshape(rows, {rows.size(0), image.channels, image.positions()});
}

}  // namespace

InvertibleConv::InvertibleConv(const ImageShape& image, Generator& generator, DType dtype)
    : image_(image) {
  const LuFactors f = lu(random_rotation(image.channels, generator));
  const Tensor diagonal = diag(f.u);
  lower_ = add_parameter("lower", cast(tril(f.l, -1), dtype));
  upper_ = add_parameter("upper", cast(triu(f.u, 1), dtype));
  log_diagonal_ = add_parameter("log_diagonal", cast(log(abs(diagonal)), dtype));
  permutation_ = add_state("permutation", cast(f.p, dtype));
  sign_ = add_state("sign", cast(sign(diagonal), dtype));
  unit_ = add_constant(eye(image.channels, dtype));
}

InvertibleConv::Factors InvertibleConv::factors() const {
  return {tril(lower_, -1) + unit_, triu(upper_, 1) + diag(sign_ * exp(log_diagonal_))};
}

Tensor InvertibleConv::log_det(int64_t rows, double sign) const {
  return expand(sum(log_diagonal_) * (sign * static_cast<double>(image_.positions())), {rows});
}

Transformed InvertibleConv::inverse(const Tensor& x, const Tensor&) {
  check_rows("InvertibleConv", x, dim());
  const Factors f = factors();
  const Tensor w = matmul(permutation_, matmul(f.lower, f.upper));
  return {reshape(matmul(w, channels_of(x, image_)), x.shape()), log_det(x.size(0), 1)};
}

Transformed InvertibleConv::forward(const Tensor& z, const Tensor&) {
  check_rows("InvertibleConv", z, dim());
  const Factors f = factors();
  const Tensor half = triangular_solve(f.lower, transpose(permutation_), false, true);
  const Tensor w = triangular_solve(f.upper, half, true);
  return {reshape(matmul(w, channels_of(z, image_)), z.shape()), log_det(z.size(0), -1)};
}

namespace {

std::unique_ptr<Sequential> image_net(int64_t in, int64_t hidden, int64_t out, Generator& generator,
                                      DType dtype) {
  auto net = std::make_unique<Sequential>();
  if (hidden > 0) {
    net->add<Conv2d>(in, hidden, 3, generator, dtype);
    net->add<Activation>(relu);
    net->add<Conv2d>(hidden, hidden, 1, generator, dtype);
    net->add<Activation>(relu);
  }
  net->add<Conv2d>(hidden > 0 ? hidden : in, out, 3, generator, dtype).set_zero();
  return net;
}

}  // namespace

ImageCoupling::ImageCoupling(const ImageShape& image, int64_t hidden, int64_t condition_dim,
                             Generator& generator, DType dtype)
    : image_(image),
      kept_(image.channels / 2),
      moved_(image.channels - kept_),
      condition_dim_(condition_dim),
      net_(add_module("net",
                      image_net(kept_ + condition_dim, hidden, 2 * moved_, generator, dtype))) {}

ImageCoupling::Affine ImageCoupling::affine(const Tensor& kept, const Tensor& given) {
  const int64_t rows = kept.size(0);
  const int64_t moved = moved_ * image_.positions();
  Tensor in = reshape(kept, {rows, kept_, image_.height, image_.width});
  if (const Tensor c = check_condition("ImageCoupling", given, rows, condition_dim_); c.defined()) {
    const Shape everywhere{rows, condition_dim_, image_.height, image_.width};
    in = concat({in, expand(reshape(c, {rows, condition_dim_, 1, 1}), everywhere)}, 1);
  }
  const Tensor out = reshape(net_(in), {rows, 2 * moved});
  return {tanh(slice(out, 1, 0, moved) * (1 / kLogScaleBound)) * kLogScaleBound,
          slice(out, 1, moved, 2 * moved)};
}

Transformed ImageCoupling::forward(const Tensor& z, const Tensor& condition) {
  check_rows("ImageCoupling", z, dim());
  const int64_t kept = kept_ * image_.positions();
  const Tensor first = slice(z, 1, 0, kept);
  const Affine a = affine(first, condition);
  const Tensor second = slice(z, 1, kept, dim()) * exp(a.log_scale) + a.shift;
  return {concat({first, second}, 1), sum(a.log_scale, {1})};
}

Transformed ImageCoupling::inverse(const Tensor& x, const Tensor& condition) {
  check_rows("ImageCoupling", x, dim());
  const int64_t kept = kept_ * image_.positions();
  const Tensor first = slice(x, 1, 0, kept);
  const Affine a = affine(first, condition);
  const Tensor second = (slice(x, 1, kept, dim()) - a.shift) * exp(-a.log_scale);
  return {concat({first, second}, 1), -sum(a.log_scale, {1})};
}

Tensor squeeze_image(const Tensor& x, const ImageShape& i) {
  const Tensor cells = reshape(x, {x.size(0), i.channels, i.height / 2, 2, i.width / 2, 2});
  return reshape(permute(cells, {0, 1, 3, 5, 2, 4}), x.shape());
}

Tensor unsqueeze_image(const Tensor& x, const ImageShape& i) {
  const Tensor cells = reshape(x, {x.size(0), i.channels, 2, 2, i.height / 2, i.width / 2});
  return reshape(permute(cells, {0, 1, 4, 2, 5, 3}), x.shape());
}

Glow::Glow(const GlowOptions& o, Generator& generator, DType dtype)
    : image_{o.channels, o.height, o.width}, condition_dim_(o.condition_dim) {
  if (o.height < 1 || o.width < 1 || o.channels < 1 || o.levels < 1 || o.steps < 1 ||
      o.hidden < 1 || o.levels > 30) {
    throw ValueError(fmt::format(
        "Glow: height = {}, width = {}, channels = {}, levels = {}, steps = {}, hidden = {} given; "
        "at least 1 is accepted, and at most 30 levels",
        o.height, o.width, o.channels, o.levels, o.steps, o.hidden));
  }
  if (o.condition_dim < 0) {
    throw ValueError(
        fmt::format("Glow: condition_dim = {} given; at least 0 is accepted", o.condition_dim));
  }
  const int64_t factor = int64_t{1} << o.levels;
  if (o.height % factor != 0 || o.width % factor != 0) {
    throw ValueError(fmt::format(
        "Glow: images of {} x {} given; multiples of {} are accepted, because each of the {} "
        "levels halves height and width",
        o.height, o.width, factor, o.levels));
  }
  ImageShape image = image_;
  for (int64_t l = 0; l < o.levels; ++l) {
    Level level{image, {}, 0};
    image = {4 * image.channels, image.height / 2, image.width / 2};
    const std::string name = fmt::format("levels.{}.", l);
    const auto add = [&](const std::string& key, auto module) {
      level.steps.push_back(&add_module(name + key, std::move(module)));
    };
    for (int64_t k = 0; k < o.steps; ++k) {
      add(fmt::format("actnorms.{}", k),
          std::make_unique<ActNorm>(image.channels, dtype, image.positions()));
      add(fmt::format("convs.{}", k), std::make_unique<InvertibleConv>(image, generator, dtype));
      add(fmt::format("couplings.{}", k),
          std::make_unique<ImageCoupling>(image, o.hidden, o.condition_dim, generator, dtype));
    }
    if (l + 1 < o.levels) {
      add("prior", std::make_unique<ImageCoupling>(image, 0, o.condition_dim, generator, dtype));
      image.channels /= 2;
      level.split = image.numel();
    }
    levels_.push_back(level);
  }
}

Transformed Glow::walk(const Tensor& x, const Tensor& given,
                       const std::function<void(Flow&, const Tensor&)>& visit) {
  check_rows("Glow", x, dim());
  const Tensor condition = check_condition("Glow", given, x.size(0), condition_dim_);
  Transformed at{x, {}};
  std::vector<Tensor> parts;
  for (const Level& level : levels_) {
    at.value = squeeze_image(at.value, level.image);
    for (Flow* step : level.steps) {
      visit(*step, at.value);
      at = then(at, step->inverse(at.value, condition));
    }
    if (level.split == 0) continue;
    const int64_t width = at.value.size(1);
    parts.push_back(slice(at.value, 1, width - level.split, width));
    at.value = slice(at.value, 1, 0, width - level.split);
  }
  parts.push_back(at.value);
  return {concat(parts, 1), at.log_det};
}

Transformed Glow::inverse(const Tensor& x, const Tensor& condition) {
  return walk(x, condition, [](Flow&, const Tensor&) {});
}

void Glow::initialize_from(const Tensor& x, const Tensor& condition) {
  NoGrad off;
  walk(x.detach(), condition, [](Flow& step, const Tensor& at) { step.initialize_from(at); });
}

Transformed Glow::forward(const Tensor& z, const Tensor& given) {
  check_rows("Glow", z, dim());
  const Tensor condition = check_condition("Glow", given, z.size(0), condition_dim_);
  int64_t end = z.size(1);
  Transformed at;
  for (size_t l = levels_.size(); l-- > 0;) {
    const Level& level = levels_[l];
    // Half of what a level holds leaves it, so its part is as wide as what comes from above.
    const int64_t width = level.split > 0 ? level.split : level.image.numel();
    const Tensor part = slice(z, 1, end - width, end);
    end -= width;
    at.value = level.split > 0 ? concat({at.value, part}, 1) : part;
    for (size_t k = level.steps.size(); k-- > 0;)
      at = then(at, level.steps[k]->forward(at.value, condition));
    at.value = unsqueeze_image(at.value, level.image);
  }
  return at;
}

}  // namespace flowgrad
