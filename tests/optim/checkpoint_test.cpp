#include "flowgrad/optim/checkpoint.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include "catch.hpp"
#include "core/io_support.h"
#include "flowgrad/core/safetensors.h"

using namespace flowgrad;
using io_test::Contains;
using io_test::error_of;
using io_test::get;
using io_test::put;
using io_test::Scratch;

namespace {

Checkpoint sample(int64_t step) {
  Checkpoint c;
  c.step = step;
  c.config = "{\"dim\": \"2\"}";
  c.integers = {{"seed", std::numeric_limits<int64_t>::min()}, {"skipped", 7}};
  c.values = {1.0 / 3, std::nan("")};
  c.tensors = {{"model.w", Tensor::from(std::vector<float>{static_cast<float>(step), 2}, {2})},
               {"model.n", Tensor::from(std::vector<int64_t>{5}, {1})},
               {"ema.averages.w", Tensor::from(std::vector<float>{8, 9}, {2})},
               {"ema.updates", Tensor::from(std::vector<int64_t>{1}, {1})}};
  return c;
}

void flip_bit(const std::string& path, size_t byte) {
  std::string bytes = get(path);
  bytes.at(byte % bytes.size()) ^= 0x10;
  put(path, bytes);
}

double first(const Checkpoint& c) { return c.part("model.").at(0).second.at({0}); }

}  // namespace

TEST_CASE("a checkpoint returns as it was", "[checkpoint_test]") {
  const Scratch scratch;
  const CheckpointStore store(scratch / "run");
  const std::string path = store.save(sample(12));
  CHECK(path == scratch / "run/checkpoints/step-00000012.safetensors");
  const Checkpoint c = load_checkpoint(path);
  CHECK(c.step == 12);
  CHECK(c.config == sample(12).config);
  CHECK(c.integers == sample(12).integers);
  REQUIRE(c.values.size() == 2);
  CHECK(c.values[0] == 1.0 / 3);
  CHECK(std::isnan(c.values[1]));
  CHECK(c.tensors.size() == 4);
  CHECK(first(c) == 12);
  CHECK(c.part("ema.averages.").size() == 1);
  CHECK(c.path == path);
}

TEST_CASE("two generations are kept", "[checkpoint_test]") {
  const Scratch scratch;
  const CheckpointStore store(scratch.path());
  CHECK(CheckpointStore::list(scratch.path()).empty());
  CHECK_FALSE(CheckpointStore::newest(scratch.path()).has_value());
  for (const int64_t step : {5, 10, 20, 100000000}) store.save(sample(step));
  const std::vector<std::string> left = CheckpointStore::list(scratch.path());
  REQUIRE(left.size() == 2);
  CHECK_THAT(left[0], Contains("step-00000020."));
  CHECK_THAT(left[1], Contains("step-100000000."));
  CHECK(CheckpointStore::newest(scratch.path())->step == 100000000);
  // Going on from the older one replaces what was behind it.
  store.save(sample(30));
  CHECK(CheckpointStore::newest(scratch.path())->step == 30);
  CHECK(CheckpointStore::list(scratch.path()).size() == 2);
  store.clear();
  CHECK(CheckpointStore::list(scratch.path()).empty());
}

TEST_CASE("other files in the folder are left alone, stale temporaries go", "[checkpoint_test]") {
  const Scratch scratch;
  { const CheckpointStore makes_folders(scratch.path()); }
  const std::string folder = scratch / "checkpoints/";
  for (const char* name : {"notes.txt", "step-.safetensors", "step-12x.safetensors",
                           "step--1.safetensors", "best.safetensors"}) {
    put(folder + name, "mine");
  }
  put(folder + ".flowgrad-99999-0.tmp", "half");
  put(scratch / ".flowgrad-99999-1.tmp", "half");
  const CheckpointStore store(scratch.path());
  CHECK(CheckpointStore::list(scratch.path()).empty());
  for (int64_t step = 1; step < 5; ++step) store.save(sample(step));
  store.clear();
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 5);
  CHECK_FALSE(std::filesystem::exists(scratch / ".flowgrad-99999-1.tmp"));
}

