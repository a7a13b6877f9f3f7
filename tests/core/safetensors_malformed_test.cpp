// Files that load_safetensors must refuse, each with its reason, its time and its memory.

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <ctime>
#include <random>

#include "catch.hpp"
#include "core/io_support.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/safetensors.h"

using namespace io_test;
using Catch::Matchers::StartsWith;
using flowgrad::load_safetensors;
using flowgrad::Tensor;

namespace {

/// A file of that header text and data.
std::string st(const std::string& json, const std::string& data = "") {
  return little_endian(json.size(), 8) + json + data;
}

/// The entry of one tensor.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":[)" + shape +
         R"(],"data_offsets":[)" + offsets + "]}";
}

/// A file of a single F32 tensor "w".
std::string one(const std::string& shape, const std::string& offsets, const std::string& data) {
  return st("{" + entry("w", "F32", shape, offsets) + "}", data);
}

/// A file with that text in place of the tensor's description.
std::string body(const std::string& text) { return st("{\"w\":" + text + "}", "12345678"); }

std::string repeated(const std::string& text, size_t n) {
  std::string out;
  out.reserve(text.size() * n);
  for (size_t i = 0; i < n; ++i) out += text;
  return out;
}

std::string load_error(const std::string& path) {
  return error_of([&] { load_safetensors(path); });
}

/// Processor time of this process: the other load of the machine does not count.
double cpu_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
constexpr double kSecondsAllowed = 10.0;
#else
constexpr double kSecondsAllowed = 1.0;
#endif

struct Case {
  const char* name;
  std::string bytes;
  const char* message;
};

std::vector<Case> framing_cases() {
  const std::string ok = one("2", "0,8", "12345678");
  return {
      {"empty file", "", "0 bytes long; the header length alone needs 8"},
      {"one byte", "x", "1 bytes long"},
      {"seven bytes", ok.substr(0, 7), "7 bytes long"},
      {"length only", ok.substr(0, 8), "only 0 bytes follow"},
      {"length 0", st(""), "header ends where '{' is expected"},
      {"length 0 and data", st("", "12345678"), "header ends where '{' is expected"},
      {"length 1", st("{"), "header ends where '\"' is expected"},
      {"length + 1", little_endian(ok.size() - 7, 8) + ok.substr(8), "bytes follow"},
      {"length swapped", std::string("\0\0\0\0\0\0\0\x30", 8) + ok.substr(8), "at most 100000000"},
      {"length 100 MB + 1", little_endian(100'000'001, 8) + ok.substr(8),
       "at most 100000000 is accepted"},
      {"length 100 MB", little_endian(100'000'000, 8) + ok.substr(8), "bytes follow"},
      {"length 2^63", little_endian(uint64_t{1} << 63, 8) + ok.substr(8),
       "header length 9223372036854775808"},
      {"length 2^64 - 1", std::string(8, '\xFF') + ok.substr(8),
       "header length 18446744073709551615"},
      {"length 2^64 - 8", little_endian(~uint64_t{7}, 8) + ok.substr(8), "at most 100000000"},
      {"other format", "PK\x03\x04" + std::string(60, 'x'), "header length"},
      {"text", "this is no tensor file at all", "header length"},
      {"not JSON", st("hello"), "byte 0: \"h\" given where '{' is expected"},
      {"an array", st("[]"), "\"[\" given where '{' is expected"},
      {"a number", st("17"), "\"1\" given where '{' is expected"},
      {"byte order mark", st("\xEF\xBB\xBF{}"), "byte 0: \"\\xef\" given where '{'"},
      {"leading space", st(" {}"), "byte 0: \" \" given where '{'"},
      {"UTF-16", st(std::string("{\0}\0", 4)), "byte 1: \"\\x00\" given"},
      {"NUL after", st(std::string("{}\0", 3)),
       "byte 2: \"\\x00\" given where the end of the header"},
      {"text after", st("{} x"), "where the end of the header is expected"},
      {"two objects", st("{}{}"), "where the end of the header is expected"},
      {"comment", st("{/* c */}"), "\"/\" given where '\"' is expected"},
      {"trailing comma", st("{" + entry("w", "F32", "0", "0,0") + ",}"), "\"}\" given where '\"'"},
      {"no comma", st("{" + entry("w", "F32", "0", "0,0") + entry("v", "F32", "0", "0,0") + "}"),
       "given where '}' is expected"},
      {"no colon", st("{\"w\" {}}"), "\"{\" given where ':' is expected"},
      {"single quotes", st("{'w':{}}"), "\"'\" given where '\"' is expected"},
      {"unquoted name", st("{w:{}}"), "\"w\" given where '\"' is expected"},
      {"open object", st("{" + entry("w", "F32", "0", "0,0")), "header ends where '}' is expected"},
      {"open string", st("{\"w"), "a string has no end"},
      {"trailing bytes", st("{}", "x"), "data: bytes 0..1 belong to no tensor"},
  };
}

