#include "flowgrad/core/npy.h"

#include <limits>
#include <random>

#include "catch.hpp"
#include "core/io_support.h"

using namespace io_test;
using Catch::Matchers::StartsWith;
using flowgrad::bfloat16;
using flowgrad::DType;
using flowgrad::load_npy;
using flowgrad::save_npy;
using flowgrad::Shape;
using flowgrad::Tensor;

namespace {

/// A file of the given version with that header text and data.
std::string npy(const std::string& header, const std::string& data, int major = 1) {
  return std::string("\x93NUMPY") + static_cast<char>(major) + '\0' +
         little_endian(header.size(), major == 1 ? 2 : 4) + header + data;
}

std::string dict(const std::string& descr, const std::string& shape,
                 const char* fortran = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }\n";
}

template <class T>
std::vector<T> ramp(double scale, double shift) {
  std::vector<T> out;
  for (int i = 0; i < 24; ++i) out.push_back(static_cast<T>(i * scale + shift));
  return out;
}

}  // namespace

TEST_CASE("load_npy reads what NumPy writes", "[npy_test]") {
  const Shape shape{2, 3, 4};
  for (const char* name : {"numpy_f4.npy", "numpy_version2.npy", "numpy_version3.npy"}) {
    CHECK(same_bits(load_npy(data_file(name)), Tensor::from(ramp<float>(0.125, -1), shape)));
  }
  CHECK(same_bits(load_npy(data_file("numpy_f8_fortran.npy")),
                  Tensor::from(ramp<double>(0.125, -1), shape)));
  CHECK(same_bits(load_npy(data_file("numpy_i8.npy")), Tensor::from(ramp<int64_t>(1, -5), shape)));
  CHECK(same_bits(load_npy(data_file("numpy_i4_fortran.npy")),
                  Tensor::from(ramp<int64_t>(1, -5), shape)));
  CHECK(same_bits(load_npy(data_file("numpy_u1.npy")), Tensor::from(ramp<int64_t>(10, 0), shape)));
  std::vector<bool> thirds;
  for (int i = 0; i < 24; ++i) thirds.push_back(i % 3 == 0);
  CHECK(same_bits(load_npy(data_file("numpy_b1.npy")), Tensor::from(thirds, shape)));
  CHECK(same_bits(load_npy(data_file("numpy_scalar.npy")),
                  Tensor::from(std::vector<double>{2.5}, {})));
  CHECK(same_bits(load_npy(data_file("numpy_empty.npy")), Tensor::empty({0, 3})));
}

TEST_CASE("save_npy writes what NumPy writes, byte for byte", "[npy_test]") {
  const Scratch dir;
  for (const char* name :
       {"numpy_f4.npy", "numpy_i8.npy", "numpy_b1.npy", "numpy_scalar.npy", "numpy_empty.npy"}) {
    save_npy(dir / "x.npy", load_npy(data_file(name)));
    CHECK(get(dir / "x.npy") == get(data_file(name)));
  }
}

TEST_CASE("npy round trips keep bits, for every dtype, rank and stride", "[npy_test]") {
  const Scratch dir;
  const auto round_trip = [&](const Tensor& t) {
    save_npy(dir / "x.npy", t);
    return load_npy(dir / "x.npy");
  };
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Tensor& t :
       {Tensor::from(std::vector<float>{0.f, -0.f, inf, -inf, nan, 1e-45f}, {6}),
        Tensor::from(std::vector<double>{0.1, -1e308}, {2, 1}),
        Tensor::from(std::vector<int64_t>{INT64_MIN, INT64_MAX, 0}, {3, 1, 1}),
        Tensor::from(std::vector<bool>{true, false, true, true}, {2, 2}),
        Tensor::from(std::vector<float>{3.f}, {}), Tensor::from(std::vector<float>{3.f}, {1}),
        Tensor::from(std::vector<float>{4.f}, {1, 1, 1, 1, 1, 1, 1, 1}),
        Tensor::empty({0}, DType::int64), Tensor::empty({2, 0, 4}, DType::float64)}) {
    CHECK(same_bits(round_trip(t), t));
  }
  const Tensor t = Tensor::from(ramp<float>(1, 0), {2, 3, 4});
  const Tensor turned = t.with_layout(flowgrad::permuted("test", t.layout(), {2, 0, 1}));
  CHECK(same_bits(round_trip(turned), Tensor::from(turned.to_vector<float>(), {4, 2, 3})));
  const Tensor some = t.with_layout(flowgrad::sliced("test", t.layout(), 2, 1, 4, 2));
  CHECK(same_bits(round_trip(some), Tensor::from(some.to_vector<float>(), {2, 3, 2})));
  const Tensor row = Tensor::from(std::vector<bool>{true, false}, {1, 2});
  const Tensor wide = row.with_layout(flowgrad::expanded("test", row.layout(), {3, 2}));
  CHECK(same_bits(round_trip(wide),
                  Tensor::from(std::vector<bool>{true, false, true, false, true, false}, {3, 2})));
}

