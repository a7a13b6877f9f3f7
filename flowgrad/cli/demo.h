#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/random.h"
#include "flowgrad/models/registry.h"
#include "flowgrad/optim/trainer.h"
#include "flowgrad/plot/report.h"
#include "flowgrad/tasks/fashion_mnist.h"

/// The parts of `flowgrad demo`: each trains something, measures it and returns what the report
/// shows.
namespace flowgrad::cli {

struct DemoSettings {
  std::string show = "flows";  ///< or "vla"
  uint64_t seed = 0;
  std::string run;
  std::string data_folder;
  bool quick = false;
  bool quiet = false;
  int threads = 1;  // as they are; for the report
  Device device;
};

/// Makes the run folder, writes config.json into it and removes an earlier report, before anything
/// is computed. Raises IoError where that is impossible or another process is at work there.
std::unique_ptr<FolderLock> prepare_run_folder(const DemoSettings& settings);

/// What a demo found: for summary.json, for people, and against what was demanded.
struct DemoFindings {
  Json figures = Json::object();
  std::string text = {};
  std::vector<plot::Check> checks = {};
  double seconds = 0;
  std::unique_ptr<FolderLock> lock = {};
};
/// Flows of the plane and of images.
DemoFindings demo_flows(const DemoSettings& settings);
/// A robot that sees, reads and acts: a policy trained from pictures and words.
DemoFindings demo_vla(const DemoSettings& settings);

/// What demo_vla trains and demands; how it trains stands in the preset.
struct VlaBudget {
  std::string preset = "tabletop-short";
  std::vector<std::string> arguments = {};  ///< of imitate, over the preset's
  int64_t episodes = 200;
  double least_success = 0.8;
  /// Of the disc that nobody mentions: a policy that succeeds there does not read.
  double largest_original = 0.1;

  static VlaBudget quick();
};

/// docs/figures.json as it was when this was built: figures of full trainings.
std::string_view committed_figures();

/// Sizes and steps. The defaults are the demo's; quick() is small enough for a check in passing.
struct DemoBudget {
  int64_t density_hidden = 64;
  int64_t density_batch = 512;
  int64_t density_steps = 4000;
  double density_rate = 5e-3;
  int64_t test_points = 100000;

  int64_t path_hidden = 128;
  int64_t path_steps = 2500;
  double path_rate = 5e-3;
  double path_time_scale = 30;

  int64_t classifier_steps = 1200;
  int64_t garment_components = 200;
  int64_t garment_hidden = 512;
  int64_t garment_batch = 256;
  int64_t garment_steps = 4000;
  double garment_rate = 2e-3;
  double garment_ema = 0.998;
  double garment_time_scale = 100;
  double guidance = 1.5;
  int64_t solver_steps = 50;
  int64_t garments_per_class = 100;

  /// Demanded of the result.
  double largest_gap = 0.05;
  double least_agreement = 0.8;
  double least_accuracy = 0.85;
  double least_variety = 0.5;

  static DemoBudget quick();
};

/// A generator of its own for every purpose, so that a longer training of one part leaves the
/// others as they were.
enum class DemoStream : uint64_t {
  density = 1,
  density_test,
  path,
  classifier,
  garments,
  generate
};
Generator demo_generator(const DemoSettings& settings, DemoStream stream);

/// What one training was and how it went.
struct DemoTraining {
  std::string name;
  std::string title;
  int64_t parameters = 0;
  int64_t batch = 0;
  int64_t steps = 0;
  double learning_rate = 1e-3;
  double ema_decay = 0;
  int64_t validate_every = 0;
  double seconds = 0;
  std::vector<MetricsRow> rows;
};

/// Trains the module with AdamW, a short warm-up and a cosine to zero; the averaged weights, if
/// any, end up in the module. Raises ExitCode where a signal ended it, Error where it diverged.
void run_training(DemoTraining& training, Module& module, Generator& generator,
                  const LossFunction& loss, const std::function<double()>& validate,
                  const DemoSettings& settings);

/// RealNVP on two moons by likelihood.
struct DensityResult {
  DemoTraining training;
  double floor = 0;
  double nll = 0;             ///< mean of -log p over fresh points
  double standard_error = 0;  ///< of nll
  int64_t test_points = 0;
  double reconstruction = 0;
  double log_det = 0;
  double integral = 0;
  Tensor data, samples;  ///< (n, 2)
  Tensor grid;           ///< log p on [-8, 8]^2, (801, 801)
  std::unique_ptr<Model> model;
};
DensityResult demo_density(const DemoSettings& settings, const DemoBudget& budget);

/// Flow matching on two moons: points on their way from noise to data.
struct PathResult {
  DemoTraining training;
  std::vector<double> times;
  std::vector<Tensor> points;  ///< one (n, 2) for each time
  std::unique_ptr<Model> model;
};
PathResult demo_path(const DemoSettings& settings, const DemoBudget& budget);

/// The principal components of a set of images: an image is close to mean + basis coefficients.
struct PrincipalComponents {
  Tensor mean;       ///< (784)
  Tensor basis;      ///< (784, k), columns orthonormal, from the largest variance down
  double share = 0;  ///< of the variance of all pixels

  Tensor encode(const Tensor& images) const;
  Tensor decode(const Tensor& coefficients) const;
};
/// Components of the set's first `rows` images by orthogonal iteration (Golub & Van Loan
/// 2013, 8.2.4), enough of it for coefficients that are nearly uncorrelated. They lie on the
/// device.
PrincipalComponents principal_components(const ImageSet& set, int64_t rows, int64_t k,
                                         Generator& generator, Device device);

/// Class-conditional flow matching on Fashion-MNIST, judged by a classifier of real images.
struct GarmentsResult {
  PrincipalComponents components;
  DemoTraining classifier_training;
  double accuracy = 0;  ///< of the classifier on the real test images
  DemoTraining training;
  Tensor images;  ///< (10 * garments_per_class, 784) in [-1, 1], class after class
  double agreement = 0;
  std::vector<double> agreement_by_class;
  std::vector<double> accuracy_by_class;  ///< on real test images
  double variety = 0;                     ///< pixel deviations within a class, generated over real
  double generate_seconds = 0;
  std::vector<double> times;
  std::vector<Tensor> path;  ///< images, one (10, 784) for each time: a garment of each class
  std::unique_ptr<Model> model;
  std::unique_ptr<Module> classifier;
};
GarmentsResult demo_garments(const DemoSettings& settings, const DemoBudget& budget,
                             const FashionMnist& data);

struct DemoResults {
  DensityResult density;
  PathResult path;
  GarmentsResult garments;
  double seconds = 0;
};

/// Every figure that demo_flows demands, with what was measured.
std::vector<plot::Check> demo_checks(const DemoResults& results, const DemoBudget& budget);

/// Commands that use what the demo left in its run folder.
std::string demo_next_steps(const std::string& run);

/// Writes report.html, the pictures, metrics.jsonl and the weights into the run folder.
void write_demo_report(const DemoSettings& settings, const DemoBudget& budget,
                       const DemoResults& results, const FashionMnist& data);

}  // namespace flowgrad::cli
