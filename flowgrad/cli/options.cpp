#include "flowgrad/cli/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>

#include "flowgrad/cli/config_file.h"
#include "flowgrad/models/config.h"

namespace flowgrad::cli {
namespace {

template <class T>
bool parse_whole(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

/// Checks a decimal number and drops its leading zeros, which the parser would take for octal.
template <class T>
CLI::Validator whole_number(T lo, T hi) {
  return CLI::Validator(
      [lo, hi](std::string& text) -> std::string {
        T value = 0;
        if (!parse_whole(text, value) || value < lo || value > hi) {
          return fmt::format("\"{}\" given; a whole number from {} to {} is accepted", text, lo,
                             hi);
        }
        text = fmt::format("{}", value);
        return "";
      },
      "");
}

CLI::Validator real_number(double lo, double hi, Command::Ends ends) {
  return CLI::Validator(
      [lo, hi, ends](std::string& text) -> std::string {
        double value = 0;
        const bool number = parse_whole(text, value) && std::isfinite(value);
        if (number && (ends.open ? value > lo : value >= lo) &&
            (ends.open_above ? value < hi : value <= hi))
          return "";
        const std::string from = fmt::format("{} {:g}", ends.open ? "above" : "from", lo);
        const std::string to =
            hi == std::numeric_limits<double>::max()
                ? ""
                : fmt::format(" {} {:g}", ends.open_above ? "to below" : "to", hi);
        return fmt::format("\"{}\" given; a number {}{} is accepted", text, from, to);
      },
      "");
}

CLI::Validator one_of(std::vector<std::string> accepted) {
  return CLI::Validator(
      [accepted = std::move(accepted)](std::string& text) -> std::string {
        if (std::find(accepted.begin(), accepted.end(), text) != accepted.end()) return "";
        const std::string near = nearest_name(text, accepted);
        return fmt::format("\"{}\" given{}; {} are accepted", text,
                           near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near),
                           listing(accepted));
      },
      "");
}

/// A value forgotten before the next option: "--output --quiet" must not make a file "--quiet".
CLI::Validator no_option() {
  return CLI::Validator(
      [](std::string& text) -> std::string {
        if (!text.starts_with("--")) return "";
        return fmt::format("the option \"{}\" follows; a value is accepted", text);
      },
      "");
}

}  // namespace

void tell(const std::string& line) { std::fputs((line + "\n").c_str(), stderr); }

std::string listing(const std::vector<std::string>& words) {
  if (words.size() < 2) return fmt::format("{}", fmt::join(words, ""));
  return fmt::format("{} and {}", fmt::join(words.begin(), words.end() - 1, ", "), words.back());
}

Command::Command(CLI::App& app, const std::string& name, const std::string& description)
    : sub_(app.add_subcommand(name, description)) {
  sub_->set_help_flag("--help", "Print this help and exit");
}

Command& Command::add(CLI::Option* option, const char* value_name) {
  last_ = option;
  option->type_name(value_name)->group(group_)->capture_default_str();
  return *this;
}

Command& Command::group(const std::string& title) {
  group_ = title;
  return *this;
}

Command& Command::integer(const char* names, int64_t& value, const char* text, int64_t lo,
                          int64_t hi) {
  return add(sub_->add_option(names, value, text)->transform(whole_number(lo, hi))->take_last(),
             "N");
}

Command& Command::integer(const char* names, int& value, const char* text, int lo, int hi) {
  return add(sub_->add_option(names, value, text)->transform(whole_number(lo, hi))->take_last(),
             "N");
}

Command& Command::seed(const char* names, uint64_t& value, const char* text) {
  const auto all = whole_number(uint64_t{0}, std::numeric_limits<uint64_t>::max());
  return add(sub_->add_option(names, value, text)->transform(all)->take_last(), "N");
}

Command& Command::real(const char* names, double& value, const char* text, double lo, double hi,
                       Ends ends) {
  return add(sub_->add_option(names, value, text)->check(real_number(lo, hi, ends))->take_last(),
             "X");
}

Command& Command::text(const char* names, std::string& value, const char* text,
                       const char* value_name) {
  return add(sub_->add_option(names, value, text)->check(no_option())->take_last(), value_name);
}

Command& Command::choice(const char* names, std::string& value, const char* text,
                         const std::vector<std::string>& accepted) {
  return add(sub_->add_option(names, value, text)->check(one_of(accepted))->take_last(), "NAME");
}

Command& Command::list(const char* names, std::vector<std::string>& values, const char* text,
                       const char* value_name) {
  return add(sub_->add_option(names, values, text)->check(no_option())->allow_extra_args(false),
             value_name);
}

Command& Command::flag(const char* names, bool& value, const char* text) {
  last_ = sub_->add_flag(names, value, text)
              ->check(one_of({"true", "false"}))
              ->group(group_)
              ->take_last();
  return *this;
}

Command& Command::required() {
  last_->required();
  return *this;
}

Command& Command::transient() {
  transient_.push_back(last_->get_single_name());
  return *this;
}

Command& Command::examples(const std::string& lines) {
  sub_->footer("\n" + lines);
  return *this;
}

Command& Command::config_extra(std::function<std::string()> lines) {
  config_extra_ = std::move(lines);
  return *this;
}

void Command::run(std::function<void(const Command&)> action) {
  const auto print = std::make_shared<bool>(false);
  group("Other");
  flag("--print-config", *print, "Print all options as a configuration file and exit").transient();
  last_->each([sub = sub_](const std::string& value) {
    if (value != "true") return;
    for (CLI::Option* option : sub->get_options()) option->required(false);
  });
  sub_->callback([self = *this, print, action = std::move(action)] {
    if (*print) {
      fmt::print("{}", self.config_text());
    } else {
      action(self);
    }
  });
}

std::vector<std::pair<std::string, std::string>> Command::values() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const CLI::Option* option : sub_->get_options()) {
    const std::string name = option->get_single_name();
    const bool left_out = std::find(transient_.begin(), transient_.end(), name) != transient_.end();
    if (option == sub_->get_help_ptr() || left_out || option->get_allow_extra_args()) continue;
    if (option->get_items_expected_max() == 0) {
      out.emplace_back(name, option->count() > 0 ? option->as<std::string>() : "false");
    } else if (option->get_expected_max() == 1) {
      const std::string value =
          option->count() > 0 ? option->as<std::string>() : option->get_default_str();
      if (!value.empty()) out.emplace_back(name, value);
    }
  }
  return out;
}

std::string Command::name() const { return sub_->get_name(); }

bool Command::given(const std::string& name) const {
  const CLI::Option* option = sub_->get_option_no_throw("--" + name);
  return option && option->count() > 0;
}

bool Command::is_text(const std::string& name) const {
  const CLI::Option* option = sub_->get_option_no_throw("--" + name);
  if (!option) return true;
  const std::string type = option->get_type_name();
  return type != "N" && type != "X" && option->get_items_expected_max() > 0;
}

std::string Command::config_text() const {
  std::string text = fmt::format("# flowgrad {} --config <this file>\n", sub_->get_name());
  for (const auto& [name, value] : values())
    text += fmt::format("{} = {}\n", name, config_value(value));
  if (config_extra_) text += config_extra_();
  return text;
}

}  // namespace flowgrad::cli
