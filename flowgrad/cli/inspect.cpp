#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "flowgrad/autograd/graph.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/core/text.h"
#include "flowgrad/optim/checkpoint.h"

namespace flowgrad::cli {
namespace {

struct InspectArguments {
  CommonOptions common;
  ModelOptions model;
  std::string path, dot;
  bool graph = false;
  int64_t rows = 4;
};

struct Summary {
  double min = std::numeric_limits<double>::quiet_NaN();
  double max = min;
  double mean = min;
  int64_t not_finite = 0;
};

/// Over the finite elements.
Summary summarize(const Tensor& t) {
  Summary s;
  double sum = 0;
  int64_t n = 0;
  for (const double v : t.to_vector<double>()) {
    if (!std::isfinite(v)) {
      ++s.not_finite;
      continue;
    }
    s.min = n == 0 ? v : std::min(s.min, v);
    s.max = n == 0 ? v : std::max(s.max, v);
    sum += v;
    ++n;
  }
  if (n > 0) s.mean = sum / static_cast<double>(n);
  return s;
}

/// Names and texts from files may hold anything; what a terminal would obey is escaped.
std::string shown(const std::string& text) {
  const bool printable = is_utf8(text) && std::all_of(text.begin(), text.end(), [](char c) {
                           return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
                         });
  return printable ? text : quote(text);
}

void print_tensors(const InspectArguments& a, const std::string& kind, const NamedTensors& tensors,
                   const Json& facts) {
  std::vector<std::vector<std::string>> rows = {
      {"tensor", "dtype", "shape", "min", "max", "mean", "not finite"}};
  Json list = Json::array();
  int64_t elements = 0;
  int64_t bytes = 0;
  for (const auto& [name, t] : tensors) {
    const Summary s = summarize(t);
    elements += t.numel();
    bytes += t.numel() * static_cast<int64_t>(size_of(t.dtype()));
    const auto number = [](double v) {
      return std::isnan(v) ? std::string("-") : fmt::format("{:.4g}", v);
    };
    rows.push_back({shown(name), name_of(t.dtype()), t.shape().to_string(), number(s.min),
                    number(s.max), number(s.mean),
                    s.not_finite > 0 ? fmt::format("{}", s.not_finite) : ""});
    list.push_back({{"name", name},
                    {"dtype", name_of(t.dtype())},
                    {"shape", std::vector<int64_t>(t.shape().begin(), t.shape().end())},
                    {"min", s.min},
                    {"max", s.max},
                    {"mean", s.mean},
                    {"not_finite", s.not_finite}});
  }
  if (a.common.json) {
    Json root{{"file", a.path}, {"kind", kind}};
    root.update(facts);
    root.update({{"tensors", list}, {"elements", elements}, {"bytes", bytes}});
    print_result(json_text(root) + "\n");
    return;
  }
  std::string out = fmt::format("{}: {}\n", a.path, kind);
  for (const auto& [key, value] : facts.items()) {
    if (!value.is_object()) {
      out += fmt::format("{}: {}\n", key, plain_text(value));
      continue;
    }
    for (const auto& [inner, v] : value.items()) {
      out += fmt::format("{} {} = {}\n", key, shown(inner), shown(v.get<std::string>()));
    }
  }
  out += "\n" + table(rows, "<<<>>>>");
  print_result(
      out + fmt::format("\n{} tensors, {} elements, {} bytes\n", tensors.size(), elements, bytes));
}

void inspect_file(const InspectArguments& a, const std::string& path) {
  const std::string ending = std::filesystem::path(path).extension();
  if (ending == ".npy") {
    print_tensors(a, "array", {{"array", load_npy(path)}}, Json::object());
    return;
  }
  if (ending != ".safetensors") {
    throw UsageError(fmt::format(
        "FILE: {} given; .safetensors, .npy and the folder of a run are accepted", quote(path)));
  }
  const SafetensorsFile file = load_safetensors(path);
  const bool checkpoint = file.metadata.contains("flowgrad.checkpoint");
  print_tensors(a, checkpoint ? "checkpoint" : "tensors", file.tensors,
                {{"checksums", file.checksums ? "present, all verified" : "none in this file"},
                 {"metadata", file.metadata}});
}

/// Parameters of one training step of a fresh model, or of the given weights.
Tensor step_loss(Model& model, int64_t rows, Generator& generator) {
  const DType dtype = model.module().dtype();
  QuantityInputs inputs = model.observation(rows, generator);
  inputs.input = randn({rows, model.width()}, generator, dtype);
  for (const char* key : {"condition_dim", "state_dim"}) {
    const auto found = model.config().find(key);
    const int64_t c = found == model.config().end() ? 0 : std::stoll(found->second);
    if (c > 0) inputs.condition = randn({rows, c}, generator, dtype);
  }
  return model.loss(inputs, generator);
}

void inspect_graph(const InspectArguments& a, Model& model, Generator& generator) {
  const Tensor loss = step_loss(model, a.rows, generator);
  if (!a.dot.empty()) {
    write_file_atomic(a.dot, graph_dot(loss), "--dot");
    if (!a.graph)
      print_result(a.common.json ? fmt::format("{{\"dot\": {}}}\n", json_string(a.dot))
                                 : fmt::format("graph -> {}\n", a.dot));
  }
  if (!a.graph) return;
  if (!a.common.json) {
    print_result(graph_text(loss));
    return;
  }
  Json nodes = Json::array();
  for (const GraphNode& n : graph_of(loss)) {
    nodes.push_back({{"number", n.number},
                     {"name", n.name},
                     {"shape", n.shape},
                     {"dtype", n.dtype},
                     {"saved_bytes", n.saved_bytes},
                     {"inputs", n.inputs}});
  }
  print_result(json_text({{"model", model.name()}, {"rows", a.rows}, {"nodes", nodes}}) + "\n");
}

void inspect_model(const InspectArguments& a, const Model& model, Module& module) {
  struct Part {
    int64_t count = 0;
    std::string shapes;
  };
  std::vector<std::pair<std::string, Part>> parts;
  for (const auto& [name, t] : module.parameters()) {
    const size_t dot = name.rfind('.');
    const std::string own = dot == std::string::npos ? "" : name.substr(0, dot);
    if (parts.empty() || parts.back().first != own) parts.push_back({own, {}});
    Part& p = parts.back().second;
    p.count += t.numel();
    p.shapes += fmt::format("{}{} {}", p.shapes.empty() ? "" : ", ", name.substr(dot + 1),
                            t.shape().to_string());
  }
  int64_t buffers = 0;
  for (const auto& [name, t] : module.buffers()) buffers += t.numel();
  if (a.common.json) {
    Json list = Json::array();
    for (const auto& [name, p] : parts) list.push_back({{"module", name}, {"parameters", p.count}});
    print_result(json_text({{"model", model.name()},
                            {"config", model.config()},
                            {"quantities", model.quantities()},
                            {"parameters", module.parameter_count()},
                            {"buffers", buffers},
                            {"modules", list}}) +
                 "\n");
    return;
  }
  std::vector<std::vector<std::string>> keys;
  for (const ConfigKey& k : config_keys(model.name())) {
    keys.push_back({"  " + k.name, "= " + model.config().at(k.name), k.description});
  }
  std::string out = fmt::format("{}, keys (--set key=value):\n{}quantities: {}\n\n", model.name(),
                                table(keys, "<<<"), listing(model.quantities()));
  std::vector<std::vector<std::string>> rows = {{"module", "parameters", "shapes"}};
  for (const auto& [name, p] : parts) rows.push_back({name, fmt::format("{}", p.count), p.shapes});
  out += table(rows, "<><");
  print_result(out + fmt::format("\n{} parameters, {} elements of buffers\n",
                                 module.parameter_count(), buffers));
}

void run_inspect(const InspectArguments& a) {
  const bool wants_graph = a.graph || !a.dot.empty();
  if (!a.dot.empty()) check_output("--dot", a.dot, {".dot", ".gv"});
  std::error_code ignored;
  const bool folder = !a.path.empty() && std::filesystem::is_directory(a.path, ignored);
  if (a.rows != InspectArguments().rows && !wants_graph) {
    throw UsageError(fmt::format(
        "--batch-size: {} given without --graph or --dot, whose step has that many rows", a.rows));
  }
  if (a.path.empty() && a.model.model.empty() && a.model.weights.empty()) {
    throw UsageError(fmt::format(
        "FILE: none given; a .safetensors or .npy file, the folder of a run, or --model with {} "
        "is accepted",
        listing(model_names())));
  }
  if (!a.path.empty() && !a.model.weights.empty()) {
    throw UsageError(fmt::format("--weights: {} given beside {}; one of them is accepted",
                                 a.model.weights, quote(a.path)));
  }
  std::error_code error;
  if (!a.path.empty() && !std::filesystem::exists(a.path, error)) {
    throw IoError(fmt::format("{}: cannot be opened: {}", a.path,
                              error ? error.message() : "No such file or directory"));
  }
  if (!wants_graph && !a.path.empty() && a.model.model.empty()) {
    if (!folder) return inspect_file(a, a.path);
    const auto checkpoint = CheckpointStore::newest(a.path);
    if (!checkpoint)
      throw IoError(fmt::format("{}: the folder holds no checkpoint of a training run", a.path));
    return inspect_file(a, checkpoint->path);
  }
  if (wants_graph && a.path.ends_with(".npy")) {
    throw UsageError(
        fmt::format("{}: {} given; a .safetensors file, the folder of a run or --model is accepted",
                    a.graph ? "--graph" : "--dot", quote(a.path)));
  }
  ModelOptions model_options = a.model;
  if (!a.path.empty()) model_options.weights = a.path;
  CommonOptions quiet = a.common;
  quiet.quiet = quiet.quiet || !wants_graph;  // without draws there is no seed to tell
  apply(quiet);
  Generator generator(a.common.seed);
  const auto model = open_model(model_options, a.common, generator);
  if (wants_graph) {
    inspect_graph(a, *model, generator);
  } else {
    inspect_model(a, *model, model->module());
  }
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto a = std::make_shared<InspectArguments>();
  Command c(app, "inspect",
            "Show the tensors of a file, the parts of a model, the graph of a training step");
  c.group("Positional");
  c.file("file", a->path, "Tensors (.safetensors), an array (.npy) or the folder of a run")
      .transient();
  add_model(c, a->model, Weights::use);
  c.group("Graph");
  c.flag("--graph", a->graph,
         "Operations of one training step: shapes, and bytes kept for the backward pass");
  c.file("--dot", a->dot, "The same as Graphviz source, .dot or .gv");
  c.integer("--batch-size", a->rows, "Rows of that step", 1, 1000000);
  add_common(c, a->common);
  c.examples(
      "flowgrad inspect weights.safetensors\n"
      "flowgrad inspect --model realnvp --set n_flows=4\n"
      "flowgrad inspect --model planar --graph --dot planar.dot");
  c.run([a](const Command&) { run_inspect(*a); });
}

}  // namespace flowgrad::cli