std::vector<Case> name_cases() {
  const auto named = [](const std::string& name) {
    return st("{" + entry(name, "F32", "1", "0,4") + "}", "1234");
  };
  const auto meta = [](const std::string& text) { return st("{\"__metadata__\":" + text + "}"); };
  return {
      {"empty name", named(""), "the name of a tensor is empty"},
      {"long name", named(std::string(1'000'000, 'n')), "longer than the 4096 bytes accepted"},
      {"name 4097", named(std::string(4097, 'n')), "longer than the 4096 bytes accepted"},
      {"raw NUL", named(std::string("a\0b", 3)), "control character \"\\x00\" in a string"},
      {"escaped NUL", named("a\\u0000b"), "a string contains a NUL"},
      {"raw newline", named("a\nb"), "control character \"\\x0a\" in a string"},
      {"not UTF-8", named("\xC3("), "not valid UTF-8"},
      {"overlong", named("\xC0\xAF"), "not valid UTF-8"},
      {"raw surrogate", named("\xED\xA0\x80"), "not valid UTF-8"},
      {"lone surrogate", named("\\ud800"), "half a surrogate pair"},
      {"low surrogate", named("\\udc00"), "half a surrogate pair"},
      {"two high surrogates", named("\\ud800\\ud800"), "half a surrogate pair"},
      {"unknown escape", named("\\x41"), "after a backslash is expected"},
      {"short escape", named("\\u12"), "a hexadecimal digit is expected"},
      {"same name",
       st("{" + entry("w", "F32", "1", "0,4") + "," + entry("w", "F32", "1", "4,8") + "}",
          "12345678"),
       "tensor \"w\" is given twice"},
      {"same name, same bytes",
       st("{" + entry("w", "F32", "1", "0,4") + "," + entry("w", "F32", "1", "0,4") + "}", "1234"),
       "tensor \"w\" is given twice"},
      {"same name, escaped",
       st("{" + entry("w", "F32", "0", "0,0") + "," + entry("\\u0077", "F32", "0", "0,0") + "}"),
       "tensor \"w\" is given twice"},
      {"metadata twice", st(R"({"__metadata__":{},"__metadata__":{}})"),
       "__metadata__ is given twice"},
      {"metadata key twice", meta(R"({"a":"1","a":"1"})"), "the key \"a\" is given twice"},
      {"metadata number", meta(R"({"a":1})"), "the value of \"a\" is not a string"},
      {"metadata null", meta(R"({"a":null})"), "the value of \"a\" is not a string"},
      {"metadata object", meta(R"({"a":{}})"), "the value of \"a\" is not a string"},
      {"metadata array", meta("[]"), "\"[\" given where '{' is expected"},
      {"metadata null itself", meta("null"), "\"n\" given where '{' is expected"},
  };
}

