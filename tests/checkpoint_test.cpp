#include "io/checkpoint.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstring>

#include "core/error.h"
#include "io/json_strict.h"
#include "tests/sim/denied_calls.h"
#include "tests/support.h"

namespace spillway {
namespace {

using test::error_of;
using test::Notices;
using test::TempDir;

std::string file_of(const std::string& header, size_t payload_bytes) {
  std::string text(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(text.data(), &length, 8);
  return text + header + std::string(payload_bytes, 'x');
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   uint64_t begin, uint64_t end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype,
                     shape, begin, end);
}

std::string header_error(const std::string& header, size_t payload_bytes) {
  return error_of([&] {
    parse_safetensors_header(header, 8 + header.size() + payload_bytes, "m.safetensors");
  });
}

TEST(Safetensors, ReadsAHeader) {
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," +
                             tensor("b", "BF16", "[2,3]", 4, 16) + "," +
                             tensor("a", "F32", "[]", 0, 4) + "}";
  const auto entries = parse_safetensors_header(header, 8 + header.size() + 16, "m");
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[1].offset, 8 + header.size() + 4);
  EXPECT_EQ(entries[1].bytes, 12u);
  EXPECT_EQ(entries[1].format, WeightFormat::kBF16);
  EXPECT_EQ(entries[1].shape, (std::vector<uint64_t>{2, 3}));
}

/// A header length that is off by two leaves JSON whole where blanks pad it, and moves every
/// weight.
TEST(Safetensors, NoByteIsLeftOver) {
  const std::string header = "{" + tensor("a", "BF16", "[2]", 0, 4) + "}    ";
  EXPECT_NE(header_error(header.substr(0, header.size() - 2), 6).find("its tensors end at"),
            std::string::npos);
  EXPECT_NE(header_error("{}", 1).find("its tensors end at"), std::string::npos);
}

TEST(Safetensors, KeepsTypesItCannotComputeWith) {
  const std::string header = "{" + tensor("ids", "I64", "[2]", 0, 16) + "}";
  const auto entries = parse_safetensors_header(header, 8 + header.size() + 16, "m");
  EXPECT_FALSE(entries[0].format);
  EXPECT_EQ(entries[0].format_text, "I64");
}

/// As many as the largest header may hold, nearly; a parser that is quadratic in them takes an
/// hour.
TEST(Safetensors, ReadsManyTensorsInLinearTime) {
  constexpr uint64_t kTensors = 250'000;
  std::string header = "{";
  for (uint64_t i = 0; i < kTensors; ++i) {
    if (i > 0) header += ",";
    header += tensor(fmt::format("t{}", i), "F32", "[1]", 4 * i, 4 * i + 4);
  }
  header += "}";
  ASSERT_LT(header.size(), kMaxHeaderBytes);
  const auto entries = parse_safetensors_header(header, 8 + header.size() + 4 * kTensors, "m");
  ASSERT_EQ(entries.size(), kTensors);
  EXPECT_EQ(entries.back().name, "t249999");
}

struct BadHeader {
  const char* name;
  std::string header;
  size_t payload;
  const char* expected;
};

class BadHeaders : public ::testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaders, AreRefusedWithTheReason) {
  const std::string message = header_error(GetParam().header, GetParam().payload);
  EXPECT_NE(message.find(GetParam().expected), std::string::npos) << message;
  EXPECT_NE(message.find("m.safetensors"), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadHeaders,
    ::testing::Values(
        BadHeader{"not_json", "{", 0, "not valid JSON"},
        BadHeader{"not_object", "[]", 0, "not a JSON object"},
        BadHeader{
            "duplicate",
            "{" + tensor("a", "F32", "[1]", 0, 4) + "," + tensor("a", "F32", "[1]", 4, 8) + "}", 8,
            "twice"},
        BadHeader{
            "overlap",
            "{" + tensor("a", "F32", "[2]", 0, 8) + "," + tensor("b", "F32", "[1]", 4, 8) + "}", 8,
            "overlaps tensor a"},
        BadHeader{"beyond", "{" + tensor("a", "F32", "[2]", 0, 8) + "}", 4, "payload"},
        BadHeader{"size", "{" + tensor("a", "F32", "[3]", 0, 8) + "}", 8, "its shape needs 12"},
        BadHeader{"overflow", "{" + tensor("a", "F32", "[4294967296,4294967296,16]", 0, 8) + "}", 8,
                  "overflows"},
        BadHeader{"backwards", "{" + tensor("a", "F32", "[1]", 8, 4) + "}", 8, "backwards"},
        BadHeader{"dtype", "{" + tensor("a", "Q4", "[1]", 0, 4) + "}", 4, "unknown dtype Q4"},
        BadHeader{"negative", "{" + tensor("a", "F32", "[-1]", 0, 4) + "}", 4, "dimension"},
        BadHeader{"fields", "{\"a\":{\"dtype\":\"F32\"}}", 4, "expected dtype, shape"},
        BadHeader{"deep", std::string(100, '[') + std::string(100, ']'), 0, "nested"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Safetensors, HeaderLengthMustFitTheFile) {
  for (const uint64_t length : {uint64_t{200}, uint64_t{1} << 40, ~uint64_t{0}}) {
    std::string first(8, '\0');
    std::memcpy(first.data(), &length, 8);
    EXPECT_NE(error_of([&] { safetensors_header_bytes(first, 100, "m"); }).find("header claims"),
              std::string::npos);
  }
  EXPECT_NE(error_of([] { safetensors_header_bytes("abc", 3, "m"); }).find("too few"),
            std::string::npos);
}

class CheckpointTest : public ::testing::Test {
 protected:
  void shard(const std::string& file, const std::string& tensor_name) {
    test::write_file(dir_ / file,
                     file_of(fmt::format("{{{}}}", tensor(tensor_name, "F32", "[2]", 0, 8)), 8));
  }
  void index(const std::string& map) {
    test::write_file(dir_ / "model.safetensors.index.json",
                     fmt::format(R"({{"weight_map":{}}})", map));
  }
  Checkpoint open() { return Checkpoint::open(dir_.path(), DirectChoice::kAuto, notices_.sink()); }
  std::string open_error() {
    return error_of([&] { open(); });
  }
  /// Of asking for a tensor of a checkpoint that opens.
  std::string find_error(const std::string& name) {
    const Checkpoint checkpoint = open();
    return error_of([&] { checkpoint.find(name); });
  }
  TempDir dir_;
  Notices notices_;
};

TEST_F(CheckpointTest, OpensShards) {
  shard("s1.safetensors", "a");
  shard("s2.safetensors", "b");
  index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  const Checkpoint checkpoint = open();
  ASSERT_NE(checkpoint.find("b"), nullptr);
  EXPECT_EQ(checkpoint.files()[checkpoint.find("b")->file].info().path,
            (dir_ / "s2.safetensors").string());
  EXPECT_EQ(checkpoint.payload_bytes(), 16u);
  EXPECT_EQ(checkpoint.find("c"), nullptr);
}

TEST_F(CheckpointTest, MissingFolderAndFiles) {
  EXPECT_NE(open_error().find("neither model.safetensors"), std::string::npos);
  const std::string missing =
      error_of([&] { Checkpoint::open(dir_ / "none", DirectChoice::kAuto, notices_.sink()); });
  EXPECT_NE(missing.find("expected the folder"), std::string::npos) << missing;
}

TEST_F(CheckpointTest, IndexAndHeadersMustAgree) {
  shard("s1.safetensors", "a");
  index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  EXPECT_NE(open_error().find("s2.safetensors, which is not there"), std::string::npos);
  index(R"({"a":"s1.safetensors","b":"s1.safetensors"})");
  EXPECT_NE(find_error("b").find("does not hold it"), std::string::npos);
  shard("s2.safetensors", "c");
  index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  EXPECT_NE(find_error("b").find("does not hold it"), std::string::npos);
  shard("s2.safetensors", "a");
  EXPECT_NE(find_error("a").find("is also in"), std::string::npos);
  index(R"({"a":"../s1.safetensors"})");
  EXPECT_NE(open_error().find("not a plain file name"), std::string::npos);
  index("{}");
  EXPECT_NE(open_error().find("empty"), std::string::npos);
}

TEST_F(CheckpointTest, UnlistedTensorIsNotGiven) {
  test::write_file(dir_ / "s1.safetensors", file_of("{" + tensor("a", "F32", "[1]", 0, 4) + "," +
                                                        tensor("b", "F32", "[1]", 4, 8) + "}",
                                                    8));
  index(R"({"a":"s1.safetensors"})");
  EXPECT_NE(find_error("b").find("does not list tensor b"), std::string::npos);
}

/// An index that lists a tensor which no file holds, and leaves out one, is of use to whoever needs
/// neither.
TEST_F(CheckpointTest, DisagreementsMatterToThoseWhoAsk) {
  test::write_file(dir_ / "s1.safetensors", file_of("{" + tensor("a", "F32", "[1]", 0, 4) + "," +
                                                        tensor("b", "F32", "[1]", 4, 8) + "}",
                                                    8));
  shard("s2.safetensors", "b");
  index(R"({"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors"})");
  const Checkpoint checkpoint = open();
  ASSERT_NE(checkpoint.find("a"), nullptr);
  EXPECT_EQ(checkpoint.find("d"), nullptr);
  EXPECT_TRUE(checkpoint.has("b"));
  EXPECT_FALSE(checkpoint.has("c"));
  EXPECT_NE(error_of([&] { checkpoint.find("b"); }).find("is also in"), std::string::npos);
  EXPECT_NE(error_of([&] { checkpoint.find("c"); }).find("does not hold it"), std::string::npos);
}

TEST_F(CheckpointTest, TruncatedShard) {
  const std::string whole = file_of("{" + tensor("a", "F32", "[2]", 0, 8) + "}", 8);
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    test::write_file(dir_ / "model.safetensors", whole.substr(0, bytes));
    EXPECT_FALSE(open_error().empty()) << bytes;
  }
}

TEST(JsonStrict, DuplicateKeysMayAgreeWhereThatIsAllowed) {
  const auto parse = [](const std::string& text) {
    return parse_json_strict(text, "x.json", DuplicateKeys::kMayAgree);
  };
  EXPECT_EQ(parse(R"({"a":[1,{"b":null}],"c":2.5,"a":[1,{"b":null}]})"),
            nlohmann::json::parse(R"({"a":[1,{"b":null}],"c":2.5})"));
  for (const char* text : {R"({"a":1,"a":2})", R"({"a":{"b":1},"a":{"b":1,"c":1}})",
                           R"([{"a":{"b":"x","b":"y"}}])", R"({"a":1,"a":1,"a":"1"})"}) {
    const std::string message = error_of([&] { parse(text); });
    EXPECT_NE(message.find("twice, with different values"), std::string::npos) << message;
  }
  EXPECT_NE(error_of([] { parse_json_strict(R"({"a":1,"a":1})", "x.json"); }).find("twice"),
            std::string::npos);
}

TEST(JsonStrict, ReadsWhatTheLibraryReads) {
  for (const char* text : {"null", "3", "-3", "18446744073709551615", "1e3", "\"x\"", "[]", "{}",
                           "[1,[2,[]],{}]", R"({"a":{"b":[true,false,{"c":"d"}]},"e":-0.5})"}) {
    const auto parsed = parse_json_strict(text, "x.json");
    EXPECT_EQ(parsed, nlohmann::json::parse(text));
    EXPECT_EQ(parsed.type(), nlohmann::json::parse(text).type());
  }
  for (const char* text : {"", "{", "[1,]", "{\"a\"}", "1 2", "1e999", "nul"}) {
    const std::string message = error_of([&] { parse_json_strict(text, "x.json"); });
    EXPECT_EQ(message.find("x.json: not valid JSON: "), 0u) << text << ": " << message;
  }
}

/// The soft limit is raised; a hard one that is too low is named before anything is opened.
TEST_F(CheckpointTest, ManyShardsAndTheLimitOnOpenFiles) {
  std::string map = "{";
  for (int i = 0; i < 100; ++i) {
    const std::string file = fmt::format("s{}.safetensors", i);
    shard(file, fmt::format("t{}", i));
    map += fmt::format(R"({}"t{}":"{}")", i == 0 ? "" : ",", i, file);
  }
  map += "}";
  index(map);
  EXPECT_EQ(test::in_child([&] {
              const rlimit soft{40, 400};
              if (setrlimit(RLIMIT_NOFILE, &soft) != 0) return 1;
              return open().files().size() == 100 ? 0 : 2;
            }),
            0);
  EXPECT_EQ(test::in_child([&] {
              const rlimit hard{40, 100};
              if (setrlimit(RLIMIT_NOFILE, &hard) != 0) return 1;
              const std::string message = open_error();
              if (message.find("100 shards") == std::string::npos) return 2;
              return message.find("may have 100;") == std::string::npos ? 3 : 0;
            }),
            0);
}

/// Nobody writes to it: it must not be waited for.
TEST_F(CheckpointTest, PipesAreNoFilesAndAreNotWaitedFor) {
  ASSERT_EQ(mkfifo((dir_ / "model.safetensors").c_str(), 0600), 0);
  EXPECT_NE(open_error().find("not a regular file"), std::string::npos);
  std::filesystem::remove(dir_ / "model.safetensors");
  ASSERT_EQ(mkfifo((dir_ / "model.safetensors.index.json").c_str(), 0600), 0);
  EXPECT_NE(open_error().find("is a pipe; expected a JSON file"), std::string::npos);
}

/// What the document says is no complaint of the library.
TEST(JsonStrict, IsNotMisledByTheTextItself) {
  for (const char* words : {"unexpected end of input", "missing closing quote", "UTF-8",
                            "must be escaped", "number overflow", "expected end of input"}) {
    const std::string bad_escape = fmt::format(R"({{"a":"{}\x"}})", words);
    EXPECT_NE(error_of([&] { parse_json_strict(bad_escape, "x.json"); }).find(": unexpected \""),
              std::string::npos)
        << words;
  }
  EXPECT_NE(error_of([] {
              parse_json_strict("{\"a\":\"the UTF-8 codec\there\"}", "x.json");
            }).find("a control character inside a text"),
            std::string::npos);
  EXPECT_NE(error_of([] { parse_json_strict("{} nul", "x.json"); }).find("behind the end"),
            std::string::npos);
}

TEST(JsonStrict, RefusesBadUtf8) {
  EXPECT_NE(error_of([] { parse_json_strict("{\"a\":\"\xff\"}", "x.json"); }).find("x.json"),
            std::string::npos);
}

}  // namespace
}  // namespace spillway
