#include "io/gguf_writer.h"

#include <gtest/gtest.h>

#include <cstring>

#include "io/gguf_files.h"

namespace spillway {
namespace {

GgufHeader read_back(const GgufLayout& layout) {
  std::string file = layout.header;
  file.resize(layout.file_bytes);
  const GgufBytes read = [&](uint64_t offset, uint64_t bytes) {
    return file.substr(offset, bytes);
  };
  return read_gguf_header(read, file.size(), "m.gguf");
}

TEST(GgufWriter, EveryKindOfValueComesBack) {
  GgufMetadata metadata;
  metadata.set("u8", uint8_t{255});
  metadata.set("i8", int8_t{-128});
  metadata.set("u16", uint16_t{65535});
  metadata.set("i16", int16_t{-32768});
  metadata.set("u32", uint32_t{4294967295});
  metadata.set("i32", int32_t{-2147483647});
  metadata.set("u64", uint64_t{1} << 62);
  metadata.set("i64", int64_t{-5});
  metadata.set("f32", 1e-5f);
  metadata.set("f64", 0.1);
  metadata.set("flag", true);
  metadata.set("text", std::string("a\0b", 3));
  metadata.set("texts", std::vector<std::string>{"", "\u0120w", "c"});
  metadata.set("none", std::vector<std::string>{});
  metadata.set("i32s", std::vector<int32_t>{1, -1, 3});
  metadata.set("f32s", std::vector<float>{0.5f, -2});
  metadata.set("u8s", std::vector<uint8_t>{});
  const GgufMetadata back = read_back(lay_out_gguf(metadata, {})).metadata;
  EXPECT_EQ(back.values().size(), metadata.values().size());
  for (const auto& [key, value] : metadata.values()) {
    const auto found = back.values().find(key);
    ASSERT_NE(found, back.values().end()) << key;
    EXPECT_EQ(found->second.type, value.type) << key;
    EXPECT_EQ(found->second.array, value.array) << key;
    EXPECT_EQ(found->second.bytes, value.bytes) << key;
    EXPECT_EQ(found->second.texts, value.texts) << key;
  }
}

TEST(GgufWriter, EveryFormatHasItsPlace) {
  for (const uint32_t alignment : {0u, 32u, 4096u}) {
    GgufMetadata metadata;
    if (alignment > 0) metadata.set("general.alignment", alignment);
    std::vector<GgufTensorSpec> tensors;
    for (const FormatTraits& traits : kFormats) {
      tensors.push_back({"t." + std::string(traits.name), {512, 3}, traits.format});
    }
    tensors.push_back({"vector", {5}, WeightFormat::kF32});
    const GgufLayout layout = lay_out_gguf(metadata, tensors);
    const std::vector<TensorEntry> entries = read_back(layout).tensors;
    ASSERT_EQ(entries.size(), tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {  // both are by offset
      EXPECT_EQ(entries[i].name, tensors[i].name);
      EXPECT_EQ(entries[i].format, tensors[i].format);
      EXPECT_EQ(entries[i].offset, layout.offsets[i]);
      EXPECT_EQ(entries[i].offset % std::max(alignment, 32u), 0u);
      EXPECT_EQ(entries[i].bytes, tensors[i].bytes());
    }
    EXPECT_EQ(entries[0].shape, (std::vector<uint64_t>{3, 512}));
    EXPECT_EQ(entries.back().shape, (std::vector<uint64_t>{5}));
    EXPECT_EQ(layout.file_bytes % std::max(alignment, 32u), 0u);
  }
}

TEST(GgufWriter, PartsAreNumberedFromOne) {
  EXPECT_EQ(gguf_part_name("m.gguf", 0, 1), "m.gguf");
  EXPECT_EQ(gguf_part_name("m.gguf", 0, 3), "m-00001-of-00003.gguf");
  EXPECT_EQ(gguf_part_name("a.b.gguf", 11, 12), "a.b-00012-of-00012.gguf");
}

}  // namespace
}  // namespace spillway
