#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/flow_vla.h"
#include "flowgrad/models/hierarchical.h"
#include "flowgrad/models/registry_entry.h"

namespace flowgrad::registry {
namespace {

class FlowVLAModel final : public Model {
 public:
  FlowVLAModel(const ConfigReader& config, const FlowVLAOptions& options, Generator& generator,
               DType dtype)
      : Model(config.model(), config.values()), net_(options, generator, dtype) {}
  Module& module() override { return net_; }
  int64_t width() const override { return net_.width(); }
  std::string training_quantity() const override { return "training_loss"; }
  std::vector<std::string> quantities() const override {
    return {"condition", "velocity", "loss", "training_loss", "generate", "sample"};
  }
  QuantityInputs observation(int64_t n, Generator& generator) override {
    const VisionLanguageOptions& o = net_.options().encoder;
    const bool one_size = o.pooling == Pooling::spatial_softmax;
    const Shape images{n, 3 * o.cameras, one_size ? o.height : 16, one_size ? o.width : 16};
    const Device device = net_.device();
    const DType dtype = dtype_of(*this);
    QuantityInputs out;
    out.images = rand(images, generator, dtype, 0, 1, device);
    out.tokens = randint(0, o.vocabulary, {n, 6}, generator, device);
    if (o.robot_dim > 0) out.robot = randn({n, o.robot_dim}, generator, dtype, device);
    return out;
  }

 protected:
  Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                 Generator& generator) override {
    QuantityInputs with = in;
    if (q == "condition" || !in.condition.defined()) with.condition = encode(q, in);
    if (q == "condition") return with.condition;
    if (q == "velocity") {
      return net_.velocity(need(*this, q, "input", in.input), need(*this, q, "time", in.time),
                           with.condition);
    }
    if (q == "loss" || q == "training_loss") {
      const FlowVLA::Losses l = net_.losses(need(*this, q, "input", in.input), with.condition,
                                            generator, in.noise, in.time);
      return q == "loss" ? l.loss : l.loss + l.refiner;
    }
    return net_.generate(noise_of(*this, with, o, generator), with.condition, sampling_for({}, o));
  }

 private:
  Tensor encode(const std::string& q, const QuantityInputs& in) {
    PolicyObservation seen;
    seen.images = need(*this, q, "images", in.images);
    seen.tokens = need(*this, q, "tokens", in.tokens);
    if (net_.options().encoder.robot_dim > 0) seen.robot = need(*this, q, "robot", in.robot);
    return net_.condition(seen);
  }

  FlowVLA net_;
};

class HierarchicalModel final : public Model {
 public:
  HierarchicalModel(const ConfigReader& config, const HierarchicalOptions& options,
                    Generator& generator, DType dtype)
      : Model(config.model(), config.values()), net_(options, generator, dtype) {}
  Module& module() override { return net_; }
  int64_t width() const override { return net_.width(); }
  int64_t noise_width() const override { return net_.noise_width(); }
  std::vector<std::string> quantities() const override {
    return {"loss", "generate", "sample", "jerk"};
  }

 protected:
  Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                 Generator& generator) override {
    if (q == "loss") {
      return net_.loss(need(*this, q, "input", in.input), in.condition, generator, in.noise,
                       in.time);
    }
    refuse_guidance(*this, o);
    const Tensor out =
        net_.generate(noise_of(*this, in, o, generator), in.condition, sampling_for({}, o));
    return q == "jerk" ? mean_squared_jerk(out) : out;
  }

 private:
  HierarchicalFlow net_;
};

constexpr const char* kOfPreset = "preset";

/// A key whose default is what the preset says.
int64_t integer_or(const ConfigReader& c, const char* key, int64_t own, int64_t least) {
  return c.text(key) == kOfPreset ? own : c.integer(key, least);
}

