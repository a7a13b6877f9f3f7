#include "flowgrad/core/safetensors.h"
#include "flowgrad/core/json.h"

#include <fcntl.h>

#include <limits>

#include "catch.hpp"
#include "core/io_support.h"

using namespace io_test;
using Catch::Matchers::StartsWith;
using flowgrad::bfloat16;
using flowgrad::DType;
using flowgrad::load_safetensors;
using flowgrad::SafetensorsFile;
using flowgrad::save_safetensors;
using flowgrad::Tensor;

namespace {

using Named = std::vector<std::pair<std::string, Tensor>>;

Tensor floats(std::vector<float> values) {
  const auto n = static_cast<int64_t>(values.size());
  return Tensor::from(values, {n});
}

/// One tensor of each dtype and of unusual shapes; about 2 KB.
Named samples() {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> ramp;
  for (int i = 0; i < 120; ++i) ramp.push_back(static_cast<float>(i) / 7.f);
  return {{"mask", Tensor::from(std::vector<bool>{true, false, true}, {3})},
          {"layers.0.weight", Tensor::from(ramp, {10, 12})},
          {"special", floats({0.f, -0.f, inf, -inf, std::nanf("7"), 1e-45f})},
          {"half", Tensor::from(std::vector<float>{1.f, -2.5f, 3e38f}, {1, 3}, DType::bfloat16)},
          {"double", Tensor::from(std::vector<double>{0.1, -1e308}, {2})},
          {"count", Tensor::from(std::vector<int64_t>{INT64_MIN}, {})},
          {"none", Tensor::empty({0, 4})},
          {"no rows", Tensor::empty({3, 0}, DType::boolean)},
          {"rank 8", Tensor::from(std::vector<int64_t>{1, -1}, {1, 1, 1, 1, 1, 1, 1, 2})},
          {"gr\xC3\xB6\xC3\x9F"
           "e \xF0\x9F\x98\x80 \"\\\n",
           floats({2.f})},
          {"../outside", floats({3.f})}};
}

void check_same(const SafetensorsFile& file, const Named& expected) {
  REQUIRE(file.tensors.size() == expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK(file.tensors[i].first == expected[i].first);
    CHECK(same_bits(file.tensors[i].second, expected[i].second));
  }
}

std::string save_error(const std::string& path, const Named& tensors,
                       const std::map<std::string, std::string>& metadata = {}) {
  return error_of<flowgrad::ValueError>([&] { save_safetensors(path, tensors, metadata); });
}

flowgrad::Json header_of(const std::string& bytes) {
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  return flowgrad::parse_json(bytes.substr(8, length));
}

}  // namespace

TEST_CASE("safetensors round trips keep bits, order and metadata", "[safetensors_test]") {
  const Scratch dir;
  const std::map<std::string, std::string> metadata{
      {"step", "12"},
      {"", "empty key"},
      {"config", "{\"a\": [1, 2],\n\t\"b\": \"\\u00e9 \xC3\xA9\"}"}};
  save_safetensors(dir / "x.st", samples(), metadata);
  const SafetensorsFile file = load_safetensors(dir / "x.st", {.require_checksums = true});
  check_same(file, samples());
  CHECK(file.metadata == metadata);
  CHECK(file.checksums);
  REQUIRE(file.find("count"));
  CHECK(file.find("count")->to_vector<int64_t>() == std::vector<int64_t>{INT64_MIN});
  CHECK(file.find("absent") == nullptr);
  CHECK(dir.names() == std::vector<std::string>{"x.st"});

  save_safetensors(dir / "again.st", file.tensors, file.metadata);
  CHECK(get(dir / "again.st") == get(dir / "x.st"));
}

TEST_CASE("safetensors without tensors", "[safetensors_test]") {
  const Scratch dir;
  save_safetensors(dir / "x.st", {});
  const SafetensorsFile file = load_safetensors(dir / "x.st", {.require_checksums = true});
  CHECK(file.tensors.empty());
  CHECK(file.metadata.empty());
  CHECK(file.checksums);
}

