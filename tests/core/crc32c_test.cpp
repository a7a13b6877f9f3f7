#include "flowgrad/core/crc32c.h"

#include <random>
#include <string_view>
#include <vector>

#include "catch.hpp"

using flowgrad::crc32c;
using flowgrad::crc32c_portable;

TEST_CASE("crc32c gives the published values", "[crc32c_test]") {
  // "123456789": the check value of the catalogue of CRC algorithms; the rest: RFC 3720 B.4.
  std::vector<std::byte> up;
  std::vector<std::byte> down;
  for (int i = 0; i < 32; ++i) {
    up.push_back(static_cast<std::byte>(i));
    down.push_back(static_cast<std::byte>(31 - i));
  }
  for (const auto crc : {&crc32c, &crc32c_portable}) {
    CHECK(crc(std::as_bytes(std::span(std::string_view("123456789"))), 0) == 0xE3069283u);
    CHECK(crc({}, 0) == 0u);
    CHECK(crc(std::vector<std::byte>(32, std::byte{0x00}), 0) == 0x8A9136AAu);
    CHECK(crc(std::vector<std::byte>(32, std::byte{0xFF}), 0) == 0x62A8AB43u);
    CHECK(crc(up, 0) == 0x46DD794Eu);
    CHECK(crc(down, 0) == 0x113FDB5Cu);
  }
}

TEST_CASE("crc32c: instruction, tables and pieces agree at every length and alignment",
          "[crc32c_test]") {
  std::mt19937 random(7);
  std::vector<std::byte> bytes(300);
  for (auto& b : bytes) b = static_cast<std::byte>(random() & 0xFF);
  const std::span<const std::byte> all(bytes);
  for (size_t from = 0; from < 9; ++from) {
    for (size_t n = 0; n + from <= 80; ++n) {
      const auto part = all.subspan(from, n);
      REQUIRE(crc32c(part) == crc32c_portable(part));
    }
  }
  for (size_t cut = 0; cut <= all.size(); cut += 7) {
    REQUIRE(crc32c(all.subspan(cut), crc32c(all.first(cut))) == crc32c(all));
    REQUIRE(crc32c_portable(all.subspan(cut), crc32c(all.first(cut))) == crc32c(all));
  }
}