std::unique_ptr<Model> make_flow_vla(const ConfigReader& c, Generator& g, DType dtype) {
  static const std::vector<std::string> presets{"tiny", "tutorial", "base"};
  FlowVLAOptions o = flow_vla_preset(presets[c.choice("preset", presets)]);
  o.action_dim = integer_or(c, "action_dim", o.action_dim, 1);
  o.horizon = integer_or(c, "horizon", o.horizon, 1);
  o.hidden = integer_or(c, "hidden", o.hidden, 1);
  o.encoder.height = integer_or(c, "height", o.encoder.height, 8);
  o.encoder.width = integer_or(c, "width", o.encoder.width, 8);
  o.encoder.vocabulary = integer_or(c, "vocabulary", o.encoder.vocabulary, 1);
  o.encoder.cameras = c.integer("cameras", 1);
  o.encoder.robot_dim = c.integer("robot_dim", 0);
  if (c.text("pad_id") == "none") {
    o.encoder.pad_id = {};
  } else if (c.text("pad_id") != kOfPreset) {
    o.encoder.pad_id = c.integer("pad_id", 0);
  }
  if (c.text("auxiliary") != kOfPreset) o.auxiliary = c.real("auxiliary", 0);
  o.time_law = static_cast<TimeLaw>(c.choice("time_law", time_law_names()));
  o.refine = c.boolean("refine");
  return std::make_unique<FlowVLAModel>(c, o, g, dtype);
}

std::unique_ptr<Model> make_hierarchical(const ConfigReader& c, Generator& g, DType dtype) {
  HierarchicalOptions o;
  o.condition_dim = c.integer("condition_dim", 0);
  o.action_dim = c.integer("action_dim", 1);
  o.sequence_length = c.integer("sequence_length", 1);
  o.latent_dim = c.integer("latent_dim", 2);
  o.decoder_hidden = c.integer("decoder_hidden", 1);
  o.hidden = c.integer("hidden", 1);
  o.time_dim = c.integer("time_dim", 4);
  o.noise_correlation = c.real("noise_correlation", 0);
  return std::make_unique<HierarchicalModel>(c, o, g, dtype);
}

}  // namespace

std::vector<Entry> policy_entries() {
  return {{"flow_vla",
           {{"preset", "tiny", "encoder and sizes: tiny, tutorial or base"},
            {"action_dim", kOfPreset, "numbers of an action; tutorial 7, else 2"},
            {"horizon", kOfPreset, "actions of a chunk; tutorial 1, else 8"},
            {"hidden", kOfPreset, "width of the velocity net; tiny 256, else 512"},
            {"height", kOfPreset, "of the images; tutorial any, tiny 48, base 96"},
            {"width", kOfPreset, "of the images; tutorial any, tiny 48, base 96"},
            {"cameras", "1", "images a moment"},
            {"vocabulary", kOfPreset, "number of tokens; tutorial 10000, else 64"},
            {"pad_id", kOfPreset, "token behind a row's end, or none; tutorial none, else 0"},
            {"robot_dim", "0", "numbers that the robot knows of itself"},
            {"time_law", "uniform", "law of the training time: uniform or beta"},
            {"auxiliary", kOfPreset,
             "weight of a regression of the chunk from the feature; tutorial 0, else 1"},
            {"refine", "false", "whether generated chunks pass the refiner"}},
           make_flow_vla},
          {"hierarchical",
           {{"condition_dim", "256", "width of the condition; 0 = unconditional"},
            {"action_dim", "7", "numbers of an action"},
            {"sequence_length", "10", "actions of a sequence"},
            {"latent_dim", "128", "width of the latent of a sequence"},
            {"decoder_hidden", "256", "width of the decoder and of the action encoder"},
            {"hidden", "512", "width of both flows"},
            {"time_dim", "128", "width of the time embeddings, even"},
            {"noise_correlation", "0",
             "of the steps' noise when generating: 0 = drawn anew, 1 = shared"}},
           make_hierarchical}};
}

}  // namespace flowgrad::registry