TEST_CASE("safetensors writes strided tensors in row-major order", "[safetensors_test]") {
  const Scratch dir;
  std::vector<int64_t> values(24);
  for (size_t i = 0; i < 24; ++i) values[i] = static_cast<int64_t>(i);
  for (const DType dtype : {DType::float32, DType::float64, DType::bfloat16, DType::int64}) {
    const Tensor t = Tensor::from(values, {2, 3, 4}, dtype);
    const Tensor turned = t.with_layout(flowgrad::permuted("test", t.layout(), {1, 2, 0}));
    const Tensor part = t.with_layout(flowgrad::sliced("test", t.layout(), 1, 1, 3, 1));
    const Tensor column = t.with_layout(flowgrad::sliced("test", t.layout(), 2, 1, 2, 1));
    const Tensor wide = t.with_layout(
        flowgrad::expanded("test", flowgrad::unsqueezed("test", t.layout(), 0), {2, 2, 3, 4}));
    save_safetensors(dir / "x.st",
                     {{"turned", turned}, {"part", part}, {"column", column}, {"wide", wide}});
    check_same(load_safetensors(dir / "x.st"),
               {{"turned", Tensor::from(turned.to_vector<int64_t>(), {3, 4, 2}, dtype)},
                {"part", Tensor::from(part.to_vector<int64_t>(), {2, 2, 4}, dtype)},
                {"column", Tensor::from(column.to_vector<int64_t>(), {2, 3, 1}, dtype)},
                {"wide", Tensor::from(wide.to_vector<int64_t>(), {2, 2, 3, 4}, dtype)}});
  }
}

TEST_CASE("the layout of a written file is the public format", "[safetensors_test]") {
  const Scratch dir;
  save_safetensors(dir / "x.st", samples(), {{"note", "n"}});
  const std::string bytes = get(dir / "x.st");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  CHECK(length % 8 == 0);
  const flowgrad::Json header = header_of(bytes);
  CHECK(header.size() == samples().size() + 1);
  CHECK(header["__metadata__"]["note"] == "n");
  const std::map<std::string, size_t> sizes{
      {"BOOL", 1}, {"BF16", 2}, {"F32", 4}, {"F64", 8}, {"I64", 8}};
  uint64_t total = 0;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const uint64_t begin = entry["data_offsets"][0];
    const uint64_t end = entry["data_offsets"][1];
    CHECK(begin % sizes.at(entry["dtype"]) == 0);  // PyTorch maps tensors and needs them aligned
    total += end - begin;
  }
  CHECK(8 + length + total == bytes.size());
}

TEST_CASE("safetensors reads what the Python package writes", "[safetensors_test]") {
  const SafetensorsFile file = load_safetensors(data_file("python.safetensors"));
  CHECK_FALSE(file.checksums);
  CHECK(file.metadata == std::map<std::string, std::string>{
                             {"format", "pt"}, {"note", "a \"quoted\" line\nand another"}});
  CHECK(file.tensors.size() == 7);
  const auto same = [&](const char* name, const Tensor& expected) {
    REQUIRE(file.find(name));
    CHECK(same_bits(*file.find(name), expected));
  };
  same("layer.0.weight", Tensor::from(std::vector<float>{0, .25f, .5f, .75f, 1, 1.25f}, {2, 3}));
  same("double", Tensor::from(std::vector<double>{1.5, -2.25}, {2}));
  same("half", Tensor::from(std::vector<float>{1.f, -0.5f, 3.f}, {3}, DType::bfloat16));
  same("count", Tensor::from(std::vector<int64_t>{-7}, {}));
  same("mask", Tensor::from(std::vector<bool>{true, false, true}, {3}));
  same("none", Tensor::empty({0, 4}));
  same(
      "gr\xC3\xB6\xC3\x9F"
      "e \xF0\x9F\x98\x80",
      floats({2.f}));

  CHECK_THAT(error_of([] {
               load_safetensors(data_file("python.safetensors"), {.require_checksums = true});
             }),
             Contains("no checksums in the metadata, but they are required here"));
  CHECK_THAT(
      error_of([] { load_safetensors(data_file("refused_f16.safetensors")); }),
      Contains("tensor \"x\": dtype \"F16\" given; F32, F64, BF16, I64 and BOOL are accepted"));
}