TEST_CASE("the older generation is used when the newest is damaged", "[checkpoint_test]") {
  const Scratch scratch;
  const CheckpointStore store(scratch.path());
  store.save(sample(1));
  const std::string path = store.save(sample(2));
  const std::string good = get(path);
  for (size_t byte = 0; byte < good.size(); byte += 1 + good.size() / 40) {
    put(path, good);
    flip_bit(path, byte);
    std::vector<std::string> warnings;
    const auto found = CheckpointStore::newest(scratch.path(), &warnings);
    INFO("byte " << byte);
    REQUIRE(found.has_value());
    CHECK(found->step == 1);
    REQUIRE(warnings.size() == 1);
    CHECK_THAT(warnings[0], Contains(path));
    CHECK_THAT(warnings[0], Contains("the checkpoint before it is used"));
  }
  put(path, good.substr(0, good.size() / 2));
  CHECK(CheckpointStore::newest(scratch.path())->step == 1);
  put(path, "");
  CHECK(CheckpointStore::newest(scratch.path())->step == 1);
  flip_bit(CheckpointStore::list(scratch.path()).front(), 100);
  CHECK_THAT(error_of([&] { CheckpointStore::newest(scratch.path()); }),
             Contains("none of 2 files can be used"));
}

TEST_CASE("files that are no checkpoints are refused", "[checkpoint_test]") {
  const Scratch scratch;
  const Tensor w = Tensor::from(std::vector<float>{1, 2}, {2});
  const Tensor values = Tensor::from(std::vector<double>{1}, {1});
  const std::string path = scratch / "x.safetensors";
  const auto refusal = [&](const NamedTensors& tensors, const std::string& metadata) {
    save_safetensors(path, tensors, {{"flowgrad.checkpoint", metadata}});
    return error_of([&] { load_checkpoint(path); });
  };
  const std::string fine = R"({"format":1,"step":3,"config":"","integers":{"a":1}})";
  CHECK(refusal({{"trainer.values", values}}, fine) == "no error");
  CHECK_THAT(refusal({{"w", w}}, fine), Contains("not the state of a training"));
  CHECK_THAT(refusal({{"trainer.values", w}}, fine), Contains("not the state of a training"));
  CHECK_THAT(refusal({{"trainer.values", values}}, "{"),
             Contains("metadata \"flowgrad.checkpoint\""));
  CHECK_THAT(refusal({{"trainer.values", values}}, "[]"),
             Contains("metadata \"flowgrad.checkpoint\""));
  CHECK_THAT(refusal({{"trainer.values", values}}, R"({"format":2})"),
             Contains("format 2 given; 1 is accepted"));
  CHECK_THAT(refusal({{"trainer.values", values}}, R"({"format":1,"step":"x"})"),
             Contains("metadata \"flowgrad.checkpoint\""));
  CHECK_THAT(
      refusal({{"trainer.values", values}}, R"({"format":1,"step":-3,"config":"","integers":{}})"),
      Contains("step -3"));
  save_safetensors(path, {{"w", w}});
  CHECK_THAT(error_of([&] { load_checkpoint(path); }), Contains("not the state of a training"));
  // As another tool would write it: the right content, but nothing that a flipped bit contradicts.
  const std::string header =
      R"({"__metadata__":{"flowgrad.checkpoint":"{\"format\":1,\"step\":3,\"config\":\"\",)"
      R"(\"integers\":{}}"},"trainer.values":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})";
  put(path, io_test::little_endian(header.size(), 8) + header + std::string(8, '\0'));
  CHECK(load_safetensors(path).tensors.size() == 1);
  CHECK_THAT(error_of([&] { load_checkpoint(path); }), Contains("checksum"));
  CHECK_THAT(error_of([&] { load_checkpoint(scratch / "absent"); }), Contains("No such file"));
}

TEST_CASE("weights for use, averaged or not", "[checkpoint_test]") {
  const Scratch scratch;
  const CheckpointStore store(scratch.path());
  CHECK_THAT(error_of([&] { checkpoint_weights(scratch.path()); }),
             Contains("holds no checkpoint"));
  const std::string path = store.save(sample(4));
  for (const std::string& from : {scratch.path(), path}) {
    const NamedTensors averaged = checkpoint_weights(from);
    const NamedTensors plain = checkpoint_weights(from, false);
    REQUIRE(averaged.size() == 2);
    REQUIRE(plain.size() == 2);
    for (size_t i = 0; i < 2; ++i) {
      const bool is_w = plain[i].first == "w";
      CHECK(averaged[i].first == plain[i].first);
      CHECK(plain[i].second.at({0}) == (is_w ? 4 : 5));
      CHECK(averaged[i].second.at({0}) == (is_w ? 8 : 5));
    }
  }
}

TEST_CASE("folders that cannot be used are named", "[checkpoint_test]") {
  const Scratch scratch;
  put(scratch / "file", "x");
  CHECK_THAT(error_of([&] { CheckpointStore(scratch / "file/run"); }), Contains("cannot be made"));
  put(scratch / "checkpoints", "x");
  CHECK_THAT(error_of([&] { CheckpointStore(scratch.path()); }), Contains(scratch / "checkpoints"));
  CHECK_THAT(error_of([&] { CheckpointStore::list(scratch.path()); }), Contains("cannot be read"));
}
