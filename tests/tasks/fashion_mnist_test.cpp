#include "flowgrad/tasks/fashion_mnist.h"

#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "flowgrad/core/error.h"
#include "tests/catch.hpp"
#include "tests/core/io_support.h"

using namespace flowgrad;
using io_test::contains;
using io_test::error_of;
namespace fs = std::filesystem;

namespace {

/// An empty folder that goes away again.
struct Folder {
  fs::path path;
  explicit Folder(const std::string& name)
      : path(fs::temp_directory_path() / ("flowgrad_" + name)) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

using Bytes = std::vector<uint8_t>;

Bytes idx(std::vector<uint32_t> sizes, const Bytes& values, uint32_t magic = 0) {
  Bytes out;
  const auto word = [&](uint32_t v) {
    for (int shift : {24, 16, 8, 0}) out.push_back(static_cast<uint8_t>(v >> shift));
  };
  word(magic != 0 ? magic : 0x800u + static_cast<uint32_t>(sizes.size()));
  for (uint32_t size : sizes) word(size);
  out.insert(out.end(), values.begin(), values.end());
  return out;
}

void put(const std::string& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

Bytes gzip(const Bytes& bytes) {
  Bytes out(bytes.size() + 1000);
  z_stream z{};
  REQUIRE(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  z.next_in = const_cast<Bytef*>(bytes.data());
  z.avail_in = static_cast<uInt>(bytes.size());
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&z, Z_FINISH) == Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

Bytes counting_bytes(size_t n) {
  Bytes out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(i * 7 + i / 256);
  return out;
}

/// A small well-formed set of n images.
void put_set(const Folder& folder, const std::string& prefix, uint32_t n) {
  Bytes labels;
  for (uint32_t i = 0; i < n; ++i) labels.push_back(static_cast<uint8_t>(i % 10));
  put(folder / (prefix + "-images-idx3-ubyte.gz"), gzip(idx({n, 28, 28}, counting_bytes(n * 784))));
  put(folder / (prefix + "-labels-idx1-ubyte.gz"), gzip(idx({n}, labels)));
}

}  // namespace

TEST_CASE("idx files are read, compressed or not", "[fashion_mnist_test]") {
  const Folder folder("idx_good");
  for (const auto& sizes :
       std::vector<std::vector<uint32_t>>{{3, 28, 28}, {5, 1, 2}, {0, 28, 28}}) {
    const Bytes values = counting_bytes(sizes[0] * sizes[1] * sizes[2]);
    const Bytes file = idx(sizes, values);
    put(folder / "plain", file);
    put(folder / "packed.gz", gzip(file));
    for (const char* name : {"plain", "packed.gz"}) {
      const IdxArray array = read_idx(folder / name, 3);
      CHECK(array.sizes == std::vector<int64_t>(sizes.begin(), sizes.end()));
      CHECK(array.values == values);
    }
  }
  // Larger than one chunk, and hardly compressible.
  const Bytes values = counting_bytes(3 * 1024 * 1024 + 5);
  put(folder / "large.gz", gzip(idx({static_cast<uint32_t>(values.size())}, values)));
  CHECK(read_idx(folder / "large.gz", 1).values == values);
}

TEST_CASE("malformed idx files say what is wrong with them", "[fashion_mnist_test]") {
  const Folder folder("idx_bad");
  const Bytes good = idx({2, 4, 5}, counting_bytes(40));
  Bytes long_one = good;
  long_one.push_back(1);
  Bytes packed = gzip(good);
  Bytes wrong_sum = packed;
  wrong_sum[wrong_sum.size() - 6] ^= 1;
  Bytes wrong_length = packed;
  wrong_length[wrong_length.size() - 1] ^= 1;
  Bytes wrong_inside = packed;
  wrong_inside[14] ^= 0xff;
  Bytes trailing = packed;
  trailing.push_back(0);
  const auto cut = [](Bytes bytes, size_t n) {
    bytes.resize(n);
    return bytes;
  };
  struct Case {
    std::string name;
    Bytes bytes;
    std::string part;
  };
  const std::vector<Case> cases{
      {"empty", {}, "0 bytes found; expected is magic number 0x00000803"},
      {"text",
       {'<', 'h', 't', 'm', 'l', '>'},
       "magic number 0x3c68746d found; expected is magic number 0x00000803"},
      {"labels", idx({3}, {1, 2, 3}), "magic number 0x00000801 found"},
      {"floats", idx({2, 4, 5}, counting_bytes(160), 0xd03), "magic number 0x00000d03 found"},
      {"header", cut(good, 13), "the header ends after 13 bytes; 16 are expected"},
      {"short", cut(good, good.size() - 1),
       "39 bytes of values found; the sizes 2 x 4 x 5 ask for 40"},
      {"long", long_one, "there are bytes after the 56 that its sizes ask for"},
      {"huge", idx({0xffffffffu, 0xffffffffu, 0xffffffffu}, {}),
       "at most 4294967296 bytes are accepted"},
      {"lying", idx({60000, 28, 28}, counting_bytes(100)),
       "100 bytes of values found; the sizes 60000 x 28 x 28 ask for 47040000"},
      {"gz_short", gzip(cut(good, 30)), "14 bytes of values found"},
      {"gz_long", gzip(long_one), "there are bytes after the 56"},
      {"gz_cut", cut(packed, packed.size() - 10), "truncated"},
      {"gz_no_trailer", cut(packed, packed.size() - 8), "truncated"},
      {"gz_header_only", cut(packed, 10),
       "breaks off after 0 bytes of content; the file is truncated"},
      {"gz_two_bytes", cut(packed, 2), "truncated"},
      {"gz_sum", wrong_sum, "corrupt after 56 bytes of content (incorrect data check)"},
      {"gz_length", wrong_length, "corrupt after 56 bytes of content (incorrect length check)"},
      {"gz_inside", wrong_inside, "idx"},
      {"gz_trailing", trailing, "1 bytes follow the end of the compressed data"}};
  for (const Case& c : cases) {
    const std::string path = folder / c.name;
    put(path, c.bytes);
    const std::string error = error_of([&] { read_idx(path, 3); });
    CAPTURE(c.name, error);
    CHECK(error.starts_with("idx: " + path + ": "));
    CHECK(contains(error, c.part));
  }
  CHECK(contains(error_of([&] { read_idx(folder / "absent", 3); }), folder / "absent"));
  CHECK(contains(error_of([&] { read_idx(folder.path.string(), 3); }), folder.path.string()));
  CHECK_THROWS_AS(read_idx(folder / "empty", 5), ValueError);
}

TEST_CASE("no flipped bit of a compressed file changes the values", "[fashion_mnist_test]") {
  const Folder folder("idx_flip");
  const Bytes values = counting_bytes(40);
  const Bytes packed = gzip(idx({2, 4, 5}, values));
  size_t unnoticed = 0;
  for (size_t bit = 0; bit < 8 * packed.size(); ++bit) {
    Bytes flipped = packed;
    flipped[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    put(folder / "flipped", flipped);
    CAPTURE(bit);
    try {
      const Bytes found = read_idx(folder / "flipped", 3).values;
      CHECK(found == values);
      ++unnoticed;
    } catch (const IoError&) {
    }
  }
  // Only bits without meaning: flags, time and system in the header, padding before the checksum.
  CHECK(unnoticed <= 7 * 8 + 7);
}

TEST_CASE("a folder of four files loads", "[fashion_mnist_test]") {
  const Folder folder("fashion_good");
  put_set(folder, "train", 12);
  put_set(folder, "t10k", 3);
  const FashionMnist data = FashionMnist::load(folder.path.string());
  CHECK(data.train.size() == 12);
  CHECK(data.test.size() == 3);
  CHECK(data.train.label(11) == 1);
  const Bytes pixels = counting_bytes(12 * 784);
  CHECK(
      std::equal(data.train.image(5).begin(), data.train.image(5).end(), pixels.begin() + 5 * 784));
}

TEST_CASE("a folder that is not the data says how to get it", "[fashion_mnist_test]") {
  const Folder folder("fashion_bad");
  const auto error = [&] { return error_of([&] { FashionMnist::load(folder.path.string()); }); };
  const auto check = [&](const std::string& file, const std::string& part) {
    const std::string message = error();
    CAPTURE(message);
    CHECK(message.starts_with("fashion_mnist: "));
    CHECK(contains(message, folder / file));
    CHECK(contains(message, part));
    CHECK(contains(message, "apt-get install dataset-fashion-mnist"));
  };
  check("train-images-idx3-ubyte.gz", "no such file");
  put_set(folder, "train", 4);
  check("t10k-images-idx3-ubyte.gz", "no such file");
  put_set(folder, "t10k", 4);
  CHECK(error() == "no error");
  put(folder / "train-labels-idx1-ubyte.gz", gzip(idx({3}, {1, 2, 3})));
  check("train-labels-idx1-ubyte.gz", "3 labels found; expected are 4");
  put(folder / "train-labels-idx1-ubyte.gz", gzip(idx({4}, {1, 2, 3, 10})));
  check("train-labels-idx1-ubyte.gz", "label 3 is 10; expected is 0 to 9");
  put_set(folder, "train", 0);
  check("train-images-idx3-ubyte.gz", "0 images found; expected is at least one");
  put_set(folder, "train", 4);
  put(folder / "t10k-images-idx3-ubyte.gz", gzip(idx({4, 32, 32}, counting_bytes(4096))));
  check("t10k-images-idx3-ubyte.gz", "images of 32 x 32 pixels found; expected are 28 x 28");
  put(folder / "t10k-images-idx3-ubyte.gz", {1, 2, 3});
  check("t10k-images-idx3-ubyte.gz", "3 bytes found");
  fs::remove(folder / "t10k-images-idx3-ubyte.gz");
  put(folder / "t10k-images-idx3-ubyte", idx({4, 28, 28}, counting_bytes(4 * 784)));
  CHECK(error() == "no error");  // the plain file serves as well
  fs::create_symlink("t10k-labels-idx1-ubyte.gz", folder / "again");
  fs::remove(folder / "t10k-labels-idx1-ubyte.gz");
  fs::rename(folder / "again", folder / "t10k-labels-idx1-ubyte.gz");
  check("t10k-labels-idx1-ubyte.gz", "Too many levels of symbolic links");
}

TEST_CASE("batches hold scaled pixels and their classes", "[fashion_mnist_test]") {
  const Bytes pixels = counting_bytes(7 * 784);
  const ImageSet set(pixels, {0, 1, 2, 3, 4, 5, 6});
  const std::vector<int64_t> indices{6, 0, 6};
  const Tensor images = set.images(indices);
  CHECK(images.shape() == Shape{3, 784});
  CHECK(images.dtype() == DType::float32);
  const auto values = images.to_vector<float>();
  for (size_t k = 0; k < 784; ++k) {
    CHECK(values[k] == static_cast<float>(pixels[6 * 784 + k]) / 127.5f - 1.0f);
    CHECK(values[784 + k] == static_cast<float>(pixels[k]) / 127.5f - 1.0f);
    CHECK(values[2 * 784 + k] == values[k]);
  }
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  CHECK(*low == -1.0f);
  CHECK(*high == 1.0f);
  CHECK(set.labels(indices).to_vector<int64_t>() == indices);
  CHECK_THROWS_AS(set.images(std::vector<int64_t>{7}), ValueError);
  CHECK_THROWS_AS(set.labels(std::vector<int64_t>{-1}), ValueError);
  CHECK_THROWS_AS(ImageSet(Bytes(783), {1}), ShapeError);
}

TEST_CASE("a batcher goes through the set and resumes", "[fashion_mnist_test]") {
  Bytes pixels;
  Bytes labels;
  for (uint8_t i = 0; i < 10; ++i) {
    pixels.insert(pixels.end(), 784, i);
    labels.push_back(i);
  }
  const ImageSet set(pixels, labels);
  Batcher batcher(set, 4, 1);
  batcher.next();
  const SamplerState state = batcher.sampler().state();
  const ImageBatch batch = batcher.next();
  CHECK(batch.images.shape() == Shape{4, 784});
  const auto classes = batch.labels.to_vector<int64_t>();
  for (int64_t i = 0; i < 4; ++i) {  // images and classes belong together
    CHECK(batch.images.at({i, 100}) ==
          Catch::Approx(static_cast<double>(classes[static_cast<size_t>(i)]) / 127.5 - 1.0)
              .margin(1e-6));
  }
  Batcher resumed(set, 4, 1);
  resumed.sampler().set_state(state);
  CHECK(resumed.next().labels.to_vector<int64_t>() == classes);
}

TEST_CASE("the installed data is Fashion-MNIST", "[fashion_mnist_test]") {
  if (!fs::exists(FashionMnist::kDefaultFolder)) {
    WARN("dataset-fashion-mnist is not installed; only made-up files were read");
    return;
  }
  const FashionMnist data = FashionMnist::load();
  CHECK(data.train.size() == 60000);
  CHECK(data.test.size() == 10000);
  std::array<int, 10> counts{};
  double sum = 0.0;
  for (int64_t i = 0; i < data.train.size(); ++i) {
    ++counts[static_cast<size_t>(data.train.label(i))];
    for (uint8_t v : data.train.image(i)) sum += v;
  }
  for (int count : counts) CHECK(count == 6000);
  CHECK(sum / (60000.0 * 784.0 * 255.0) == Catch::Approx(0.2860).margin(1e-4));  // the known mean
  CHECK(data.train.label(0) == 9);
  CHECK(FashionMnist::class_names()[9] == "Ankle boot");
}