TEST_CASE("every flipped bit of a checksummed file is found", "[safetensors_test]") {
  const Scratch dir;
  save_safetensors(dir / "x.st", samples(), {{"step", "12"}, {"note", std::string(700, 'n')}});
  const std::string bytes = get(dir / "x.st");
  REQUIRE(bytes.size() >= 2048);
  const int fd = ::open((dir / "x.st").c_str(), O_WRONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  int64_t silent = 0;
  int64_t silent_without_asking = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      const char damaged = static_cast<char>(bytes[i] ^ (1 << bit));
      REQUIRE(::pwrite(fd, &damaged, 1, static_cast<off_t>(i)) == 1);
      silent += error_of([&] { load_safetensors(dir / "x.st", {.require_checksums = true}); }) ==
                "no error";
      silent_without_asking += error_of([&] { load_safetensors(dir / "x.st"); }) == "no error";
    }
    REQUIRE(::pwrite(fd, &bytes[i], 1, static_cast<off_t>(i)) == 1);
  }
  ::close(fd);
  CHECK(silent == 0);
  CHECK(silent_without_asking == 0);  // half of the keys is an error too
  CHECK(load_safetensors(dir / "x.st").tensors.size() == samples().size());
}

TEST_CASE("damage is named", "[safetensors_test]") {
  const Scratch dir;
  const Named two{{"a", floats({1, 2})}, {"b", floats({3, 4})}};
  save_safetensors(dir / "x.st", two);
  const std::string good = get(dir / "x.st");
  const auto message = [&](const std::string& bytes) {
    put(dir / "bad.st", bytes);
    return error_of([&] { load_safetensors(dir / "bad.st"); });
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string bytes = good;
    const size_t at = bytes.find(from);
    REQUIRE(at != std::string::npos);
    bytes.replace(at, from.size(), to);
    const uint64_t length = bytes.size() - 8 - 16;
    std::memcpy(bytes.data(), &length, 8);
    return bytes;
  };
  std::string swapped = good;
  std::swap_ranges(swapped.end() - 16, swapped.end() - 8, swapped.end() - 8);
  CHECK_THAT(message(swapped), Contains("tensor \"a\": the CRC-32C of its data is "));
  CHECK_THAT(message(good.substr(0, good.size() - 1) + '\x7F'),
             Contains("tensor \"b\": the CRC-32C of its data is "));
  CHECK_THAT(message(replaced("\"b\":", "\"c\":")), Contains("header: its CRC-32C is "));
  CHECK_THAT(message(replaced("F32", "I64").replace(0, 8, good.substr(0, 8))),
             Contains("header: its CRC-32C is "));
  CHECK_THAT(message(replaced("crc32c.header", "crc32c.headet")),
             Contains("crc32c.tensors is given without crc32c.header"));
  CHECK_THAT(message(replaced("crc32c.tensors", "crc32c.tensorz")),
             Contains("crc32c.header is given without crc32c.tensors"));
  CHECK_THAT(message(replaced("crc32c.header\":", "crc32c\\u002eheader\":")),
             Contains("crc32c.header is not written as eight hexadecimal digits"));
  CHECK_THAT(message(replaced("crc32c.header\":\"", "crc32c.header\":\"0")),
             Contains("crc32c.header is not written as eight hexadecimal digits"));

  save_safetensors(dir / "other.st", {{"a", floats({1, 2})}, {"b", floats({3, 5})}});
  const std::string other = get(dir / "other.st");
  REQUIRE(other.size() == good.size());
  CHECK_THAT(message(other.substr(0, other.size() - 16) + good.substr(good.size() - 16)),
             Contains("tensor \"b\": the CRC-32C of its data is "));
  save_safetensors(dir / "three.st",
                   {{"a", floats({1, 2})}, {"b", floats({3})}, {"c", floats({4})}});
  CHECK_THAT(message(good), StartsWith("no error"));
}

