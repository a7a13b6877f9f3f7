#include "flowgrad/core/npz.h"

#include "flowgrad/core/error.h"
#include "tests/catch.hpp"
#include "tests/core/io_support.h"

using namespace flowgrad;
using io_test::contains;

namespace {

const std::string kArchive = FLOWGRAD_TEST_DATA "/core/data/arrays.npz";

std::string npz_error(const std::string& bytes) {
  const io_test::Scratch folder;
  const std::string path = folder / "x.npz";
  io_test::put(path, bytes);
  return io_test::error_of([&] { load_npz(path); });
}

/// The archive with `to` written over the first `from`.
std::string replaced(std::string bytes, const std::string& from, const std::string& to) {
  const size_t at = bytes.find(from);
  REQUIRE(at != std::string::npos);
  return bytes.replace(at, to.size(), to);
}

}  // namespace

TEST_CASE("members stored and deflated by Python are read in order", "[npz_test]") {
  const NamedTensors arrays = load_npz(kArchive);
  REQUIRE(arrays.size() == 3);
  CHECK(arrays[0].first == "stored");
  CHECK(arrays[0].second.dtype() == DType::float32);
  CHECK(arrays[0].second.shape() == Shape{2, 3});
  CHECK(arrays[0].second.to_vector<double>() == std::vector<double>{0, 1, 2, 3, 4, 5});
  CHECK(arrays[1].first == "deflated");
  REQUIRE(arrays[1].second.shape() == Shape{1000});
  const auto values = arrays[1].second.to_vector<int64_t>();
  for (int64_t i = 0; i < 1000; ++i) REQUIRE(values[static_cast<size_t>(i)] == i / 10);
  CHECK(arrays[2].first == "empty");
  CHECK(arrays[2].second.shape() == Shape{0, 4});
  CHECK(arrays[2].second.dtype() == DType::float64);
}

TEST_CASE("an archive that ends early is refused at every length", "[npz_test]") {
  const std::string bytes = io_test::get(kArchive);
  for (size_t n = 0; n < bytes.size(); ++n) {
    INFO("the first " << n << " bytes");
    REQUIRE(contains(npz_error(bytes.substr(0, n)), "load_npz: "));
  }
}

TEST_CASE("no changed byte makes a wrong array", "[npz_test]") {
  const std::string bytes = io_test::get(kArchive);
  const NamedTensors wanted = load_npz(kArchive);
  const io_test::Scratch folder;
  const std::string path = folder / "x.npz";
  int refused = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ 0x15);
    io_test::put(path, changed);
    NamedTensors arrays;
    try {
      arrays = load_npz(path);
    } catch (const IoError&) {
      ++refused;
      continue;
    }
    // What is left are times, versions and names, which hold no numbers.
    INFO("byte " << at);
    REQUIRE(arrays.size() <= wanted.size());
    for (size_t i = 0; i < arrays.size(); ++i) {
      REQUIRE(arrays[i].second.to_vector<double>() == wanted[i].second.to_vector<double>());
    }
  }
  CHECK(refused > static_cast<int>(bytes.size()) / 3);
}

TEST_CASE("what the archive holds is checked", "[npz_test]") {
  const std::string bytes = io_test::get(kArchive);
  const std::string entry = "PK\x01\x02";
  const size_t first = bytes.find(entry);
  const auto changed = [&](size_t offset, char value) {
    std::string out = bytes;
    out[first + offset] = value;
    return npz_error(out);
  };
  CHECK(contains(npz_error("no archive"), "not a .npz file"));
  CHECK(contains(changed(8, 1), "member \"stored.npy\": it is encrypted"));
  CHECK(contains(changed(10, 12), "compression method 12; 0 (stored) and 8 (deflate)"));
  CHECK(contains(changed(16, 0x55), "member \"stored.npy\": its checksum differs"));
  CHECK(contains(changed(46 + 7, 't'), "member \"stored.tpy\": not a .npy file"));
  const std::string ends = "PK\x05\x06";
  CHECK(contains(npz_error(replaced(bytes, ends + std::string(2, '\0'), ends + "\x01")),
                 "a split or ZIP64 archive"));
}

TEST_CASE("a member that is there twice, or shares bytes with another, is refused", "[npz_test]") {
  const std::string bytes = io_test::get(kArchive);
  const size_t first = bytes.find("PK\x01\x02"), end = bytes.find("PK\x05\x06");
  const size_t second = bytes.find("PK\x01\x02", first + 4);
  // The first directory entry once more, at the end and under `name`.
  const auto again = [&](const std::string& name) {
    std::string entry = bytes.substr(first, second - first);
    entry.replace(46, name.size(), name);
    std::string out = bytes;
    out.insert(end, entry);
    const size_t record = end + entry.size();
    out[record + 8] = out[record + 10] = 4;
    return npz_error(out);
  };
  CHECK(contains(again("stored.npy"), "member \"stored.npy\": it is there twice"));
  CHECK(contains(again("shared.npy"), "member \"shared.npy\": it shares bytes with another"));
}