TEST_CASE("load_npy accepts other spellings of a header", "[npy_test]") {
  const Scratch dir;
  const std::string data = little_endian(5, 8) + little_endian(6, 8);
  const Tensor expected = Tensor::from(std::vector<int64_t>{5, 6}, {2});
  for (const char* header : {"{\"shape\":(2,),\"fortran_order\":True,\"descr\":\"<i8\"}",
                             "  {'descr':'<i8','fortran_order':False,'shape':( 2 , )}   \n",
                             "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }"}) {
    put(dir / "x.npy", npy(header, data));
    CHECK(same_bits(load_npy(dir / "x.npy"), expected));
  }
}

TEST_CASE("save_npy refuses what the format lacks", "[npy_test]") {
  const Scratch dir;
  const std::string message = error_of<flowgrad::DTypeError>(
      [&] { save_npy(dir / "x.npy", Tensor::empty({2}, DType::bfloat16)); });
  CHECK(message == "save_npy: " + (dir / "x.npy") +
                       ": dtype bfloat16 given; float32, float64, int64 and bool are accepted");
  CHECK_THAT(
      error_of([&] { save_npy(dir / "no/x.npy", Tensor::empty({2})); }),
      StartsWith("save_npy: " + (dir / "no/x.npy")) && Contains("No such file or directory"));
  CHECK(dir.names().empty());
}

