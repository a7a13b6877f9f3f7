#include "flowgrad/cli/config_file.h"

#include "catch.hpp"
#include "flowgrad/cli/options.h"

using namespace flowgrad::cli;

namespace {

std::string flat(const std::vector<ConfigEntry>& entries) {
  std::string out;
  for (const ConfigEntry& e : entries) out += e.section + "." + e.key + "=" + e.value + ";";
  return out;
}

std::string refusal(const std::string& text) {
  try {
    parse_config(text, "c");
  } catch (const UsageError& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("configuration files: lines, sections, comments and quotes", "[config_file_test]") {
  CHECK(flat(parse_config("", "c")).empty());
  CHECK(flat(parse_config("\n  \t\r\n# only a comment", "c")).empty());
  CHECK(flat(parse_config("a=1\n b = two # x\n\t[set] # y\nc_d = -1.5e3\r\n[run-x]\ne=true",
                          "c")) == ".a=1;.b=two;set.c_d=-1.5e3;run-x.e=true;");
  CHECK(flat(parse_config(R"(a = "x # \"y\" \\ z"   # comment)", "c")) == R"(.a=x # "y" \ z;)");
  CHECK(flat(parse_config("a = \"\"", "c")) == ".a=;");
  CHECK(parse_config("\n\na = 1", "c")[0].place == "c:3");
}

TEST_CASE("configuration files: JSON", "[config_file_test]") {
  CHECK(flat(parse_config(R"( {"a": 1, "b": "x", "set": {"c": 0.5, "d": true}})", "c")) ==
        ".a=1;.b=x;set.c=0.5;set.d=true;");
  CHECK(refusal("{\"a\": 1").find("not JSON") != std::string::npos);
  CHECK(refusal(R"({"a": null})").find("\"a\" is null") != std::string::npos);
  CHECK(refusal(R"({"s": {"a": [1]}})").find("\"a\" is array") != std::string::npos);
}

TEST_CASE("configuration files: what is refused names its line", "[config_file_test]") {
  CHECK(refusal("a = 1\na = 2") == "--config: c:2: key \"a\" is given twice");
  CHECK(refusal("[s]\na = 1\n[t]\na = 2") == "accepted");
  for (const char* text :
       {"a", "= 1", "a b = 1", "[s", "[]", "[s] x", "[a.b]", "a =", "a = 'x'", "a = [1]", "a = {}",
        "a = x y", "a = \"x", "a = \"x\" y", "a = \"\\n\"", "a = \"\\", "\xff = 1"}) {
    INFO(text);
    CHECK(refusal(std::string("ok = 1\n") + text).find("c:2") != std::string::npos);
  }
}

TEST_CASE("configuration files: values survive writing and reading", "[config_file_test]") {
  for (const std::string value :
       {"1", "-2.5", "1e-3", "true", "word", "two words", "a\"b", "a\\b\\", "#", "", " x "}) {
    CHECK(parse_config("k = " + config_value(value), "c")[0].value == value);
  }
}

TEST_CASE("configuration files: entries become arguments", "[config_file_test]") {
  const std::vector<std::string> options = {"steps", "model", "set", "config", "help"};
  const std::vector<std::string> commands = {"train", "eval"};
  const auto arguments = [&](const std::string& text) {
    return config_arguments(parse_config(text, "c"), "train", options, commands);
  };
  CHECK(arguments("steps = 3\nn_flows = 4\n[set]\ndim = 5\n[eval]\nnonsense = 1\n[train]\nmodel = "
                  "\"a b\"") ==
        std::vector<std::string>{"--steps=3", "--set=n_flows=4", "--set=dim=5", "--model=a b"});
  CHECK_THROWS_AS(arguments("config = x"), UsageError);
  CHECK_THROWS_AS(arguments("help = true"), UsageError);
  CHECK_THROWS_AS(arguments("stepz = 3"), UsageError);
  CHECK_THROWS_AS(arguments("[trian]\nsteps = 3"), UsageError);
  CHECK_THROWS_AS(arguments("[train]\ndim = 3"), UsageError);
}

TEST_CASE("configuration files: a command without a model takes no keys of one",
          "[config_file_test]") {
  const auto refused = [](const std::string& text) -> std::string {
    try {
      config_arguments(parse_config(text, "c"), "demo", {"seed", "config"}, {"demo", "train"});
    } catch (const UsageError& e) {
      return e.what();
    }
    return "accepted";
  };
  CHECK(refused("seed = 3\n[train]\nsteps = 4") == "accepted");
  CHECK(refused("hidden = 3") ==
        "--config: c:1: unknown key \"hidden\"; options of \"flowgrad demo\" are accepted");
  CHECK(refused("[set]\nhidden = 3") ==
        "--config: c:2: unknown section \"set\"; the names of commands are accepted");
}

TEST_CASE("configuration files: a NUL is refused and seen", "[config_file_test]") {
  const std::string nul(1, '\0');
  CHECK(refusal("a = 1\nk = \"x" + nul + "y\"") ==
        "--config: c:2: key \"k\": \"x\\x00y\" given; text without a NUL is accepted");
  CHECK(refusal(R"({"k": "x\u0000y"})").find("without a NUL") != std::string::npos);
}