std::vector<Case> tensor_cases() {
  const std::string four = "1234";
  const std::string eight = "12345678";
  const auto pair = [](const std::string& a, const std::string& b, size_t bytes) {
    return st("{" + entry("a", "F32", "2", a) + "," + entry("b", "F32", "2", b) + "}",
              std::string(bytes, 'x'));
  };
  return {
      {"entry null", body("null"), "\"n\" given where '{' is expected"},
      {"entry array", body("[]"), "\"[\" given where '{' is expected"},
      {"entry empty", body("{}"), "tensor \"w\": dtype is missing"},
      {"no shape", body(R"({"dtype":"F32","data_offsets":[0,8]})"),
       "tensor \"w\": shape is missing"},
      {"no offsets", body(R"({"dtype":"F32","shape":[2]})"),
       "tensor \"w\": data_offsets is missing"},
      {"dtype twice", body(R"({"dtype":"F32","dtype":"F32"})"),
       "tensor \"w\": dtype is given twice"},
      {"shape twice", body(R"({"shape":[2],"shape":[2]})"), "tensor \"w\": shape is given twice"},
      {"offsets twice", body(R"({"data_offsets":[0,8],"data_offsets":[0,8]})"),
       "data_offsets is given twice"},
      {"unknown key", body(R"({"strides":[1]})"), "tensor \"w\": unknown key \"strides\""},
      {"dtype number", body(R"({"dtype":4})"), "\"4\" given where '\"' is expected"},
      {"dtype F16", st("{" + entry("w", "F16", "4", "0,8") + "}", eight),
       "dtype \"F16\" given; F32, F64"},
      {"dtype I32", st("{" + entry("w", "I32", "2", "0,8") + "}", eight), "dtype \"I32\" given"},
      {"dtype U8", st("{" + entry("w", "U8", "8", "0,8") + "}", eight), "dtype \"U8\" given"},
      {"dtype lower case", st("{" + entry("w", "f32", "2", "0,8") + "}", eight),
       "dtype \"f32\" given"},
      {"dtype empty", st("{" + entry("w", "", "2", "0,8") + "}", eight), "dtype \"\" given"},
      {"shape number", body(R"({"shape":2})"), "\"2\" given where '[' is expected"},
      {"shape text", one("\"2\"", "0,8", eight), "a non-negative integer is expected"},
      {"shape nested", one("[2]", "0,8", eight), "a non-negative integer is expected"},
      {"shape null", one("null", "0,8", eight), "a non-negative integer is expected"},
      {"shape true", one("true", "0,8", eight), "a non-negative integer is expected"},
      {"shape comma", one("2,", "0,8", eight), "a non-negative integer is expected"},
      {"shape -1", one("-1", "0,8", eight), "tensor \"w\": shape: a negative number is given"},
      {"shape 2.0", one("2.0", "0,8", eight), "shape: a number that is no integer is given"},
      {"shape 2e0", one("2e0", "0,8", eight), "shape: a number that is no integer is given"},
      {"shape 02", one("02", "0,8", eight), "shape: a number starts with 0"},
      {"shape 2^63", one("9223372036854775808", "0,8", eight), "shape: a size beyond 2^63"},
      {"shape 2^64", one("18446744073709551616", "0,8", eight), "shape: a number beyond 2^64"},
      {"shape 2^31", one("2147483648", "0,8", eight),
       "shape (2147483648,) float32 needs 8589934592 bytes"},
      {"product 2^64", one("4294967296,4294967296", "0,0", ""), "more than 2^59 elements"},
      {"product wraps to 2", one("9223372036854775807,9223372036854775807,2", "0,8", eight),
       "2^59 elements"},
      {"bytes wrap to 8", one("4611686018427387906", "0,8", eight), "more than 2^59 elements"},
      {"zero hides overflow", one("0,4611686018427387906,4", "0,0", ""), "more than 2^59 elements"},
      {"rank 9", one("1,1,1,1,1,1,1,1,1", "0,4", four), "shape: more than 8 axes given; at most 8"},
      {"rank 10^5", one(repeated("1,", 100'000) + "1", "0,4", four), "more than 8 axes given"},
      {"1 GB in 160 bytes", one("268435456", "0,1073741824", eight),
       "reach beyond the 8 bytes of data"},
      {"offsets empty", one("2", "", eight), "data_offsets: two numbers are expected"},
      {"one offset", one("2", "8", eight), "data_offsets: two numbers are expected"},
      {"three offsets", one("2", "0,8,8", eight), "data_offsets: more than two numbers"},
      {"offset negative", one("2", "-8,0", eight), "data_offsets: a negative number is given"},
      {"offset fraction", one("2", "0,8.0", eight), "data_offsets: a number that is no integer"},
      {"offset 2^64", one("2", "0,18446744073709551616", eight),
       "data_offsets: a number beyond 2^64"},
      {"offsets reversed", one("2", "8,0", eight), "offsets 8..0 are reversed"},
      {"offsets wrap", one("2", "18446744073709551608,18446744073709551615", eight),
       "reach beyond the 8 bytes"},
      {"begin at 2^64 - 4", one("2", "18446744073709551612,4", eight), "are reversed"},
      {"one past the end", one("2", "1,9", eight), "offsets 1..9 reach beyond the 8 bytes of data"},
      {"length short", one("2", "0,7", eight), "offsets 0..7 but shape (2,) float32 needs 8 bytes"},
      {"length long", one("1", "0,8", eight), "offsets 0..8 but shape (1,) float32 needs 4 bytes"},
      {"bytes of an empty tensor", one("0", "0,8", eight), "shape (0,) float32 needs 0 bytes"},
      {"nothing for a scalar", one("", "0,0", ""), "shape () float32 needs 4 bytes"},
      {"hole at the start", one("1", "4,8", eight), "data: bytes 0..4 belong to no tensor"},
      {"rest", one("1", "0,4", eight), "data: bytes 4..8 belong to no tensor"},
      {"hole", pair("0,8", "12,20", 20), "data: bytes 8..12 belong to no tensor"},
      {"overlap", pair("0,8", "4,12", 12),
       "tensor \"b\": offsets 4..12 overlap the tensor that ends at 8"},
      {"same bytes twice", pair("0,8", "0,8", 8), "overlap the tensor that ends at 8"},
      {"empty tensor inside of another",
       st("{" + entry("a", "F32", "2", "0,8") + "," + entry("b", "F32", "0", "4,4") + "}", eight),
       "overlap"},
      {"data short", one("2", "0,8", four), "reach beyond the 4 bytes of data"},
      {"bool of 2", st("{" + entry("w", "BOOL", "3", "0,3") + "}", std::string("\1\0\2", 3)),
       "tensor \"w\": byte 2 of a BOOL tensor is 2; 0 and 1 are accepted"},
  };
}

}  // namespace

TEST_CASE("load_safetensors refuses malformed files with the reason",
          "[safetensors_malformed_test]") {
  const Scratch dir;
  const std::string path = dir / "x.st";
  size_t count = 0;
  for (const auto& cases : {framing_cases(), name_cases(), tensor_cases()}) {
    for (const Case& c : cases) {
      INFO(c.name);
      put(path, c.bytes);
      CHECK_THAT(load_error(path),
                 StartsWith("load_safetensors: " + path + ": ") && Contains(c.message));
      CHECK(load_error(path).size() < 600);
      ++count;
    }
  }
  CHECK(count >= 100);
}

TEST_CASE("load_safetensors refuses what is no file", "[safetensors_malformed_test]") {
  const Scratch dir;
  ::mkfifo((dir / "pipe").c_str(), 0600);
  CHECK_THAT(load_error(dir / "none"), Contains("No such file or directory"));
  CHECK_THAT(load_error(dir.path()), Contains("is a folder"));
  CHECK_THAT(load_error(dir / "pipe"), Contains("is a pipe"));
  CHECK_THAT(load_error("/dev/zero"), Contains("is a character device"));
}

TEST_CASE("load_safetensors accepts unusual files that are right", "[safetensors_malformed_test]") {
  const Scratch dir;
  const std::string path = dir / "x.st";
  const auto load = [&](const std::string& bytes) {
    put(path, bytes);
    return load_safetensors(path).tensors;
  };
  CHECK(load(st("{}")).empty());
  CHECK(load(st("{ }\t\r\n   ")).empty());
  CHECK(load(st(R"({"__metadata__":{}})")).empty());
  // Unaligned data, tensors in another order than their bytes, white space, escapes, zero sizes.
  const auto tensors = load(
      st("{ \"\\u00e9\\ud83d\\ude00\\/\" : { \"shape\" : [ 1 ] , \"data_offsets\" : [ 1 , 5 ] ,"
         "\"dtype\" : \"F32\" } ,\n" +
             entry("b", "BOOL", "", "0,1") + "," + entry("z", "F64", "0,7", "5,5") + "," +
             entry("y", "F64", "3,0", "1,1") + "}",
         std::string("\1\0\0\x80\x3F", 5)));
  REQUIRE(tensors.size() == 4);
  CHECK(tensors[0].first == "\xC3\xA9\xF0\x9F\x98\x80/");
  CHECK(tensors[0].second.item() == 1.0);
  CHECK(tensors[1].second.item() == 1.0);
  CHECK(tensors[2].second.shape() == flowgrad::Shape{0, 7});
}

TEST_CASE("load_safetensors refuses every truncation", "[safetensors_malformed_test]") {
  const Scratch dir;
  const Tensor w = Tensor::from(std::vector<float>{1, 2, 3}, {3});
  const Tensor m = Tensor::from(std::vector<bool>{true}, {});
  flowgrad::save_safetensors(dir / "x.st", {{"w", w}, {"m", m}}, {{"note", "n"}});
  for (const std::string& name : {dir / "x.st", data_file("python.safetensors")}) {
    const std::string bytes = get(name);
    for (size_t n = 0; n < bytes.size(); ++n) {
      put(dir / "cut.st", bytes.substr(0, n));
      INFO(n);
      REQUIRE(load_error(dir / "cut.st") != "no error");
    }
    put(dir / "cut.st", bytes + '\0');
    CHECK_THAT(load_error(dir / "cut.st"), Contains("belong to no tensor"));
  }
}

TEST_CASE("load_safetensors accepts only what a JSON library accepts too",
          "[safetensors_malformed_test]") {
  const Scratch dir;
  const std::string good = get(data_file("python.safetensors"));
  uint64_t length = 0;
  std::memcpy(&length, good.data(), 8);
  std::mt19937 random(11);
  const std::string alphabet = "{}[]\",:\\u0123456789eE.-+ \n\tFtn\x80\xC3\xFF";
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = good;
    for (int k = 0; k < 1 + i % 2; ++k) {
      bytes[8 + random() % length] = alphabet[random() % alphabet.size()];
    }
    put(dir / "x.st", bytes);
    if (load_error(dir / "x.st") != "no error") continue;
    ++accepted;
    const auto json = flowgrad::parse_json(bytes.substr(8, length));
    size_t found = 0;
    for (const auto& [name, tensor] : load_safetensors(dir / "x.st").tensors)
      found += json.contains(name);
    REQUIRE(found == 7);
  }
  CHECK(accepted > 500);
}

TEST_CASE("load_safetensors stays within a second and 64 MB on hostile headers",
          "[safetensors_malformed_test]") {
  const Scratch dir;
  const std::string path = dir / "x.st";
  std::string million = "{";
  std::string names = "{";
  std::string metadata = "{\"__metadata__\":{";
  for (int i = 0; i < 1'000'000; ++i) {
    million += entry(std::to_string(i), "F32", "0", "0,0") + ",";
    metadata += "\"" + std::to_string(i) + "\":\"\",";
  }
  for (int i = 0; i < 24'000; ++i) {
    names += entry(std::string(4000, 'n') + std::to_string(i), "F32", "0", "0,0") + ",";
  }
  const std::vector<Case> cases = {
      {"10^5 arrays", st("{\"w\":" + std::string(100'000, '[')), "given where '{' is expected"},
      {"10^5 arrays in a shape", st("{\"w\":{\"shape\":" + std::string(100'000, '[')),
       "integer is expected"},
      {"10^5 objects", st(repeated("{\"w\":", 100'000)), "unknown key \"w\""},
      {"10^6 tensors", st(million), "more than 65536 tensors"},
      {"10^6 metadata keys", st(metadata), "more than 16777216 bytes of names and metadata"},
      {"96 MB of names", st(names), "more than 16777216 bytes of names and metadata"},
      {"99 MB name", st("{\"" + std::string(99'000'000, 'n')), "longer than the 4096 bytes"},
      {"99 MB value", st("{\"__metadata__\":{\"k\":\"" + std::string(99'000'000, 'n')),
       "a metadata value is longer than the 16777216 bytes"},
      {"99 MB space", st("{" + std::string(99'000'000, ' ')), "header ends where '\"' is expected"},
      {"99 MB number", one(std::string(99'000'000, '9'), "0,8", ""), "a number beyond 2^64"},
      {"99 MB backslashes", st("{\"" + std::string(99'000'000, '\\')),
       "longer than the 4096 bytes"},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    put(path, c.bytes);
    const double start = cpu_seconds();
    CHECK_THAT(load_error(path), Contains(c.message));
    CHECK(cpu_seconds() - start < kSecondsAllowed);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    // A child whose address space can grow by the size of the file and 64 MB gives the same answer.
    const pid_t pid = ::fork();
    if (pid == 0) {
      std::ifstream statm("/proc/self/statm");
      rlim_t pages = 0;
      statm >> pages;
      const rlim_t limit =
          pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE)) + c.bytes.size() + (64u << 20);
      const rlimit l{limit, limit};
      const bool ok =
          ::setrlimit(RLIMIT_AS, &l) == 0 && load_error(path).find(c.message) != std::string::npos;
      ::_exit(ok ? 0 : 1);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    CHECK(status == 0);
#endif
  }
}