TEST_CASE("load_npy refuses malformed files with the reason", "[npy_test]") {
  const Scratch dir;
  struct Case {
    const char* name;
    std::string bytes;
    const char* message;
  };
  const std::string eight(8, '\0');
  const std::string good = dict("<f4", "(2,)");
  const std::vector<Case> cases = {
      {"empty", "", "0 bytes long; the start of a .npy file needs 10"},
      {"one byte", "\x93", "1 bytes long"},
      {"nine bytes", npy(good, eight).substr(0, 9), "9 bytes long"},
      {"magic", "\x92" + npy(good, eight).substr(1), "not a .npy file"},
      {"other format", "PK\x03\x04" + std::string(60, 'x'), "not a .npy file"},
      {"version 0", npy(good, eight, 0), "version 0.0 given; 1.0, 2.0 and 3.0 are accepted"},
      {"version 4", npy(good, eight, 4), "version 4.0 given"},
      {"version 255", npy(good, eight, 255), "version 255.0 given"},
      {"minor version", npy(good, eight).replace(7, 1, "\1"), "version 1.1 given"},
      {"version 2 cut", npy(good, eight, 2).substr(0, 11), "the header length of this version"},
      {"header length 0", npy("", eight), "header ends where '{' is expected"},
      {"header beyond file", npy(good, eight).replace(8, 2, "\xFF\xFF"), "the header needs 65545"},
      {"header 4 GB", npy(good, eight, 2).replace(8, 4, "\xFF\xFF\xFF\xFF"),
       "header length 4294967295 given; at most 1048576"},
      {"no dictionary", npy("hello", ""), "\"h\" given where '{' is expected"},
      {"unclosed", npy("{'descr': '<f4'", ""), "header ends where '}' is expected"},
      {"unclosed string", npy("{'descr", ""), "a string has no end"},
      {"no colon", npy("{'descr' '<f4'}", ""), "given where ':' is expected"},
      {"empty dictionary", npy("{}", ""), "the key descr is missing"},
      {"no order", npy("{'descr': '<f4', 'shape': (2,)}", eight), "fortran_order is missing"},
      {"no shape", npy("{'descr': '<f4', 'fortran_order': False}", eight), "shape is missing"},
      {"twice", npy("{'descr': '<f4', 'descr': '<f4'}", eight), "descr is given twice"},
      {"extra key", npy("{'extra': 1}", eight), "unknown key \"extra\""},
      {"text after", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", eight),
       "the end of the header is expected"},
      {"NUL after", npy(good + std::string(1, '\0'), eight), "the end of the header is expected"},
      {"code", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1+1,)}", eight),
       "\"+\" given where ',' is expected"},
      {"order a number", npy(dict("<f4", "(2,)", "0"), eight), "True or False is accepted"},
      {"shape a number", npy(dict("<f4", "2"), eight), "\"2\" given where '(' is expected"},
      {"shape no tuple", npy(dict("<f4", "(2)"), eight), "\")\" given where ',' is expected"},
      {"shape a list", npy(dict("<f4", "[2]"), eight), "\"[\" given where '(' is expected"},
      {"shape of text", npy(dict("<f4", "('2',)"), eight), "given where a size is expected"},
      {"shape a float", npy(dict("<f4", "(2.0,)"), eight), "given where ',' is expected"},
      {"shape without numbers", npy(dict("<f4", "(,)"), eight), "given where a size is expected"},
      {"shape with leading zero", npy(dict("<f4", "(02,)"), eight), "a size starts with 0"},
      {"negative", npy(dict("<f4", "(-1,)"), eight), "a negative size is given"},
      {"2^63", npy(dict("<f4", "(9223372036854775808,)"), eight), "a size beyond 2^63"},
      {"10^30", npy(dict("<f4", "(1000000000000000000000000000000,)"), eight), "beyond 2^63"},
      {"product wraps", npy(dict("<f4", "(4294967296, 4294967296)"), eight),
       "more than 2^59 elements"},
      {"product wraps to 2", npy(dict("<f4", "(4611686018427387905, 2)"), eight), "2^59 elements"},
      {"bytes wrap to 8", npy(dict("<f8", "(2305843009213693953,)"), eight), "2^59 elements"},
      {"zero hides overflow", npy(dict("<f4", "(0, 4611686018427387905, 2)"), ""), "2^59 elements"},
      {"rank 9", npy(dict("<f4", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), "xxxx"), "more than 8 axes"},
      {"asks for 1 GB", npy(dict("<f4", "(268435456,)"), eight),
       "8 bytes of data, but shape (268435456,) of <f4 needs 1073741824"},
      {"data short", npy(good, eight.substr(1)), "7 bytes of data, but shape (2,) of <f4 needs 8"},
      {"data long", npy(good, eight + "x"), "9 bytes of data"},
      {"no data", npy(good, ""), "0 bytes of data"},
      {"scalar without data", npy(dict("<f4", "()"), ""), "shape () of <f4 needs 4"},
      {"data of an empty array", npy(dict("<f4", "(0,)"), "x"), "1 bytes of data"},
      {"big-endian", npy(dict(">f4", "(2,)"), eight),
       "descr: \">f4\" given, which is big-endian; <f4"},
      {"float16", npy(dict("<f2", "(4,)"), eight), "descr: \"<f2\" given"},
      {"object", npy(dict("|O", "(1,)"), eight), "descr: \"|O\" given"},
      {"empty descr", npy(dict("", "(1,)"), eight), "descr: \"\" given"},
      {"structure", npy("{'descr': [('a', '<f4')], ", eight), "a structure is given"},
      {"bool of 2", npy(dict("|b1", "(3,)"), std::string("\1\0\2", 3)),
       "byte 2 of a |b1 array is 2; 0 and 1 are accepted"},
  };
  REQUIRE(cases.size() >= 50);
  for (const Case& c : cases) {
    INFO(c.name);
    put(dir / "x.npy", c.bytes);
    CHECK_THAT(error_of([&] { load_npy(dir / "x.npy"); }),
               StartsWith("load_npy: " + (dir / "x.npy") + ": ") && Contains(c.message));
  }
  for (const char* name : {"big_endian", "f2", "structure", "text"}) {
    CHECK_THAT(error_of([&] { load_npy(data_file(std::string("refused_") + name + ".npy")); }),
               Contains(": descr: "));
  }
  CHECK_THAT(error_of([&] { load_npy(dir.path()); }), Contains("is a folder"));
  CHECK_THAT(error_of([&] { load_npy(dir / "none.npy"); }), Contains("No such file or directory"));
}

TEST_CASE("load_npy refuses every truncation and extension", "[npy_test]") {
  const Scratch dir;
  for (const char* name : {"numpy_f4.npy", "numpy_version2.npy", "numpy_i4_fortran.npy"}) {
    const std::string bytes = get(data_file(name));
    for (size_t n = 0; n < bytes.size(); ++n) {
      put(dir / "x.npy", bytes.substr(0, n));
      REQUIRE(error_of([&] { load_npy(dir / "x.npy"); }) != "no error");
    }
    put(dir / "x.npy", bytes + '\0');
    CHECK_THAT(error_of([&] { load_npy(dir / "x.npy"); }), Contains("bytes of data, but shape"));
  }
}

TEST_CASE("load_npy never does worse than IoError on damaged files", "[npy_test]") {
  const Scratch dir;
  std::mt19937 random(3);
  int refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string bytes = get(data_file("numpy_i4_fortran.npy"));
    for (int k = 0; k < 1 + i % 3; ++k)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    put(dir / "x.npy", bytes);
    refused += error_of([&] { load_npy(dir / "x.npy"); }) != "no error";
  }
  CHECK(refused > 1000);  // the others hit the numbers or the padding's white space
}
