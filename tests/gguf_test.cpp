#include "io/gguf.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "io/checkpoint.h"
#include "tests/gguf_writer.h"
#include "tests/sim/allocation_count.h"
#include "tests/support.h"

namespace spillway {
namespace {

using test::error_of;
using test::GgufFile;
using test::GgufTensor;
using test::TempDir;

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

/// Where pieces of the file end matters to no value.
TEST(Gguf, ReadsHeadersOfManyPieces) {
  GgufFile file = small_file();
  std::vector<std::string> tokens;
  for (size_t i = 0; i < 200'000; ++i) tokens.push_back(fmt::format("token {}", i * i));
  file.metadata.emplace_back("tokenizer.ggml.tokens", tokens);
  file.metadata.emplace_back("scores", std::vector<float>(400'000, 0.5F));
  file.metadata.emplace_back("long", std::string(3 << 20, 'x'));
  const std::string bytes = file.bytes();
  uint64_t most = 0;
  uint64_t all = 0;
  const GgufHeader header = read_gguf_header(
      [&](uint64_t offset, uint64_t wanted) {
        EXPECT_LE(offset + wanted, bytes.size());
        most = std::max(most, wanted);
        all += wanted;
        return bytes.substr(offset, wanted);
      },
      bytes.size(), "m.gguf");
  EXPECT_EQ(*header.metadata.texts("tokenizer.ggml.tokens"), tokens);
  EXPECT_EQ(header.metadata.numbers("scores")->size(), 400'000u);
  EXPECT_EQ(header.metadata.text("long")->size(), 3u << 20);
  EXPECT_LE(most, 3u << 20);
  EXPECT_LT(all, bytes.size() + (8u << 20));
  ASSERT_EQ(header.tensors.size(), 4u);
  EXPECT_EQ(bytes.substr(header.tensors[0].offset, 12), std::string(12, 'n'));
}

/// Whatever a header is made of, to read it takes a small multiple of its bytes.
TEST(Gguf, MemoryIsBoundedByTheHeader) {
  constexpr size_t kBytes = 8 << 20;
  const std::vector<std::pair<const char*, GgufMetadata::Value>> kinds = {
      {"empty texts", std::vector<std::string>(kBytes / 8)},
      {"short texts", std::vector<std::string>(kBytes / 11, "abc")},
      {"a text", std::string(kBytes, 'x')},
      {"numbers", std::vector<uint8_t>(kBytes)}};
  for (const auto& [name, value] : kinds) {
    GgufFile file = small_file();
    file.metadata.emplace_back("tokenizer.ggml.tokens", value);
    const std::string bytes = file.bytes();
    const uint64_t count = test::allocation_count();
    const uint64_t before = test::allocated_bytes();
    const GgufHeader header = test::read_gguf(bytes);
    EXPECT_LT(test::allocated_bytes() - before, 6 * bytes.size()) << name;
    EXPECT_LT(test::allocation_count() - count, 1000u) << name;
    EXPECT_EQ(header.metadata.values().find("tokenizer.ggml.tokens")->second.texts, value.texts);
  }
}

TEST(Gguf, AsksForNoMoreThanAPieceOfTheHeader) {
  GgufFile file = small_file();
  file.tensors.push_back({"large", {4 << 20}, 0, std::string(16 << 20, 'x')});
  const std::string bytes = file.bytes();
  uint64_t all = 0;
  read_gguf_header(
      [&](uint64_t offset, uint64_t wanted) {
        all += wanted;
        return bytes.substr(offset, wanted);
      },
      bytes.size(), "m.gguf");
  EXPECT_LE(all, 1u << 20);
}

TEST(Gguf, AlignmentIsTheFilesOwn) {
  for (const uint32_t alignment : {8u, 4096u}) {
    GgufFile file = small_file();
    file.alignment = alignment;
    file.metadata.emplace_back("general.alignment", alignment);
    const std::string bytes = file.bytes();
    for (const TensorEntry& entry : test::read_gguf(bytes).tensors) {
      EXPECT_EQ(entry.offset % alignment, 0u);
      EXPECT_EQ(bytes[entry.offset], entry.name.front());
    }
  }
}

TEST(Gguf, TheLastTensorNeedsNoPadding) {
  GgufFile file = small_file();
  const size_t padded = file.bytes().size();
  file.pad_end = false;
  EXPECT_LT(file.bytes().size(), padded);
  EXPECT_EQ(test::read_gguf(file.bytes()).tensors.size(), 4u);
}

TEST(Gguf, AFileWithoutTensorsEndsWithItsHeader) {
  GgufFile file = small_file();
  file.tensors.clear();
  EXPECT_TRUE(test::read_gguf(file.bytes()).tensors.empty());
}

TEST(Gguf, TensorsComeByOffsetInAnyOrderOfTheHeader) {
  GgufFile file;
  file.tensors = {{"b", {8}, 0, std::string(32, 'b'), 32}, {"a", {8}, 0, std::string(32, 'a'), 0}};
  const auto tensors = test::read_gguf(file.bytes()).tensors;
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[1].name, "b");
}

TEST(Gguf, EveryFormatHasItsNumberAndSize) {
  for (const FormatTraits& traits : kFormats) {
    GgufFile file;
    file.tensors = {{"a",
                     {traits.block_values, 3},
                     traits.gguf_id,
                     std::string(size_t{3} * traits.block_bytes, 'a')}};
    const TensorEntry entry = test::read_gguf(file.bytes()).tensors.at(0);
    EXPECT_EQ(entry.format, traits.format);
    EXPECT_EQ(entry.format_text, traits.name);
    EXPECT_EQ(entry.bytes, 3u * traits.block_bytes);
  }
}

TEST(Gguf, KeepsTypesItCannotComputeWith) {
  struct Known {
    uint32_t id;
    const char* name;
    uint64_t values;
    uint64_t bytes;
  };
  for (const Known& known :
       {Known{9, "Q8_1", 32, 36}, Known{15, "Q8_K", 256, 292}, Known{16, "IQ2_XXS", 256, 66},
        Known{17, "IQ2_XS", 256, 74}, Known{18, "IQ3_XXS", 256, 98}, Known{19, "IQ1_S", 256, 50},
        Known{21, "IQ3_S", 256, 110}, Known{22, "IQ2_S", 256, 82}, Known{24, "I8", 1, 1},
        Known{25, "I16", 1, 2}, Known{26, "I32", 1, 4}, Known{27, "I64", 1, 8},
        Known{28, "F64", 1, 8}, Known{29, "IQ1_M", 256, 56}, Known{34, "TQ1_0", 256, 54},
        Known{35, "TQ2_0", 256, 66}, Known{40, "NVFP4", 64, 36}, Known{41, "Q1_0", 128, 18}}) {
    GgufFile file;
    file.tensors = {{"a", {known.values, 2}, known.id, std::string(2 * known.bytes, 'a')}};
    const TensorEntry entry = test::read_gguf(file.bytes()).tensors.at(0);
    EXPECT_FALSE(entry.format);
    EXPECT_EQ(entry.format_text, known.name);
    EXPECT_EQ(entry.bytes, 2 * known.bytes);
  }
}

/// Cut off anywhere, the file names itself and says that it is not whole.
TEST(Gguf, TruncatedAnywhere) {
  GgufFile file = small_file();
  file.pad_end = false;
  const std::string whole = file.bytes();
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    const std::string message = error_of([&] { test::read_gguf(whole.substr(0, bytes)); });
    EXPECT_EQ(message.find("m.gguf: "), 0u) << bytes << ": " << message;
    EXPECT_NE(message.find("fetch it again"), std::string::npos) << bytes << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << bytes << ": " << message;
  }
}

/// A header that goes on and on is given up on before all of it is in memory.
TEST(Gguf, HeadersHaveALimit) {
  const GgufFile file{.metadata = {{"x", "y"}}, .key_count = uint64_t{50}};
  std::string bytes = file.header();
  for (int i = 0; i < 5; ++i) {
    bytes += test::packed_text(fmt::format("k{}", i)) + test::packed(GgufType::kText) +
             test::packed_text(std::string(24'000'000, 'x'));
  }
  EXPECT_NE(error_of([&] { test::read_gguf(bytes); }).find("goes on past 100000000 bytes, at key"),
            std::string::npos);
}

struct BadGguf {
  const char* name;
  std::string bytes;
  const char* expected;
};

class BadGgufs : public ::testing::TestWithParam<BadGguf> {};

TEST_P(BadGgufs, AreRefusedWithTheReason) {
  const std::string message = error_of([] { test::read_gguf(GetParam().bytes); });
  EXPECT_EQ(message.find("m.gguf: "), 0u) << message;
  EXPECT_NE(message.find(GetParam().expected), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

/// A whole file with this in place of its only tensor.
std::string with_tensor(GgufTensor tensor) {
  GgufFile file;
  file.tensors = {std::move(tensor)};
  return file.bytes();
}
std::string with_tensors(GgufTensor a, GgufTensor b) {
  GgufFile file;
  file.tensors = {std::move(a), std::move(b)};
  return file.bytes();
}
std::string with_type(uint32_t type) {
  return with_tensor({"a", {256}, type, std::string(1024, 'a')});
}
/// One key whose name, type and value are these bytes.
std::string with_key(const std::string& bytes) {
  GgufFile file;
  file.key_count = 1;
  return file.header() + bytes + std::string(64, '\0');
}
std::string with_typed(GgufType type, const std::string& value) {
  return with_key(test::packed_text("k") + test::packed(type) + value);
}
std::string with_value(const std::string& key, const GgufMetadata::Value& value) {
  GgufFile file;
  file.metadata = {{key, value}};
  return file.bytes();
}
std::string with_counts(uint64_t tensors, uint64_t keys, size_t more) {
  GgufFile file;
  file.tensor_count = tensors;
  file.key_count = keys;
  return file.header() + std::string(more, '\0');
}
std::string with_start(const std::string& magic, uint32_t version) {
  GgufFile file = small_file();
  file.magic = magic;
  file.version = version;
  return file.bytes();
}
template <typename... Parts>
std::string array_of(GgufType type, Parts... rest) {
  return with_typed(GgufType::kArray, test::packed(type) + (test::packed(rest) + ...));
}

const std::string kOneF32 = std::string(4, 'a');

INSTANTIATE_TEST_SUITE_P(
    All, BadGgufs,
    ::testing::Values(
        BadGguf{"magic", with_start("GGUX", 3), "begins with \"GGUX\", not with \"GGUF\""},
        BadGguf{"ggml", with_start("lmgg", 1), "a GGML file, from before GGUF"},
        BadGguf{"ggjt", with_start("tjgg", 3), "a GGML file, from before GGUF"},
        BadGguf{"big_endian", with_start("GGUF", 3u << 24), "big-endian"},
        BadGguf{"big_endian_magic", with_start("FUGG", 3), "big-endian"},
        BadGguf{"version_0", with_start("GGUF", 0), "version 0 of GGUF is not known"},
        BadGguf{"version_1", with_start("GGUF", 1), "version 1 of GGUF is too old"},
        BadGguf{"version_4", with_start("GGUF", 4), "version 4 of GGUF is not known"},
        BadGguf{"tensor_count", with_counts(~uint64_t{0}, 0, 90), "tensors but the file has"},
        BadGguf{"tensor_count_of_the_file", with_counts(4, 0, 90), "claims 4 tensors"},
        BadGguf{"key_count", with_counts(0, uint64_t{1} << 63, 90), "keys but the file has"},
        BadGguf{"many_keys", with_counts(0, 100'001, 2'000'000), "more than 100000 are never"},
        BadGguf{"key_without_name", with_key(test::packed_text("")), "name of key 1 of 1 is empty"},
        BadGguf{"long_key", with_key(test::packed_text(std::string(65'536, 'k'))),
                "the name of key 1 of 1 has 65536 bytes"},
        BadGguf{"key_length", with_key(test::packed(~uint64_t{0})), "bytes of text but the file"},
        BadGguf{"text_length", with_typed(GgufType::kText, test::packed(uint64_t{1} << 62)),
                "key k claims 4611686018427387904 bytes of text"},
        BadGguf{"type", with_typed(static_cast<GgufType>(13), ""), "value of type 13"},
        BadGguf{"type_of_array", array_of(static_cast<GgufType>(99), uint64_t{1}), "type 99"},
        BadGguf{"array_of_arrays", array_of(GgufType::kArray, uint64_t{1}), "array of arrays"},
        BadGguf{"array_length", array_of(GgufType::kU64, uint64_t{1} << 61), "key k claims 2305"},
        BadGguf{"texts_length", array_of(GgufType::kText, uint64_t{9}), "key k claims 9 values"},
        BadGguf{"text_in_array", array_of(GgufType::kText, uint64_t{1}, uint64_t{1000}),
                "key k claims 1000 bytes of text"},
        BadGguf{"flag", with_typed(GgufType::kBool, "\x02"), "key k has a flag of 2"},
        BadGguf{"flag_in_array", array_of(GgufType::kBool, uint64_t{2}, uint8_t{1}, uint8_t{255}),
                "key k has a flag of 255"},
        BadGguf{"key_twice", GgufFile{.metadata = {{"k", uint8_t{1}}, {"k", uint8_t{1}}}}.bytes(),
                "key k is there twice"},
        BadGguf{"alignment_0", with_value("general.alignment", uint32_t{0}),
                "key general.alignment is 0;"},
        BadGguf{"alignment_48", with_value("general.alignment", uint32_t{48}),
                "key general.alignment is 48;"},
        BadGguf{"alignment_huge", with_value("general.alignment", uint64_t{1} << 63),
                "key general.alignment is 9223372036854775808;"},
        BadGguf{"alignment_text", with_value("general.alignment", "32"),
                "key general.alignment is of type text; expected a whole number"},
        BadGguf{"alignment_negative", with_value("general.alignment", int32_t{-32}),
                "key general.alignment is -32;"},
        BadGguf{"alignment_list", with_value("general.alignment", std::vector<uint32_t>{32}),
                "key general.alignment is of type array of u32"},
        BadGguf{"tensor_without_name", with_tensor({"", {1}, 0, kOneF32}),
                "the name of tensor 1 of 1 is empty"},
        BadGguf{"tensor_twice", with_tensors({"a", {1}, 0, kOneF32}, {"a", {1}, 0, kOneF32}),
                "tensor a is there twice"},
        BadGguf{"no_dimensions", with_tensor({"a", {}, 0, kOneF32}), "tensor a has 0 dimensions"},
        BadGguf{"dimensions", with_tensor({"a", {1, 1, 1, 1, 1}, 0, kOneF32}), "has 5 dimensions"},
        BadGguf{"dimension_of_0", with_tensor({"a", {4, 0}, 0, kOneF32}), "a dimension of 0"},
        BadGguf{"overflow", with_tensor({"a", {1u << 31, 1u << 31, 16}, 0, kOneF32}), "overflows"},
        BadGguf{"overflow_of_bytes", with_tensor({"a", {~uint64_t{0} - 7}, 0, kOneF32}),
                "overflows"},
        BadGguf{"size_of_blocks", with_tensor({"a", {uint64_t{1} << 63}, 14, kOneF32}),
                "lies beyond"},
        BadGguf{"rows_of_blocks", with_tensor({"a", {48, 2}, 2, std::string(54, 'a')}),
                "rows of 48 values, no multiple of Q4_0's 32"},
        BadGguf{"rows_of_k_blocks", with_tensor({"a", {128, 2}, 12, std::string(144, 'a')}),
                "no multiple of Q4_K's 256"},
        BadGguf{"offset_unaligned", with_tensor({"a", {1}, 0, kOneF32, 8}),
                "tensor a begins at 8, no multiple of the alignment, 32"},
        BadGguf{"offset_beyond", with_tensor({"a", {1}, 0, kOneF32, 64}), "lies beyond the file"},
        BadGguf{"offset_overflows", with_tensor({"a", {1}, 0, kOneF32, ~uint64_t{31}}),
                "lies beyond the file"},
        BadGguf{"size_beyond", with_tensor({"a", {9}, 0, std::string(32, 'a')}), "lies beyond"},
        BadGguf{"overlap",
                with_tensors({"a", {16}, 0, std::string(64, 'a')}, {"b", {1}, 0, kOneF32, 32}),
                "tensor b overlaps tensor a"},
        BadGguf{"same_place", with_tensors({"a", {1}, 0, kOneF32}, {"b", {1}, 0, kOneF32, 0}),
                "tensor b overlaps tensor a"},
        BadGguf{"type_4", with_type(4), "tensor a is of type Q4_2, which was removed"},
        BadGguf{"type_5", with_type(5), "type Q4_3, which was removed"},
        BadGguf{"type_31", with_type(31), "type Q4_0_4_4, which was removed"},
        BadGguf{"type_32", with_type(32), "type Q4_0_4_8, which was removed"},
        BadGguf{"type_33", with_type(33), "type Q4_0_8_8, which was removed"},
        BadGguf{"type_36", with_type(36), "type IQ4_NL_4_4, which was removed"},
        BadGguf{"type_37", with_type(37), "type IQ4_NL_4_8, which was removed"},
        BadGguf{"type_38", with_type(38), "type IQ4_NL_8_8, which was removed"},
        BadGguf{"type_1000", with_type(1000), "tensor a is of type 1000, which is not known"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(GgufMetadata, MissingKeysAreEmpty) {
  const GgufMetadata data("m.gguf");
  EXPECT_FALSE(data.whole("k") || data.number("k") || data.flag("k") || data.text("k"));
  EXPECT_FALSE(data.wholes("k") || data.numbers("k"));
  EXPECT_EQ(data.texts("k"), nullptr);
  EXPECT_FALSE(data.has("k") || data.is_array("k"));
}

TEST(GgufMetadata, OtherKindsAreRefused) {
  GgufMetadata data("m.gguf");
  EXPECT_TRUE(data.set("whole", uint32_t{1}));
  EXPECT_FALSE(data.set("whole", uint32_t{2}));
  data.set("negative", int8_t{-1});
  data.set("huge", ~uint64_t{0});
  data.set("number", 1.0F);
  data.set("infinite", std::numeric_limits<float>::infinity());
  data.set("flag", true);
  data.set("text", "x");
  data.set("texts", std::vector<std::string>{"x"});
  data.set("huge list", std::vector<uint64_t>{1, ~uint64_t{0}});
  data.set("list", std::vector<double>{1, std::nan("")});
  const auto refused = [&](const auto& get, const char* key, const char* why) {
    const std::string message = error_of([&] { get(key); });
    EXPECT_EQ(message.find(fmt::format("m.gguf: key {} ", key)), 0u) << message;
    EXPECT_NE(message.find(why), std::string::npos) << message;
  };
  const auto whole = [&](const char* key) { data.whole(key); };
  for (const char* key : {"number", "flag", "text"}) refused(whole, key, "expected a whole number");
  refused(whole, "texts", "expected a single value");
  refused(whole, "negative", "expected 0 or more");
  const auto number = [&](const char* key) { data.number(key); };
  for (const char* key : {"flag", "text"}) refused(number, key, "expected a number");
  refused(number, "infinite", "has inf");
  EXPECT_EQ(data.number("huge"), 18446744073709551616.0);
  for (const char* key : {"whole", "number", "text"}) {
    refused([&](const char* name) { data.flag(name); }, key, "expected a flag");
  }
  for (const char* key : {"whole", "number", "flag"}) {
    refused([&](const char* name) { data.text(name); }, key, "expected a text");
  }
  const auto wholes = [&](const char* key) { data.wholes(key); };
  refused(wholes, "whole", "expected an array");
  refused(wholes, "texts", "expected whole numbers");
  refused(wholes, "list", "expected whole numbers");
  refused(wholes, "huge list", "out of range");
  const auto numbers = [&](const char* key) { data.numbers(key); };
  refused(numbers, "texts", "expected numbers");
  refused(numbers, "list", "has nan");
  const auto texts = [&](const char* key) { data.texts(key); };
  refused(texts, "text", "expected an array");
  refused(texts, "list", "expected texts");
}

TEST(GgufParts, NamesOfParts) {
  const auto name = parse_gguf_part("llama-3-00002-of-00010.gguf");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->prefix, "llama-3");
  EXPECT_EQ(name->part, 2u);
  EXPECT_EQ(name->parts, 10u);
  EXPECT_EQ(name->file_of(10), "llama-3-00010-of-00010.gguf");
  for (const char* other :
       {"", "m.gguf", "-00001-of-00002.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf",
        "m-1-of-2.gguf", "m-00001-of-00002.bin", "m-+0001-of-00002.gguf", "m-00001-by-00002.gguf",
        "m_00001-of-00002.gguf"}) {
    EXPECT_FALSE(parse_gguf_part(other)) << other;
  }
}

class GgufCheckpoint : public ::testing::Test {
 protected:
  /// A model of one tensor, of this name.
  void model(const std::string& file, const std::string& tensor = "a") {
    GgufFile content;
    content.metadata = {{"general.architecture", "llama"},
                        {"tokenizer.ggml.model", "gpt2"},
                        {"tokenizer.ggml.tokens", std::vector<std::string>{"x"}}};
    content.tensors = {{tensor, {2}, 0, std::string(8, 'x')}};
    test::write_file(dir_ / file, content.bytes());
  }
  /// Part `no` (from 0) of three, with one tensor of its number; the first has the keys.
  static GgufFile part(uint16_t no) {
    GgufFile content;
    content.metadata = {
        {"split.no", no}, {"split.count", uint16_t{3}}, {"split.tensors.count", int32_t{3}}};
    if (no == 0) content.metadata.emplace_back("general.architecture", "llama");
    content.tensors = {
        {fmt::format("t{}", no), {2}, 0, std::string(8, static_cast<char>('0' + no))}};
    return content;
  }
  static std::string part_name(int no) { return fmt::format("m-0000{}-of-00003.gguf", no + 1); }
  void write(int no, const GgufFile& content) {
    test::write_file(dir_ / part_name(no), content.bytes());
  }
  void split() {
    for (uint16_t no = 0; no < 3; ++no) write(no, part(no));
  }
  void safetensors() {
    const std::string header = R"({"s":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    test::write_file(dir_ / "model.safetensors",
                     test::packed<uint64_t>(header.size()) + header + "data");
  }
  Checkpoint open(const std::string& name = "") {
    return Checkpoint::open(name.empty() ? dir_.path() : dir_ / name, DirectChoice::kOff,
                            notices_.sink());
  }
  void refused(const std::string& name, const std::string& why) {
    const std::string message = error_of([&] { open(name); });
    EXPECT_NE(message.find(why), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  TempDir dir_;
  test::Notices notices_;
};

TEST_F(GgufCheckpoint, OpensAFile) {
  model("m.gguf");
  const Checkpoint checkpoint = open("m.gguf");
  ASSERT_NE(checkpoint.metadata(), nullptr);
  EXPECT_EQ(checkpoint.metadata()->text("general.architecture"), "llama");
  EXPECT_EQ(checkpoint.metadata()->path(), (dir_ / "m.gguf").string());
  EXPECT_EQ(checkpoint.path(), dir_ / "m.gguf");
  EXPECT_EQ(checkpoint.directory(), dir_.path());
  const TensorEntry* entry = checkpoint.find("a");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(checkpoint.files().at(entry->file).read_text(entry->offset, entry->bytes), "xxxxxxxx");
  EXPECT_EQ(checkpoint.find("b"), nullptr);
  EXPECT_TRUE(notices_.lines.empty());
}

/// What a store of models calls by its hash is a GGUF file all the same.
TEST_F(GgufCheckpoint, KnowsAFileByItsFirstBytes) {
  model("sha256-12ab");
  EXPECT_TRUE(open("sha256-12ab").has("a"));
  EXPECT_TRUE(open().has("a"));
  test::write_file(dir_ / "text.gguf", "hello, world");
  refused("text.gguf", "begins with \"hell\", not with \"GGUF\"");
  test::write_file(dir_ / "text", "hello, world");
  refused("text", "neither a folder nor a GGUF file");
  test::write_file(dir_ / "empty", "");
  refused("empty", "neither a folder nor a GGUF file");
  test::write_file(dir_ / "old.bin", "tjgg----");
  refused("old.bin", "a GGML file, from before GGUF");
}

TEST_F(GgufCheckpoint, OtherPathsAreRefused) {
  refused("none.gguf", "no such folder or file; expected the folder");
  safetensors();
  refused("model.safetensors", "name the folder that it lies in, " + dir_.path().string());
  ASSERT_EQ(mkfifo((dir_ / "pipe.gguf").c_str(), 0600), 0);
  refused("pipe.gguf", "not a regular file");
  std::filesystem::create_symlink("gone", dir_ / "link.gguf");
  refused("link.gguf", "a link that dangles");
}

TEST_F(GgufCheckpoint, OpensTheOnlyModelOfAFolder) {
  refused("", "nor a GGUF file; only safetensors and GGUF are read");
  model("m.gguf");
  test::write_file(dir_ / "README.md", "GGUF, but no model");
  test::write_file(dir_ / ".m.gguf", "of another system");
  const Checkpoint checkpoint = open();
  EXPECT_EQ(checkpoint.path(), dir_ / "m.gguf");
  model("mmproj-m.gguf");
  EXPECT_EQ(open().path(), dir_ / "m.gguf");
  model("n.gguf");
  refused("", "holds 2 models in GGUF; name one of the files: m.gguf, n.gguf");
  for (int i = 0; i < 10; ++i) model(fmt::format("z{}.gguf", i));
  refused("", "m.gguf, n.gguf, z0.gguf, z1.gguf, z2.gguf, z3.gguf, z4.gguf, z5.gguf and 4 more");
}

TEST_F(GgufCheckpoint, SaysWhatElseIsInAFolder) {
  std::filesystem::create_directory(dir_ / "Q8_0");
  model("Q8_0/m.gguf");
  refused("", "there is one in " + (dir_ / "Q8_0").string() + ": name that folder");
  test::write_file(dir_ / "pytorch_model.bin", "x");
  refused("", ".bin files are not read, only safetensors and GGUF");
}

TEST_F(GgufCheckpoint, SafetensorsGoFirstWhereTheyAreWhole) {
  safetensors();
  model("m.gguf");
  EXPECT_TRUE(open().has("a"));
  ASSERT_EQ(notices_.lines.size(), 1u);
  EXPECT_NE(notices_.lines[0].find("reading the GGUF file: there is no config.json"),
            std::string::npos);
  test::write_file(dir_ / "config.json", "{}");
  const Checkpoint checkpoint = open();
  EXPECT_TRUE(checkpoint.has("s"));
  EXPECT_EQ(checkpoint.metadata(), nullptr);
  EXPECT_EQ(checkpoint.path(), dir_.path());
  ASSERT_EQ(notices_.lines.size(), 2u);
  EXPECT_NE(notices_.lines[1].find("name a .gguf file to read that"), std::string::npos);
  EXPECT_TRUE(open("m.gguf").has("a"));
  EXPECT_EQ(notices_.lines.size(), 2u);
}

TEST_F(GgufCheckpoint, KeysOfTheTokenizerCanBeDropped) {
  model("m.gguf");
  Checkpoint checkpoint = open();
  checkpoint.drop_tokenizer_keys();
  EXPECT_FALSE(checkpoint.metadata()->has("tokenizer.ggml.tokens"));
  EXPECT_FALSE(checkpoint.metadata()->has("tokenizer.ggml.model"));
  EXPECT_TRUE(checkpoint.metadata()->has("general.architecture"));
}

TEST_F(GgufCheckpoint, WhatIsNoModelIsNamed) {
  GgufFile content = part(0);
  const auto refused_with = [&](const char* architecture, const char* type, const char* why) {
    content.metadata = {{"general.architecture", architecture}, {"general.type", type}};
    test::write_file(dir_ / "m.gguf", content.bytes());
    refused("m.gguf", why);
    refused("", why);
  };
  refused_with("clip", "model", "a projector for images or sound (mmproj), not a model");
  refused_with("clip", "mmproj", "a projector for images or sound (mmproj), not a model");
  refused_with("llama", "adapter", "not a model (its general.type is \"adapter\")");
  content.tensors.clear();
  refused_with("llama", "model", "holds no tensors, a vocabulary at most");
}

TEST_F(GgufCheckpoint, OpensASplit) {
  split();
  for (const std::string& name : {std::string(), part_name(0)}) {
    const Checkpoint checkpoint = open(name);
    EXPECT_EQ(checkpoint.files().size(), 3u);
    EXPECT_EQ(checkpoint.path(), dir_ / part_name(0));
    EXPECT_EQ(checkpoint.metadata()->text("general.architecture"), "llama");
    for (int i = 0; i < 3; ++i) {
      const TensorEntry* entry = checkpoint.find(fmt::format("t{}", i));
      ASSERT_NE(entry, nullptr);
      const DirectFile& file = checkpoint.files().at(entry->file);
      EXPECT_EQ(file.info().path, (dir_ / part_name(i)).string());
      EXPECT_EQ(file.read_text(entry->offset, 1), std::to_string(i));
    }
  }
}

TEST_F(GgufCheckpoint, TheFirstPartMayHoldNoTensors) {
  split();
  GgufFile first = part(0);
  first.tensors.clear();
  first.metadata[2].second = int32_t{2};
  write(0, first);
  for (const uint16_t no : {uint16_t{1}, uint16_t{2}}) {
    GgufFile other = part(no);
    other.metadata[2].second = int32_t{2};
    write(no, other);
  }
  const Checkpoint checkpoint = open();
  EXPECT_FALSE(checkpoint.has("t0"));
  EXPECT_TRUE(checkpoint.has("t1") && checkpoint.has("t2"));
}

TEST_F(GgufCheckpoint, AlignmentIsThePartsOwn) {
  split();
  GgufFile second = part(1);
  second.alignment = 256;
  second.metadata.emplace_back("general.alignment", uint32_t{256});
  write(1, second);
  const Checkpoint checkpoint = open();
  const TensorEntry* entry = checkpoint.find("t1");
  EXPECT_EQ(entry->offset % 256, 0u);
  EXPECT_EQ(checkpoint.files()[entry->file].read_text(entry->offset, 1), "1");
}

TEST_F(GgufCheckpoint, ASplitOfOnePartIsAFile) {
  model("m-00001-of-00001.gguf");
  EXPECT_TRUE(open("m-00001-of-00001.gguf").has("a"));
  GgufFile content = part(0);
  content.metadata[1].second = uint16_t{1};
  test::write_file(dir_ / "n.gguf", content.bytes());
  EXPECT_TRUE(open("n.gguf").has("t0"));
}

TEST_F(GgufCheckpoint, ALaterPartSaysWhichIsTheFirst) {
  split();
  refused(part_name(1),
          "part 2 of 3 of a model; name the first part, " + (dir_ / part_name(0)).string());
  std::filesystem::rename(dir_ / part_name(2), dir_ / "x.gguf");
  refused("x.gguf", "part 3 of 3 of a model; name the first part instead");
}

TEST_F(GgufCheckpoint, PartsThatAreMissingAreNamed) {
  split();
  std::filesystem::remove(dir_ / part_name(2));
  refused("", (dir_ / part_name(2)).string() + ": part 3 of 3 of the model is not there");
  std::filesystem::remove(dir_ / part_name(0));
  refused("", (dir_ / part_name(0)).string() + ": part 1 of 3 of the model is not there");
}

TEST_F(GgufCheckpoint, MissingPartsOfACacheComeWithTheCommand) {
  const auto folder = dir_ / "hub" / "models--acme--m-GGUF" / "snapshots" / "12ab" / "Q8_0";
  std::filesystem::create_directories(folder);
  test::write_file(folder / part_name(0), part(0).bytes());
  const std::string message =
      error_of([&] { Checkpoint::open(folder, DirectChoice::kOff, notices_.sink()); });
  EXPECT_NE(message.find("hf download acme/m-GGUF --revision 12ab"), std::string::npos) << message;
  EXPECT_NE(message.find("--include '*m-*-of-00003.gguf'"), std::string::npos) << message;
}

TEST_F(GgufCheckpoint, NamesAndMetadataOfPartsMustAgree) {
  split();
  std::filesystem::rename(dir_ / part_name(0), dir_ / "m.gguf");
  refused("m.gguf", "part 1 of 3, which its name does not");
  model("m-00001-of-00002.gguf");
  refused("m-00001-of-00002.gguf", "part 1 of 1, its name says part 1 of 2");
  test::write_file(dir_ / part_name(1), part(0).bytes());
  refused(part_name(1), "part 1 of 3, its name says part 2 of 3");
}

TEST_F(GgufCheckpoint, PartsMustBeOfOneModel) {
  const auto second = [&](const auto& change, const char* why) {
    split();
    GgufFile content = part(1);
    change(content);
    write(1, content);
    refused("", why);
    const std::string message = error_of([&] { open(); });
    EXPECT_EQ(message.find((dir_ / part_name(1)).string() + ": "), 0u) << message;
  };
  second([](GgufFile& file) { file.metadata.clear(); }, "it has no split.no and split.count");
  second([](GgufFile& file) { file.metadata[0].second = uint16_t{2}; }, "say part 3 of 3");
  second([](GgufFile& file) { file.metadata[1].second = uint16_t{4}; }, "say part 2 of 4");
  second([](GgufFile& file) { file.metadata[1].second = uint16_t{0}; }, "do not go together");
  second([](GgufFile& file) { file.metadata[1].second = int16_t{-1}; }, "expected 0 or more");
  second([](GgufFile& file) { file.metadata.pop_back(); }, "do not go together");
  second([](GgufFile& file) { file.metadata[2].second = int32_t{9}; }, "its model has 9 tensors");
  second([](GgufFile& file) { file.metadata.emplace_back("general.architecture", "qwen2"); },
         "its architecture is \"qwen2\"");
  second([](GgufFile& file) { file.tensors[0].name = "t0"; }, "tensor t0 is also in");
  second([](GgufFile& file) { file.magic = "x"; }, "begins with \"x\\x03");
}

TEST_F(GgufCheckpoint, PartsMustHoldAllTensors) {
  split();
  GgufFile last = part(2);
  last.tensors.clear();
  write(2, last);
  refused("", "the model has 3 tensors but its 3 parts hold 2");
}

}  // namespace
}  // namespace spillway