TEST_CASE("checksums are those of an independent computation", "[safetensors_test]") {
  const Scratch dir;
  // 00..1f as eight floats: RFC 3720 B.4 gives 46dd794e for these 32 bytes.
  Tensor t = Tensor::empty({8});
  for (int i = 0; i < 32; ++i)
    static_cast<unsigned char*>(t.raw())[i] = static_cast<unsigned char>(i);
  save_safetensors(dir / "x.st", {{"t", t}, {"none", Tensor::empty({0})}});
  CHECK(header_of(get(dir / "x.st"))["__metadata__"]["crc32c.tensors"] == "46dd794e 00000000");
}

TEST_CASE("save_safetensors refuses what loading would", "[safetensors_test]") {
  const Scratch dir;
  const std::string path = dir / "x.st";
  const Tensor t = floats({1});
  CHECK_THAT(save_error(path, {{"", t}}),
             StartsWith("save_safetensors: " + path) && Contains("empty name"));
  CHECK_THAT(save_error(path, {{"a", t}, {"b", t}, {"a", t}}),
             Contains("two tensors are named \"a\""));
  CHECK_THAT(save_error(path, {{"__metadata__", t}}), Contains("__metadata__ is reserved"));
  CHECK_THAT(save_error(path, {{"\xFF", t}}), Contains("tensor name \"\\xff\" is not valid UTF-8"));
  CHECK_THAT(save_error(path, {{std::string("a\0", 2), t}}), Contains("contains a NUL"));
  CHECK_THAT(save_error(path, {{std::string(4097, 'n'), t}}),
             Contains("has 4097 bytes; at most 4096"));
  CHECK_THAT(save_error(path, {{"a", Tensor()}}), Contains("tensor \"a\" is undefined"));
  CHECK_THAT(save_error(path, {}, {{"\x80", ""}}), Contains("metadata key"));
  CHECK_THAT(save_error(path, {}, {{"k", "\xC3"}}), Contains("the metadata value of \"k\""));
  CHECK_THAT(save_error(path, {}, {{"k", std::string(1, '\0')}}), Contains("contains a NUL"));
  CHECK_THAT(save_error(path, {}, {{"crc32c.header", "x"}}), Contains("reserved for checksums"));
  CHECK_THAT(save_error(path, {}, {{"k", std::string(17 << 20, 'v')}}),
             Contains("names and metadata"));
  CHECK(dir.names().empty());
  CHECK_THAT(error_of([&] { save_safetensors(dir / "no/x.st", {}); }),
             StartsWith("save_safetensors: ") && Contains("No such file or directory"));
  save_safetensors(path, {{std::string(4096, 'n'), t}}, {{"k", std::string(15 << 20, 'v')}});
  CHECK(load_safetensors(path).tensors.size() == 1);
}

TEST_CASE("a failing allocation while loading leaves nothing behind", "[safetensors_test]") {
  const Scratch dir;
  save_safetensors(dir / "x.st", samples());
  const int64_t before = flowgrad::memory_stats().live_bytes;
  for (int k = 1; k <= static_cast<int>(samples().size()); ++k) {
    flowgrad::fail_allocation_after(k);
    CHECK_THROWS_AS(load_safetensors(dir / "x.st"), flowgrad::Error);
    CHECK(flowgrad::memory_stats().live_bytes == before);
  }
  flowgrad::fail_allocation_after(0);
  check_same(load_safetensors(dir / "x.st"), samples());
}
