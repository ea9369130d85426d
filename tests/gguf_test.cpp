#include "io/gguf.h"

#include <fmt/format.h>

#include "core/error.h"
#include "io/checkpoint.h"
#include "tests/gguf_writer.h"
#include "tests/support.h"

namespace spillway {
namespace {

using test::error_of;
using test::GgufFile;
using test::GgufTensor;

/// One of each kind of value, and tensors of plain numbers and of blocks.
GgufFile small_file() {
  GgufFile file;
  file.metadata = {{"general.architecture", "llama"},
                   {"u8", uint8_t{8}},
                   {"i8", int8_t{-8}},
                   {"u16", uint16_t{16}},
                   {"i16", int16_t{-16}},
                   {"u32", uint32_t{32}},
                   {"i32", int32_t{-32}},
                   {"u64", ~uint64_t{0}},
                   {"i64", int64_t{-64}},
                   {"f32", 0.5F},
                   {"f64", 0.25},
                   {"yes", true},
                   {"texts", std::vector<std::string>{"a", "", "c\xff"}},
                   {"wholes", std::vector<int32_t>{1, -2, 3}},
                   {"bytes", std::vector<uint8_t>{0, 255}},
                   {"numbers", std::vector<float>{0.5F, -1}}};
  file.tensors = {{"norm", {3}, 0, std::string(12, 'n')},
                  {"matrix", {4, 2}, 30, std::string(16, 'm')},
                  {"blocks", {64, 3, 2}, 2, std::string(2 * 3 * 36, 'b')},
                  {"row", {256, 1, 1, 1}, 12, std::string(144, 'r')}};
  return file;
}

TEST(Gguf, ReadsValuesOfEveryType) {
  const GgufMetadata data = test::read_gguf(small_file().bytes()).metadata;
  EXPECT_EQ(data.path(), "m.gguf");
  EXPECT_EQ(data.text("general.architecture"), "llama");
  EXPECT_EQ(data.whole("u8"), 8u);
  EXPECT_EQ(data.number("i8"), -8);
  EXPECT_EQ(data.whole("u16"), 16u);
  EXPECT_EQ(data.number("i16"), -16);
  EXPECT_EQ(data.whole("u32"), 32u);
  EXPECT_EQ(data.number("i32"), -32);
  EXPECT_EQ(data.whole("u64"), ~uint64_t{0});
  EXPECT_EQ(data.number("i64"), -64);
  EXPECT_EQ(data.number("f32"), 0.5);
  EXPECT_EQ(data.number("f64"), 0.25);
  EXPECT_EQ(data.flag("yes"), true);
  EXPECT_EQ(*data.texts("texts"), (std::vector<std::string>{"a", "", "c\xff"}));
  EXPECT_EQ(data.wholes("wholes"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(data.wholes("bytes"), (std::vector<int64_t>{0, 255}));
  EXPECT_EQ(data.numbers("numbers"), (std::vector<double>{0.5, -1}));
  EXPECT_EQ(data.numbers("wholes"), (std::vector<double>{1, -2, 3}));
  EXPECT_TRUE(data.has("u8") && data.is_array("texts") && !data.is_array("u8"));
}

TEST(Gguf, ReadsTensors) {
  for (const uint32_t version : {2u, 3u}) {
    GgufFile file = small_file();
    file.version = version;
    const std::string bytes = file.bytes();
    const auto tensors = test::read_gguf(bytes).tensors;
    ASSERT_EQ(tensors.size(), 4u);
    EXPECT_EQ(tensors[0].name, "norm");
    EXPECT_EQ(tensors[0].shape, std::vector<uint64_t>{3});
    EXPECT_EQ(tensors[1].shape, (std::vector<uint64_t>{2, 4}));
    EXPECT_EQ(tensors[1].format, WeightFormat::kBF16);
    EXPECT_EQ(tensors[2].shape, (std::vector<uint64_t>{2, 3, 64}));
    EXPECT_EQ(tensors[2].format, WeightFormat::kQ4_0);
    EXPECT_EQ(tensors[2].format_text, "Q4_0");
    EXPECT_EQ(tensors[3].shape, std::vector<uint64_t>{256});
    for (size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(bytes.substr(tensors[i].offset, tensors[i].bytes), file.tensors[i].data) << i;
      EXPECT_EQ(tensors[i].offset % 32, 0u);
    }
  }
}

}  // namespace
}  // namespace spillway
