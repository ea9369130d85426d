#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "core/descriptor.h"
#include "core/error.h"
#include "core/stop.h"
#include "core/units.h"
#include "data/document_source.h"
#include "data/fingerprint.h"
#include "data/line_reader.h"
#include "data/npy_header.h"
#include "data/pair_encoding.h"
#include "data/windows.h"
#include "tests/support.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace spillway {
namespace {

using Json = nlohmann::json;
using test::error_of;
using test::run_seed;
using test::seed_note;
using test::TempDir;
using test::write_file;
using Ids = std::vector<uint32_t>;

/// A byte a token, and a few longer ones, found greedily: texts join at their seams.
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(Ids bos = {}) : bos_(std::move(bos)) {}
  Ids encode(std::string_view text) const override {
    require_utf8(text);
    Ids ids;
    for (size_t at = 0; at < text.size();) {
      uint32_t id = static_cast<unsigned char>(text[at]);
      size_t bytes = 1;
      for (size_t i = 0; i < kPieces.size(); ++i) {
        if (!text.substr(at).starts_with(kPieces[i]) || kPieces[i].size() <= bytes) continue;
        id = static_cast<uint32_t>(256 + i);
        bytes = kPieces[i].size();
      }
      ids.push_back(id);
      at += bytes;
    }
    return ids;
  }
  std::unique_ptr<Detokenizer> detokenizer() const override { return nullptr; }
  const Ids& bos() const override { return bos_; }
  uint32_t vocab_size() const override { return kVocab; }

  static constexpr std::array<std::string_view, 4> kPieces{" b", "ab", "abc", "<s>"};
  static constexpr uint32_t kVocab = 260;

 private:
  Ids bos_;
};

DataOptions plain_options() {
  DataOptions options;
  options.vocab = ByteTokenizer::kVocab;
  return options;
}

std::unique_ptr<DocumentSource> opened(std::vector<DataInput> inputs, const DataOptions& options,
                                       const Tokenizer* tokenizer) {
  return open_documents(std::move(inputs), options, tokenizer, StopFlag());
}

/// Another content, which the file's size and time do not show.
void write_unseen(const std::filesystem::path& file, const std::string& content) {
  const auto time = std::filesystem::last_write_time(file);
  write_file(file, content);
  std::filesystem::last_write_time(file, time);
}

std::vector<Document> rest_of(DocumentSource& source) {
  std::vector<Document> documents;
  for (Document document; source.next(document);) documents.push_back(document);
  return documents;
}

std::vector<Document> documents_of(const std::filesystem::path& file, const DataOptions& options,
                                   const Tokenizer* tokenizer = nullptr,
                                   const std::filesystem::path& lengths = {}) {
  return rest_of(*opened({{file, lengths}}, options, tokenizer));
}

std::vector<Ids> ids_of(const std::vector<Document>& documents) {
  std::vector<Ids> ids;
  for (const Document& document : documents) ids.push_back(document.ids);
  return ids;
}

bool same(const Document& a, const Document& b) {
  return a.number == b.number && a.id == b.id && a.place == b.place && a.ids == b.ids &&
         a.scored_from == b.scored_from;
}

template <typename Stored>
std::string bytes_of(const Ids& ids) {
  std::string bytes;
  for (const uint32_t id : ids) {
    const auto stored = static_cast<Stored>(id);
    bytes.append(reinterpret_cast<const char*>(&stored), sizeof(stored));
  }
  return bytes;
}

std::string npy_bytes(int major, const std::string& dictionary, const std::string& values) {
  const size_t word = major == 1 ? 2 : 4;
  std::string header = dictionary;
  header.resize(align_up(8 + word + dictionary.size() + 1, 64) - 8 - word, ' ');
  header.back() = '\n';
  std::string bytes = "\x93NUMPY";
  bytes += static_cast<char>(major);
  bytes += '\0';
  for (size_t i = 0; i < word; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xFF);
  return bytes + header + values;
}

std::string npy_dictionary(const std::string& descr, const std::string& shape) {
  return fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", descr, shape);
}

template <typename Stored>
std::string npy_of(const std::string& descr, const Ids& ids, const std::string& shape = "",
                   int major = 1) {
  const std::string of = shape.empty() ? fmt::format("({},)", ids.size()) : shape;
  return npy_bytes(major, npy_dictionary(descr, of), bytes_of<Stored>(ids));
}

Ids joined(const std::vector<Ids>& documents) {
  Ids all;
  for (const Ids& ids : documents) all.insert(all.end(), ids.begin(), ids.end());
  return all;
}

// ------------------------------------------------------------------ lines of JSON

TEST(JsonLines, AreReadInEveryForm) {
  const TempDir folder;
  write_file(folder / "a.jsonl",
             "\xEF\xBB\xBF{\"text\": \"ab\", \"id\": \"first\", \"more\": {\"text\": [1, {}]}}\r\n"
             "\n"
             "  \t\r\n"
             "{\"input_ids\": [1, -0, 259], \"id\": 17}\n"
             "{\"prompt\": \"x \", \"completion\": \"b\", \"id\": -1.50}\n"
             "{\"continuation\": \"yz\", \"context\": \"\", \"text2\": null}\n"
             "{\"continuation_ids\": [5, 6, 7], \"id\": \"ids\", \"context_ids\": [258, 4]}\n"
             "{\"input_ids\": [3]}");
  DataOptions options = plain_options();
  options.prefix_token = 7;
  const ByteTokenizer tokenizer({259});
  const auto documents = documents_of(folder / "a.jsonl", options, &tokenizer);
  ASSERT_EQ(documents.size(), 6u);
  EXPECT_EQ(documents[0].ids, (Ids{259, 257}));
  EXPECT_EQ(documents[0].scored_from, 1u);
  EXPECT_EQ(documents[0].id, "first");
  EXPECT_EQ(documents[0].place, (folder / "a.jsonl").string() + ", line 1");
  EXPECT_EQ(documents[1].ids, (Ids{1, 0, 259}));
  EXPECT_EQ(documents[1].id, "17");
  EXPECT_EQ(documents[1].scored_from, 1u);
  EXPECT_EQ(documents[1].place, (folder / "a.jsonl").string() + ", line 4");
  EXPECT_EQ(documents[2].ids, (Ids{259, 'x', 256})) << "the space moved to the completion";
  EXPECT_EQ(documents[2].scored_from, 2u);
  EXPECT_EQ(documents[2].id, "-1.50");
  EXPECT_EQ(documents[3].ids, (Ids{7, 'y', 'z'}));
  EXPECT_EQ(documents[3].scored_from, 1u);
  EXPECT_EQ(documents[3].id, "") << "nothing is left of the document before";
  EXPECT_EQ(documents[3].number, 3u);
  EXPECT_EQ(documents[4].ids, (Ids{258, 4, 5, 6, 7})) << "as they are, without BOS";
  EXPECT_EQ(documents[4].scored_from, 2u);
  EXPECT_EQ(documents[4].id, "ids");
  EXPECT_EQ(documents[5].ids, (Ids{3}));
  EXPECT_EQ(documents[5].scored_from, 1u);
}

struct BadLine {
  const char* name;
  std::string line;
  std::string message;
};

const std::vector<BadLine>& bad_lines() {
  static const std::vector<BadLine> lines{
      {"NoJson", "x", "not valid JSON: column 1: unexpected \"x\""},
      {"Cut", "{\"text\": \"a",
       "not valid JSON: column 12: it ends in the middle: the line is cut short"},
      {"Behind", "{\"text\": \"a\"} {", R"(not valid JSON: column 15: ""a"} {" behind the end)"},
      {"Control", "{\"text\": \"a\tb\"}",
       "not valid JSON: column 12: a control character inside a text; it must be escaped"},
      {"HugeNumber", "{\"text\": \"a\", \"x\": 1e999}",
       "not valid JSON: column 24: the number \"1e999\" is too large"},
      {"NotUtf8", "{\"text\": \"a\xFF\"}",
       "the text is not valid UTF-8: byte \\xff at 11; convert it first, such as with iconv -f "
       "LATIN1 "
       "-t UTF-8"},
      {"List", "[{\"text\": \"a\"}]", "a list; every line must be an object"},
      {"Number", "3", "a number; every line must be an object"},
      {"String", "\"text\"", "a text; every line must be an object"},
      {"Null", "null", "null; every line must be an object"},
      {"Nothing", "{\"id\": 1, \"txt\": \"a\"}",
       "no text, input_ids, prompt with completion, context with continuation, or context_ids with "
       "continuation_ids; give one of these"},
      {"Two", "{\"text\": \"a\", \"input_ids\": [1]}",
       "both text and input_ids are in it; keep one of them"},
      {"TwoPairs", "{\"prompt\": \"a\", \"continuation\": \"b\"}",
       "both prompt and continuation are in it; keep one of them"},
      {"NoCompletion", "{\"prompt\": \"a\"}", "prompt without completion; give both"},
      {"NoPrompt", "{\"completion\": \"a\"}", "completion without prompt; give both"},
      {"NoContext", "{\"continuation\": \"a\"}", "continuation without context; give both"},
      {"Twice", "{\"text\": \"a\", \"text\": \"a\"}",
       "the key \"text\" stands in it twice; keep one"},
      {"TextNumber", "{\"text\": 5}", "text is a number; give a text"},
      {"TextNull", "{\"text\": null}", "text is null; give a text"},
      {"TextObject", "{\"text\": {\"text\": \"a\"}}", "text is an object; give a text"},
      {"PromptList", "{\"prompt\": [\"a\"], \"completion\": \"b\"}",
       "prompt is a list; give a text"},
      {"CompletionTruth", "{\"prompt\": \"a\", \"completion\": true}",
       "completion is true or false; give a text"},
      {"IdsText", "{\"input_ids\": \"1 2\"}", "input_ids is a text; give a list of token ids"},
      {"IdsFloat", "{\"input_ids\": [1, 2.0]}",
       "item 2 of input_ids is 2.0, not a token id; give whole numbers from 0 to 259"},
      {"IdsNegative", "{\"input_ids\": [-1]}",
       "item 1 of input_ids is -1, not a token id; give whole numbers from 0 to 259"},
      {"IdsWord", "{\"input_ids\": [1, 2, \"3\"]}",
       "item 3 of input_ids is \"3\", not a token id; give whole numbers from 0 to 259"},
      {"IdsNested", "{\"input_ids\": [[1, 2], [3]]}",
       "item 1 of input_ids is a list, not a token id; give whole numbers from 0 to 259"},
      {"IdsNull", "{\"input_ids\": [null]}",
       "item 1 of input_ids is null, not a token id; give whole numbers from 0 to 259"},
      {"IdsLarge", "{\"input_ids\": [3, 260, 999]}",
       "token id 260 (item 2 of input_ids) is outside the vocabulary of 260: ids end at 259; "
       "encode "
       "with this model's tokenizer"},
      {"IdsHuge", "{\"input_ids\": [18446744073709551615]}",
       "token id 18446744073709551615 (item 1 of input_ids) is outside the vocabulary of 260: ids "
       "end at 259; encode with this model's tokenizer"},
      {"IdsEmpty", "{\"input_ids\": []}",
       "input_ids is empty; give one that is not, or leave the line out"},
      {"ContextIdsEmpty", R"({"context_ids": [], "continuation_ids": [1]})",
       "context_ids is empty; give one that is not, or leave the line out"},
      {"ContinuationIdsEmpty", R"({"context_ids": [1], "continuation_ids": []})",
       "continuation_ids is empty; give one that is not, or leave the line out"},
      {"ContinuationIdsLack", R"({"context_ids": [1]})",
       "context_ids without continuation_ids; give both"},
      {"IdsAndText", R"({"context_ids": [1], "continuation": "a"})",
       "both continuation and context_ids are in it; keep one of them"},
      {"ContinuationIdsText", R"({"context_ids": [1], "continuation_ids": "a"})",
       "continuation_ids is a text; give a list of token ids"},
      {"ContinuationIdsLarge", R"({"context_ids": [1, 2, 3], "continuation_ids": [4, 260]})",
       "token id 260 (item 2 of continuation_ids) is outside the vocabulary of 260: ids end at "
       "259; encode with this model's tokenizer"},
      {"ContextIdsNested", R"({"context_ids": [[1], 2], "continuation_ids": [4]})",
       "item 1 of context_ids is a list, not a token id; give whole numbers from 0 to 259"},
      {"TextEmpty", "{\"text\": \"\"}",
       "text is empty; give one that is not, or leave the line out"},
      {"CompletionEmpty", "{\"prompt\": \"a\", \"completion\": \"\"}",
       "completion is empty; give one that is not, or leave the line out"},
      {"ContinuationEmpty", "{\"context\": \"a \", \"continuation\": \"\"}",
       "continuation is empty; give one that is not, or leave the line out"},
      {"ContextNoToken", "{\"context\": \"\", \"continuation\": \"a\"}",
       "context is empty, and this tokenizer puts no token in its place; give a context, or the "
       "token "
       "that takes its place"},
      {"Joined", "{\"prompt\": \"ab\", \"completion\": \"c\"}",
       "no token is left to completion: its text joins the last token of prompt; leave the line "
       "out, "
       "or cut elsewhere"},
      {"IdList", "{\"text\": \"a\", \"id\": []}", "id is a list; give a text or a number"},
      {"IdNull", "{\"text\": \"a\", \"id\": null}", "id is null; give a text or a number"},
  };
  return lines;
}

TEST(JsonLines, SayWhatIsWrongWithALine) {
  const TempDir folder;
  const ByteTokenizer tokenizer;
  for (const BadLine& bad : bad_lines()) {
    SCOPED_TRACE(bad.name);
    const auto path = folder / "bad.jsonl";
    write_file(path, "{\"text\": \"ok\"}\n\n" + bad.line + "\n{\"text\": \"behind\"}\n");
    const auto source = opened({{path, {}}}, plain_options(), &tokenizer);
    Document document;
    ASSERT_TRUE(source->next(document));
    try {
      source->next(document);
      ADD_FAILURE() << "no error";
    } catch (const BadDocument& error) {
      EXPECT_EQ(std::string(error.what()), path.string() + ", line 3: " + bad.message);
    }
    ASSERT_TRUE(source->next(document)) << "it goes on behind a bad line";
    EXPECT_EQ(document.ids, tokenizer.encode("behind"));
    EXPECT_EQ(document.number, 1u);
    EXPECT_FALSE(source->next(document));
  }
}

TEST(JsonLines, SkipBadOnesAndCountThem) {
  const TempDir folder;
  const ByteTokenizer tokenizer;
  std::string text;
  for (const BadLine& bad : bad_lines()) text += bad.line + "\n{\"text\": \"ok\"}\n";
  write_file(folder / "a.jsonl", text);
  DataOptions options = plain_options();
  options.skip_bad = true;
  const auto source = opened({{folder / "a.jsonl", {}}}, options, &tokenizer);
  const auto documents = rest_of(*source);
  ASSERT_EQ(documents.size(), bad_lines().size());
  for (size_t i = 0; i < documents.size(); ++i) EXPECT_EQ(documents[i].number, i);
  EXPECT_EQ(source->skipped().count, bad_lines().size());
  ASSERT_EQ(source->skipped().reasons.size(), SkippedDocuments::kReasons);
  EXPECT_EQ(source->skipped().reasons[6],
            (folder / "a.jsonl").string() + ", line 13: a list; every line must be an object");
}

TEST(JsonLines, HaveNoMoreTokensThanADocumentMay) {
  const TempDir folder;
  write_file(folder / "a.jsonl",
             "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [1, 2, 3, 4, 999]}\n"
             "{\"input_ids\": [4]}\n{\"context_ids\": [1, 2], \"continuation_ids\": [3, 4]}\n"
             "{\"context_ids\": [1, 2], \"continuation_ids\": [3]}\n");
  DataOptions options = plain_options();
  options.max_document_tokens = 3;
  options.skip_bad = true;
  const auto source = opened({{folder / "a.jsonl", {}}}, options, nullptr);
  EXPECT_EQ(ids_of(rest_of(*source)), (std::vector<Ids>{{1, 2, 3}, {4}, {1, 2, 3}}));
  std::vector<std::string> reasons;
  for (const char* line : {"2", "4"}) {
    reasons.push_back(fmt::format(
        "{}, line {}: more than 3 tokens, which is as much as a document may have; cut it into "
        "several",
        (folder / "a.jsonl").string(), line));
  }
  EXPECT_EQ(source->skipped().reasons, reasons);
}

TEST(JsonLines, NeedATokenizerForTextsAlone) {
  const TempDir folder;
  write_file(folder / "a.jsonl", "{\"input_ids\": [1]}\n{\"text\": \"a\"}\n");
  DataOptions options = plain_options();
  options.skip_bad = true;  // of no help: every text would be passed over
  const auto source = opened({{folder / "a.jsonl", {}}}, options, nullptr);
  Document document;
  EXPECT_TRUE(source->next(document));
  EXPECT_EQ(
      error_of([&] { source->next(document); }),
      (folder / "a.jsonl").string() +
          ", line 2: a text, and this model has no tokenizer; give token ids (input_ids, .npy "
          "or .bin)");
}

TEST(JsonLines, RefuseTokensThatTheModelDoesNotHave) {
  const TempDir folder;
  write_file(folder / "a.jsonl",
             "{\"text\": \"xab\"}\n{\"prompt\": \"x\", \"completion\": \"ab\"}\n");
  DataOptions options = plain_options();
  options.vocab = 256;
  const ByteTokenizer tokenizer;
  const auto source = opened({{folder / "a.jsonl", {}}}, options, &tokenizer);
  for (const int line : {1, 2}) {
    Document document;
    EXPECT_EQ(
        error_of([&] { source->next(document); }),
        fmt::format("{}, line {}: token id 257 (its text) is outside the vocabulary of 256: ids "
                    "end at 255; encode with this model's tokenizer",
                    (folder / "a.jsonl").string(), line));
  }
}

// ------------------------------------------------------------------ lines

std::vector<std::string> lines_of(const DataFile& file, uint64_t max, uint64_t buffer) {
  LineReader reader(file, max, buffer);
  std::vector<std::string> lines;
  Line line;
  for (uint64_t n = 1; reader.next(line); ++n) {
    EXPECT_EQ(line.number, n);
    lines.push_back(line.too_long ? "(too long)" : std::string(line.text));
  }
  return lines;
}

TEST(LineReader, GivesTheSameLinesThroughBuffersOfAnySize) {
  const uint64_t seed = run_seed();
  SCOPED_TRACE(seed_note(seed));
  std::mt19937_64 random(seed);
  const TempDir folder;
  for (int round = 0; round < 50; ++round) {
    constexpr uint64_t kMost = 12;
    std::vector<std::string> expected;
    std::string text = random() % 2 == 0 ? "\xEF\xBB\xBF" : "";
    const uint64_t count = random() % 12;
    for (uint64_t i = 0; i < count; ++i) {
      const std::string line(random() % 20, static_cast<char>('a' + i));
      const bool mark = i == 0 && !text.empty();
      const bool carriage = random() % 2 == 0;
      const bool last = i + 1 == count && random() % 2 == 0 && (!line.empty() || mark || carriage);
      text += line + (carriage ? "\r" : "") + (last ? "" : "\n");
      const bool fits = line.size() + (carriage ? 1 : 0) + (mark ? 3 : 0) <= kMost;
      expected.push_back(fits ? line : "(too long)");
    }
    if (count == 0) text.clear();
    write_file(folder / "lines", text);
    const DataFile file(folder / "lines");
    for (const uint64_t buffer : {1, 2, 3, 5, 13, 64, 4096}) {
      EXPECT_EQ(lines_of(file, kMost, buffer), expected) << text << "\nbuffer of " << buffer;
    }
  }
}

TEST(LineReader, SeeksToWhereLinesBeginAlone) {
  const TempDir folder;
  write_file(folder / "lines", "ab\ncd\n");
  const DataFile file(folder / "lines");
  LineReader reader(file, 100);
  Line line;
  reader.seek(3, 1);
  ASSERT_TRUE(reader.next(line));
  EXPECT_EQ(line.text, "cd");
  EXPECT_EQ(line.number, 2u);
  reader.seek(6, 2);
  EXPECT_FALSE(reader.next(line));
  for (const uint64_t offset : {2, 4, 7}) {
    EXPECT_EQ(
        error_of([&] { reader.seek(offset, 1); }),
        fmt::format("{}: no line begins at byte {}, where the job would go on; the file is not "
                    "the one it began with: start again",
                    file.name(), offset));
  }
}

TEST(JsonLines, TooLongOnesAreBadAndTakeNoMemory) {
  const TempDir folder;
  const ByteTokenizer tokenizer;
  {
    std::ofstream out(folder / "a.jsonl");
    out << "{\"text\": \"" << std::string(5 * kMiB, 'x') << "\"}\n{\"text\": \"ok\"}\n";
  }
  DataOptions options = plain_options();
  options.max_line_bytes = 2 * kMiB;
  const auto source = opened({{folder / "a.jsonl", {}}}, options, &tokenizer);
  Document document;
  EXPECT_EQ(
      error_of([&] { source->next(document); }),
      (folder / "a.jsonl").string() +
          ", line 1: longer than 2.00 MiB, which is as much as a line may have; cut the document "
          "into several");
  EXPECT_LE(source->buffer_bytes(), 6 * kMiB);
  EXPECT_TRUE(source->next(document));
}

TEST(DocumentSource, ReadsLargeFilesThroughASmallBuffer) {
  const TempDir folder;
  constexpr uint64_t kBytes = 40 * kMiB;
  constexpr uint64_t kLineBytes = 3 * kMiB / 4;  // some lie in the buffer as a whole
  {
    std::string line = "{\"input_ids\": [1, 2], \"x\": \"";
    line.resize(kLineBytes - 3, 'x');
    line += "\"}\n";
    std::ofstream out(folder / "large.jsonl");
    for (uint64_t i = 0; i < kBytes / kLineBytes; ++i) out << line;
  }
  std::filesystem::resize_file(
      [&] {
        write_file(folder / "large.bin", "");
        return folder / "large.bin";
      }(),
      kBytes);
  DataOptions options = plain_options();
  options.token_type = TokenType::kU16;
  options.end_token = 5;
  options.max_document_tokens = kMiB;
  options.skip_bad = true;  // one document of zeros, longer than a document may be
  const auto source =
      opened({{folder / "large.jsonl", {}}, {folder / "large.bin", {}}}, options, nullptr);
  uint64_t documents = 0;
  uint64_t most = 0;
  for (Document document; source->next(document); ++documents) {
    most = std::max(most, source->buffer_bytes());
  }
  EXPECT_EQ(documents, kBytes / kLineBytes);
  EXPECT_EQ(source->skipped().count, 1u);
  EXPECT_LE(most, 4 * kMiB);
}

// ------------------------------------------------------------------ texts

TEST(Texts, AreOneDocumentOrOneALine) {
  const TempDir folder;
  const std::string text =
      "\xEF\xBB\xBF"
      "ab\r\n\n \t\ncd";
  write_file(folder / "a.txt", text);
  const ByteTokenizer tokenizer({259});
  DataOptions options = plain_options();
  auto documents = documents_of(folder / "a.txt", options, &tokenizer);
  ASSERT_EQ(documents.size(), 1u);
  EXPECT_EQ(documents[0].ids, tokenizer.encode_prompt(text.substr(3)));
  EXPECT_EQ(documents[0].place, (folder / "a.txt").string());
  options.text_lines = true;
  documents = documents_of(folder / "a.txt", options, &tokenizer);
  EXPECT_EQ(ids_of(documents), (std::vector<Ids>{{259, 257}, {259, 'c', 'd'}}));
  EXPECT_EQ(documents[1].place, (folder / "a.txt").string() + ", line 4");
}

TEST(Texts, ThatCannotBeUsedSayWhy) {
  const TempDir folder;
  const ByteTokenizer tokenizer;
  DataOptions options = plain_options();
  const auto says = [&](const std::string& text) {
    write_file(folder / "a.txt", text);
    return error_of([&] { documents_of(folder / "a.txt", options, &tokenizer); });
  };
  const std::string name = (folder / "a.txt").string();
  EXPECT_EQ(says(""), name + ": the text is empty; leave the file out");
  EXPECT_EQ(says("\xEF\xBB\xBF"), name + ": the text is empty; leave the file out");
  const std::string latin =
      "the text is not valid UTF-8: byte \\xe4 at 1; convert it first, such as with iconv -f "
      "LATIN1 -t "
      "UTF-8";
  EXPECT_EQ(says("a\xE4z"), name + ": " + latin);
  options.max_text_bytes = 4;
  EXPECT_EQ(says("abcde"), name +
                               ": 5 B, and a text that is one document has at most 4 B; cut it, or "
                               "read each of its lines as a document");
  options.text_lines = true;
  EXPECT_EQ(says("ok\na\xE4z"), name + ", line 2: " + latin);
}

// ------------------------------------------------------------------ arrays

TEST(NpyFiles, AreReadInEveryTypeAndVersion) {
  const TempDir folder;
  const Ids ids{0, 1, 2, 3, 4, 259};
  const std::vector<std::pair<std::string, std::string>> files{
      {"u2", npy_of<uint16_t>("<u2", ids, "(2, 3)", 1)},
      {"u4", npy_of<uint32_t>("<u4", ids, "(2, 3)", 2)},
      {"i4", npy_of<int32_t>("<i4", ids, "(2, 3)", 3)},
      {"i8", npy_of<int64_t>("<i8", ids, "( 2L ,3L, )", 1)}};
  for (const auto& [name, bytes] : files) {
    write_file(folder / "a.npy", bytes);
    const auto documents = documents_of(folder / "a.npy", plain_options());
    EXPECT_EQ(ids_of(documents), (std::vector<Ids>{{0, 1, 2}, {3, 4, 259}})) << name;
    ASSERT_EQ(documents.size(), 2u);
    EXPECT_EQ(documents[1].place, (folder / "a.npy").string() + ", row 2");
  }
}

TEST(NpyFiles, ThatNumpyWroteItself) {
  const TempDir folder;
  const std::string script =
      "import numpy as n, sys; f=sys.argv[1]; a=n.arange(12); "
      "[n.save(f'{f}/{t}.npy', a.reshape(3, 4).astype(t)) for t in ('u2', 'u4', 'i4', 'i8')]; "
      "n.save(f'{f}/flat.npy', a.astype('u2')); n.save(f'{f}/none.npy', a[:0].astype('u2')); "
      "n.save(f'{f}/column.npy', n.asfortranarray(a.reshape(3, 4).astype('u2'))); "
      "n.save(f'{f}/big.npy', a.astype('>u2')); n.save(f'{f}/float.npy', a.astype('f4')); "
      "n.save(f'{f}/fields.npy', n.zeros(2, [('a', 'u2'), ('b', 'u2')]))";
  const std::string command =
      fmt::format("python3 -c \"{}\" '{}' 2>/dev/null", script, folder.path().string());
  if (std::system(command.c_str()) != 0) GTEST_SKIP() << "no python3 with numpy";
  const std::vector<Ids> rows{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}};
  for (const char* name : {"u2.npy", "u4.npy", "i4.npy", "i8.npy"}) {
    EXPECT_EQ(ids_of(documents_of(folder / name, plain_options())), rows) << name;
  }
  EXPECT_EQ(ids_of(documents_of(folder / "flat.npy", plain_options())),
            (std::vector<Ids>{joined(rows)}));
  EXPECT_TRUE(documents_of(folder / "none.npy", plain_options()).empty());
  for (const char* name : {"column.npy", "big.npy", "float.npy", "fields.npy"}) {
    EXPECT_NE(error_of([&] { documents_of(folder / name, plain_options()); }), "") << name;
  }
}

TEST(NpyFiles, ThatCannotBeReadSayWhy) {
  const std::string ok = npy_dictionary("<u2", "(3,)");
  const std::string six(6, '\0');
  const auto says = [](const std::string& bytes) {
    return error_of([&] { parse_npy_header(bytes, bytes.size(), "a.npy"); });
  };
  const auto of = [&](const std::string& dictionary) {
    return says(npy_bytes(1, dictionary, six));
  };
  const auto damaged = [](const std::string& what) {
    return "a.npy: not a .npy file that can be read: " + what + "; write it again with numpy.save";
  };
  EXPECT_NO_THROW(parse_npy_header(npy_bytes(1, ok, six), npy_bytes(1, ok, six).size(), "a.npy"));
  const std::string no_magic = damaged("it does not begin with \\x93NUMPY and a version");
  EXPECT_EQ(says(""), no_magic);
  EXPECT_EQ(says("\x93NUMPX\x01"), no_magic);
  EXPECT_EQ(says("\x93NUMPY\x01"), no_magic);
  std::string version = npy_bytes(1, ok, six);
  version[6] = 4;
  EXPECT_EQ(says(version), damaged("its format is 4.0, and 1.0, 2.0 and 3.0 are known"));
  const std::string cut = damaged("its header ends in the middle");
  EXPECT_EQ(says(npy_bytes(1, ok, six).substr(0, 9)), cut);
  EXPECT_EQ(says(npy_bytes(1, ok, six).substr(0, 60)), cut);
  EXPECT_EQ(says(npy_bytes(2, ok, six).substr(0, 11)), cut);
  EXPECT_EQ(of("{'descr': '<u2"), cut);
  EXPECT_EQ(says(npy_bytes(2, std::string(70000, ' '), six)),
            damaged("its header has 70004 bytes"));
  EXPECT_EQ(of("{}"), damaged("its header lacks descr, fortran_order or shape"));
  EXPECT_EQ(of("[]"), damaged("unexpected \"[]" + std::string(18, ' ') + "\" in its header"));
  EXPECT_EQ(of("{'x': 1}"), damaged("unexpected \"x\" in its header"));
  EXPECT_EQ(of("{'descr': '<u2', 'descr': '<u2'}"), damaged("unexpected \"descr\" in its header"));
  EXPECT_EQ(of(npy_dictionary("<u2", "(-3,)")),
            damaged("unexpected \"-3,), }" + std::string(13, ' ') + "\" in its header"));
  EXPECT_EQ(of(npy_dictionary("<f4", "(3,)")),
            "a.npy: its values are \"<f4\"; expected token ids as uint16, uint32, int32 or int64, "
            "little-endian: write it again with numpy.save of array.astype('<u4')");
  EXPECT_EQ(
      of(npy_dictionary(">u2", "(3,)")),
      "a.npy: its values are \">u2\", big-endian; expected token ids as uint16, uint32, int32 or "
      "int64, little-endian: write it again with numpy.save of array.astype('<u4')");
  EXPECT_EQ(
      of("{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (3,), }"),
      "a.npy: its values are records of several fields; expected token ids as uint16, uint32, "
      "int32 or int64");
  EXPECT_EQ(of("{'descr': '<u2', 'fortran_order': True, 'shape': (1, 3), }"),
            "a.npy: its rows do not lie one after the other (Fortran order); write it again with "
            "numpy.save of numpy.ascontiguousarray(array)");
  EXPECT_EQ(of(npy_dictionary("<u2", "()")),
            "a.npy: an array of 0 dimensions; expected one dimension (packed documents) or two (a "
            "document a row)");
  EXPECT_EQ(of(npy_dictionary("<u2", "(1, 1, 3)")),
            "a.npy: an array of 3 dimensions; expected one dimension (packed documents) or two (a "
            "document a row)");
  EXPECT_EQ(of(npy_dictionary("<u2", "(4,)")),
            "a.npy: cut short: 134 bytes, and its array ends at byte 136; fetch or write it again");
  EXPECT_EQ(of(npy_dictionary("<u2", "(2,)")),
            "a.npy: 2 bytes behind its array; write one array to a file with numpy.save");
  const std::string large = damaged("its shape is larger than any file");
  EXPECT_EQ(of(npy_dictionary("<u2", "(9223372036854775807,)")), large);
  EXPECT_EQ(of(npy_dictionary("<u2", "(9223372036854775807, 9223372036854775807)")), large);
}

TEST(Arrays, OfPackedDocumentsAreCutAtTheEndToken) {
  const TempDir folder;
  write_file(folder / "a.bin", bytes_of<uint16_t>({1, 2, 9, 9, 3, 9, 4}));
  DataOptions options = plain_options();
  options.token_type = TokenType::kU16;
  EXPECT_EQ(ids_of(documents_of(folder / "a.bin", options)),
            (std::vector<Ids>{{1, 2, 9, 9, 3, 9, 4}}));
  options.end_token = 9;
  const auto documents = documents_of(folder / "a.bin", options);
  EXPECT_EQ(ids_of(documents), (std::vector<Ids>{{1, 2, 9}, {9}, {3, 9}, {4}}));
  EXPECT_EQ(documents[2].place, (folder / "a.bin").string() + ", document 3");
  write_file(folder / "b.npy", npy_of<uint32_t>("<u4", {1, 9, 2, 9}));
  EXPECT_EQ(ids_of(documents_of(folder / "b.npy", options)), (std::vector<Ids>{{1, 9}, {2, 9}}));
}

TEST(Arrays, OfPackedDocumentsMayHaveLengthsBeside) {
  const TempDir folder;
  write_file(folder / "a.bin", bytes_of<uint32_t>({1, 2, 3, 4, 5}));
  write_file(folder / "text", "2\r\n0\n3\n");
  write_file(folder / "array.npy", npy_of<int64_t>("<i8", {2, 0, 3}));
  DataOptions options = plain_options();
  options.token_type = TokenType::kU32;
  for (const char* lengths : {"text", "array.npy"}) {
    const auto source = opened({{folder / "a.bin", folder / lengths}}, options, nullptr);
    Document document;
    ASSERT_TRUE(source->next(document));
    EXPECT_EQ(document.ids, (Ids{1, 2}));
    EXPECT_EQ(error_of([&] { source->next(document); }),
              (folder / "a.bin").string() + ", document 2: it is empty; leave it out");
    ASSERT_TRUE(source->next(document));
    EXPECT_EQ(document.ids, (Ids{3, 4, 5}));
    EXPECT_FALSE(source->next(document));
  }
}

/// They may be many: a source that goes on reads those behind alone.
TEST(Arrays, LengthsAreAddedUpOnce) {
  const TempDir folder;
  write_file(folder / "a.bin", bytes_of<uint16_t>({1, 2, 3, 4, 5, 6}));
  write_file(folder / "l", "1\n2\n3\n");
  DataOptions options = plain_options();
  options.token_type = TokenType::kU16;
  const std::vector<DataInput> inputs{{folder / "a.bin", folder / "l"}};
  const auto source = opened(inputs, options, nullptr);
  Document document;
  ASSERT_TRUE(source->next(document));
  const DataPosition position = source->position();
  write_unseen(folder / "l", "9\n2\n3\n");
  source->seek(position);
  EXPECT_EQ(ids_of(rest_of(*source)), (std::vector<Ids>{{2, 3}, {4, 5, 6}}));
  EXPECT_NE(error_of([&] { opened(inputs, options, nullptr); }).find("add up to 14 tokens"),
            std::string::npos);
  StopFlag stop;
  stop.request();
  EXPECT_THROW(open_documents(inputs, options, nullptr, stop), Stopped);
}

/// Here it would fail.
TEST(Arrays, AreNotReadBehindABadToken) {
  const TempDir folder;
  constexpr uint64_t kTokens = 2 * TokenArray::kBufferValues;
  Ids ids(2 * kTokens, 1);
  ids[kTokens] = 999;
  DataOptions options = plain_options();
  options.token_type = TokenType::kU16;
  write_file(folder / "l", fmt::format("{}\n{}\n", kTokens, kTokens));
  write_file(folder / "a.bin", bytes_of<uint16_t>(ids));
  write_file(folder / "rows.npy", npy_of<uint16_t>("<u2", ids, fmt::format("(2, {})", kTokens)));
  for (const DataInput& input :
       {DataInput{folder / "a.bin", folder / "l"}, DataInput{folder / "rows.npy", {}}}) {
    const auto source = opened({input}, options, nullptr);
    Document document;
    ASSERT_TRUE(source->next(document));
    std::filesystem::resize_file(input.file, std::filesystem::file_size(input.file) - 2);
    EXPECT_THROW(source->next(document), BadDocument) << input.file;
    EXPECT_FALSE(source->next(document)) << "it goes on behind the document";
  }
}

TEST(Arrays, RefuseLengthsThatDoNotFit) {
  const TempDir folder;
  const std::string name = (folder / "a.bin").string();
  const std::string lengths = (folder / "l").string();
  write_file(folder / "a.bin", bytes_of<uint16_t>({1, 2, 3}));
  DataOptions options = plain_options();
  options.token_type = TokenType::kU16;
  const auto says = [&](const std::string& text) {
    write_file(folder / "l", text);
    return error_of([&] { opened({{folder / "a.bin", folder / "l"}}, options, nullptr); });
  };
  EXPECT_EQ(says("1\n1\n"), lengths + ": its lengths add up to 2 tokens, and " + name +
                                " has 3; give the lengths that were written with it");
  EXPECT_EQ(says("3\n18446744073709551615\n"),
            lengths + ": its lengths add up to more tokens than fit a file, and " + name +
                " has 3; give the lengths that were written with it");
  const auto no_length = [&](int line, const std::string& what) {
    return fmt::format("{}, line {}: {} is not a length; give one whole number a line", lengths,
                       line, what);
  };
  EXPECT_EQ(says("1\nx\n"), no_length(2, "\"x\""));
  EXPECT_EQ(says("1\n\n2"), no_length(2, "\"\""));
  EXPECT_EQ(says("-1\n"), no_length(1, "\"-1\""));
  EXPECT_EQ(says("1 2\n"), no_length(1, "\"1 2\""));
  EXPECT_EQ(says(std::string(100, '1')), no_length(1, "what stands there"));
  options.end_token = 2;
  EXPECT_EQ(
      says("3\n"),
      name + ": lengths of documents are given, and a token that ends them; give one of them");
}

TEST(Arrays, SayWhichTokenIsBadAndGoOnBehindItsDocument) {
  const TempDir folder;
  DataOptions options = plain_options();
  options.end_token = 9;
  options.max_document_tokens = 3;
  const std::string name = (folder / "a.npy").string();
  write_file(folder / "a.npy",
             npy_bytes(1, npy_dictionary("<i4", "(11,)"),
                       bytes_of<int32_t>({1, 260, 9, 1, 2, 3, 9, 4, 5u, ~0u, 6})));
  const auto source = opened({{folder / "a.npy", {}}}, options, nullptr);
  Document document;
  EXPECT_EQ(
      error_of([&] { source->next(document); }),
      name +
          ", document 1: token id 260 (at 1 of the file) is outside the vocabulary of 260: ids "
          "end at 259; encode with this model's tokenizer");
  EXPECT_EQ(error_of([&] { source->next(document); }),
            name +
                ", document 2: more than 3 tokens, which is as much as a document may have; cut it "
                "into several");
  EXPECT_EQ(error_of([&] { source->next(document); }),
            name +
                ", document 3: more than 3 tokens, which is as much as a document may have; cut it "
                "into several");
  EXPECT_FALSE(source->next(document));
  options.end_token.reset();
  EXPECT_EQ(
      error_of([&] {
        opened({{folder / "a.npy", {}}}, options, nullptr);
      }),
      name +
          ": one document of more than 3 tokens, which is as much as a document may have; say "
          "which token ends a document, or give the documents' lengths");
  options.max_document_tokens = 100;
  EXPECT_EQ(
      error_of([&] { documents_of(folder / "a.npy", options); }),
      name +
          ", document 1: token id 260 (at 1 of the file) is outside the vocabulary of 260: ids "
          "end at 259; encode with this model's tokenizer");
  write_file(folder / "a.npy",
             npy_bytes(1, npy_dictionary("<i4", "(1,)"), bytes_of<int32_t>({~0u})));
  EXPECT_EQ(
      error_of([&] { documents_of(folder / "a.npy", options); }),
      name +
          ", document 1: token id -1 (at 0 of the file) is outside the vocabulary of 260: ids "
          "end at 259; encode with this model's tokenizer");
  write_file(folder / "a.npy", npy_bytes(1, npy_dictionary("<i4", "(3, 0)"), ""));
  EXPECT_EQ(error_of([&] { documents_of(folder / "a.npy", options); }),
            name + ": its rows have no tokens; write it again");
}

TEST(Arrays, OfRawTokensNeedATypeThatFits) {
  const TempDir folder;
  const std::string name = (folder / "a.bin").string();
  write_file(folder / "a.bin", "12345");
  DataOptions options = plain_options();
  const auto says = [&] {
    return error_of([&] { opened({{folder / "a.bin", {}}}, options, nullptr); });
  };
  EXPECT_EQ(says(),
            name + ": token ids of 2 bytes or of 4? Say which: score.token_type is u16 or u32");
  options.token_type = TokenType::kU32;
  EXPECT_EQ(says(), name +
                        ": cut short, or of another type: 5 bytes are no whole number of ids of 4 "
                        "bytes");
  options.token_type = TokenType::kI64;
  EXPECT_EQ(says(), "raw token ids have 2 bytes or 4; say u16 or u32");
  options.token_type = TokenType::kU16;
  options.end_token = 260;
  EXPECT_EQ(says(),
            "the token that ends a document, 260, is outside the vocabulary of 260: ids end at "
            "259");
}

// ------------------------------------------------------------------ files

TEST(DataFiles, ThatAreNoFilesAreRefusedWithoutWaiting) {
  const TempDir folder;
  ASSERT_EQ(mkfifo((folder / "p.jsonl").c_str(), 0600), 0);
  std::filesystem::create_directory(folder / "d.jsonl");
  const auto says = [](const std::filesystem::path& path) {
    DataOptions options = plain_options();
    options.format = DataFormat::kJsonLines;
    return error_of([&] { opened({{path, {}}}, options, nullptr); });
  };
  const std::string reason =
      "; a data set is read again when its job goes on, so it must be a file: write it to one "
      "first";
  EXPECT_EQ(says(folder / "p.jsonl"), (folder / "p.jsonl").string() + ": is a pipe" + reason);
  EXPECT_EQ(says(folder / "d.jsonl"), (folder / "d.jsonl").string() + ": is a folder" + reason);
  EXPECT_EQ(says("/dev/null"), "/dev/null: is a device" + reason);
  EXPECT_EQ(says("-"), "-: is standard input" + reason);
  EXPECT_EQ(says(folder / "none.jsonl"),
            "cannot read " + (folder / "none.jsonl").string() +
                ": No such file or directory (errno 2); expected a file "
                "of documents");
}

TEST(DataFiles, OfUnknownEndingsNeedAFormat) {
  const TempDir folder;
  write_file(folder / "a.JSONL", "{\"input_ids\": [1]}");
  write_file(folder / "a.dat", "{\"input_ids\": [1]}");
  write_file(folder / "l.NPY", npy_of<int64_t>("<i8", {1, 2}));
  write_file(folder / "a.Npy", npy_of<int64_t>("<i8", {3, 4, 5}));
  EXPECT_EQ(ids_of(documents_of(folder / "a.Npy", plain_options(), nullptr, folder / "l.NPY")),
            (std::vector<Ids>{{3}, {4, 5}}));
  EXPECT_EQ(documents_of(folder / "a.JSONL", plain_options()).size(), 1u);
  EXPECT_EQ(error_of([&] { documents_of(folder / "a.dat", plain_options()); }),
            (folder / "a.dat").string() +
                ": cannot tell what is in it by its name; expected .jsonl, "
                ".ndjson, .txt, .npy or .bin, or say the format");
  DataOptions options = plain_options();
  options.format = DataFormat::kJsonLines;
  EXPECT_EQ(documents_of(folder / "a.dat", options).size(), 1u);
  write_file(folder / "l", "1\n");
  EXPECT_EQ(error_of([&] { documents_of(folder / "a.dat", options, nullptr, folder / "l"); }),
            (folder / "a.dat").string() + ": lengths of documents are for .npy and .bin");
}

TEST(DataFiles, ThatAreCutWhileTheyAreReadSaySo) {
  const TempDir folder;
  const std::string name = (folder / "a.jsonl").string();
  std::string line = "{\"input_ids\": [1]}\n";
  std::string text;
  while (text.size() < 3 * kMiB) text += line;
  write_file(folder / "a.jsonl", text);
  DataOptions options = plain_options();
  options.skip_bad = true;
  const auto source = opened({{folder / "a.jsonl", {}}}, options, nullptr);
  Document document;
  ASSERT_TRUE(source->next(document));
  EXPECT_NO_THROW(source->check_unchanged());
  std::filesystem::resize_file(folder / "a.jsonl", 2 * kMiB - 5);
  DataPosition position;
  const std::string message = error_of([&] {
    do {
      position = source->position();
    } while (source->next(document));
  });
  EXPECT_EQ(message,
            fmt::format("{}: ends at byte {} and had {} when it was opened: it was cut while "
                        "it was read; restore it and start again",
                        name, 2 * kMiB - 5, text.size()));
  EXPECT_TRUE(source->position() == position) << "before the document that could not be read";
  EXPECT_NE(error_of([&] { source->next(document); }), "") << "nothing of it is given later";
  EXPECT_TRUE(source->position() == position);
  EXPECT_EQ(
      error_of([&] { source->check_unchanged(); }),
      fmt::format(
          "{}: changed while it was read: {} bytes when it was opened, {} bytes now; what was "
          "read may be a mixture of both: start again",
          name, text.size(), 2 * kMiB - 5));
}

TEST(DataFiles, ThatAreCutWithinAnArraySaySo) {
  const TempDir folder;
  write_file(folder / "a.bin", std::string(2 * kMiB, '\0'));
  DataOptions options = plain_options();
  options.token_type = TokenType::kU16;
  const auto source = opened({{folder / "a.bin", {}}}, options, nullptr);
  std::filesystem::resize_file(folder / "a.bin", kMiB);
  Document document;
  // It is opened anew for its first document, and is another by then.
  EXPECT_EQ(error_of([&] { source->next(document); }),
            (folder / "a.bin").string() +
                ": changed while it was read: 2097152 bytes when it was opened, 1048576 bytes now; "
                "what was "
                "read may be a mixture of both: start again");
}

TEST(DataFiles, ThatAreCutWithinADocumentGiveNothingOfIt) {
  const TempDir folder;
  Ids ids(1'000'000, 1);
  ids[9] = 2;
  write_file(folder / "a.bin", bytes_of<uint16_t>(ids));
  DataOptions options = plain_options();
  options.token_type = TokenType::kU16;
  options.end_token = 2;
  const auto source = opened({{folder / "a.bin", {}}}, options, nullptr);
  Document document;
  ASSERT_TRUE(source->next(document));
  const DataPosition position = source->position();
  EXPECT_EQ(position.offset, 20u);
  std::filesystem::resize_file(folder / "a.bin", 1'000'000);
  EXPECT_EQ(
      error_of([&] { source->next(document); }),
      (folder / "a.bin").string() +
          ": ends at byte 1000000 and had 2000000 when it was opened: it was cut while it was "
          "read; restore it and start again");
  EXPECT_TRUE(source->position() == position);
  EXPECT_NE(error_of([&] { source->next(document); }), "");
  EXPECT_TRUE(source->position() == position);
}

TEST(DataFiles, ThatFailOnceCountBadDocumentsOnce) {
  const TempDir folder;
  Ids ids(2 * TokenArray::kBufferValues, 1);
  ids[0] = ids[2] = 9;
  ids[1] = 999;
  const std::string whole = bytes_of<uint16_t>(ids);
  write_file(folder / "a.bin", whole);
  DataOptions options = plain_options();
  options.token_type = TokenType::kU16;
  options.end_token = 9;
  options.skip_bad = true;
  const auto source = opened({{folder / "a.bin", {}}}, options, nullptr);
  Document document;
  ASSERT_TRUE(source->next(document));
  const auto time = std::filesystem::last_write_time(folder / "a.bin");
  std::filesystem::resize_file(folder / "a.bin", whole.size() - 2);
  EXPECT_NE(error_of([&] { source->next(document); }).find("ends at byte"), std::string::npos);
  EXPECT_EQ(source->skipped().count, 0u) << "as position() says";
  EXPECT_EQ(source->skipped().reasons.size(), 0u);
  write_file(folder / "a.bin", whole);
  std::filesystem::last_write_time(folder / "a.bin", time);
  EXPECT_TRUE(source->next(document));
  EXPECT_EQ(document.ids.size(), ids.size() - 3);
  EXPECT_EQ(source->skipped().count, 1u);
  EXPECT_EQ(source->skipped().reasons.size(), 1u);
}

TEST(DataFiles, ThatChangedOtherwiseSaySoAtTheEnd) {
  const TempDir folder;
  const std::string line = "{\"input_ids\": [1]}\n";
  const auto file = folder / "b.jsonl";
  write_file(folder / "a.jsonl", line);
  write_file(file, line);
  const auto sources = [&] {
    return opened({{folder / "a.jsonl", {}}, {file, {}}}, plain_options(), nullptr);
  };
  auto source = sources();
  EXPECT_EQ(rest_of(*source).size(), 2u);
  EXPECT_NO_THROW(source->check_unchanged());
  const std::string mixture = "; what was read may be a mixture of both: start again";
  const timespec early[2] = {{1, 0}, {1, 5}};
  ASSERT_EQ(utimensat(AT_FDCWD, file.c_str(), early, 0), 0);
  EXPECT_EQ(error_of([&] { source->check_unchanged(); }),
            file.string() + ": was written to while it was read" + mixture);
  source = sources();
  write_file(folder / "c", line);
  ASSERT_EQ(utimensat(AT_FDCWD, (folder / "c").c_str(), early, 0), 0);
  std::filesystem::rename(folder / "c", file);
  EXPECT_EQ(error_of([&] { source->check_unchanged(); }),
            file.string() + ": was replaced by another file while it was read" + mixture);
  EXPECT_EQ(error_of([&] { rest_of(*source); }),
            file.string() + ": was replaced by another file while it was read" + mixture);
  std::filesystem::remove(file);
  EXPECT_EQ(error_of([&] { source->check_unchanged(); }),
            file.string() +
                ": was there when it was opened and cannot be found now: No such file or directory "
                "(errno 2)");
}

// ------------------------------------------------------------------ all formats

/// Random documents without the end token, of any length.
std::vector<Ids> random_documents(std::mt19937_64& random, uint64_t count, uint32_t end_token) {
  std::vector<Ids> documents(count);
  for (Ids& ids : documents) {
    ids.resize(1 + random() % (random() % 8 == 0 ? 3000 : 20));
    for (uint32_t& id : ids) id = static_cast<uint32_t>(random() % end_token);
  }
  return documents;
}

struct Written {
  std::vector<DataInput> inputs;
  DataOptions options;
};

/// The same documents in every format that can hold them.
std::map<std::string, Written> write_in_all_formats(const TempDir& folder,
                                                    const std::vector<Ids>& documents,
                                                    uint32_t end_token) {
  std::string lines;
  std::string lengths;
  Ids counts;
  for (const Ids& ids : documents) {
    lines += Json{{"input_ids", ids}}.dump() + "\n";
    lengths += std::to_string(ids.size()) + "\n";
    counts.push_back(static_cast<uint32_t>(ids.size()));
  }
  const Ids all = joined(documents);
  write_file(folder / "lines.jsonl", lines);
  write_file(folder / "lengths", lengths);
  write_file(folder / "lengths.npy", npy_of<uint32_t>("<u4", counts));
  write_file(folder / "u16.bin", bytes_of<uint16_t>(all));
  write_file(folder / "u32.bin", bytes_of<uint32_t>(all));
  write_file(folder / "u16.npy", npy_of<uint16_t>("<u2", all));
  write_file(folder / "i64.npy", npy_of<int64_t>("<i8", all));
  DataOptions u16 = plain_options();
  u16.token_type = TokenType::kU16;
  DataOptions u32 = plain_options();
  u32.token_type = TokenType::kU32;
  DataOptions ends = u16;
  ends.end_token = end_token;
  return {{"jsonl", {{{folder / "lines.jsonl", {}}}, u16}},
          {"u16.bin, lengths", {{{folder / "u16.bin", folder / "lengths"}}, u16}},
          {"u32.bin, lengths.npy", {{{folder / "u32.bin", folder / "lengths.npy"}}, u32}},
          {"u16.bin, end token", {{{folder / "u16.bin", {}}}, ends}},
          {"u16.npy, end token", {{{folder / "u16.npy", {}}}, ends}},
          {"i64.npy, lengths", {{{folder / "i64.npy", folder / "lengths"}}, u16}}};
}

TEST(DocumentSource, GivesTheSameTokensFromEveryFormat) {
  const uint64_t seed = run_seed();
  SCOPED_TRACE(seed_note(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 5; ++round) {
    const TempDir folder;
    constexpr uint32_t kEnd = 259;
    std::vector<Ids> documents = random_documents(random, random() % 200, kEnd);
    if (round == 0) documents.emplace_back(200'000, 5);  // longer than the buffer
    for (Ids& ids : documents) {
      if (round % 2 == 0 || &ids != &documents.back()) ids.push_back(kEnd);
    }
    for (const auto& [name, written] : write_in_all_formats(folder, documents, kEnd)) {
      const auto source = opened(written.inputs, written.options, nullptr);
      EXPECT_EQ(ids_of(rest_of(*source)), documents) << name;
      EXPECT_NO_THROW(source->check_unchanged());
    }
  }
}

TEST(DocumentSource, GivesTheSameTokensOfTextsAsTheTokenizer) {
  const uint64_t seed = run_seed();
  SCOPED_TRACE(seed_note(seed));
  std::mt19937_64 random(seed);
  const ByteTokenizer tokenizer({259});
  const TempDir folder;
  const std::vector<std::string> words{"ab", "c", " b", " ", "\t", "é", "日本", "<s>", "\"", "\\"};
  std::string lines;
  std::string json;
  std::vector<Ids> expected;
  for (int i = 0; i < 300; ++i) {
    std::string text = "x";  // no blank line
    for (uint64_t n = random() % 10; n > 0; --n) text += words[random() % words.size()];
    lines += text + (random() % 2 == 0 ? "\n" : "\r\n");
    json += Json{{"text", text}}.dump() + "\n";
    expected.push_back(tokenizer.encode_prompt(text));
  }
  write_file(folder / "a.txt", lines);
  write_file(folder / "a.ndjson", json);
  DataOptions options = plain_options();
  options.text_lines = true;
  EXPECT_EQ(ids_of(documents_of(folder / "a.txt", options, &tokenizer)), expected);
  EXPECT_EQ(ids_of(documents_of(folder / "a.ndjson", options, &tokenizer)), expected);
}

/// Reads `written` from every position and expects the rest that an unbroken sweep gives.
void expect_the_same_rest_from_everywhere(const std::vector<DataInput>& inputs,
                                          const DataOptions& options, const Tokenizer* tokenizer) {
  const auto source = opened(inputs, options, tokenizer);
  std::vector<DataPosition> positions{source->position()};
  std::vector<Document> all;
  for (Document document; source->next(document);) {
    all.push_back(document);
    positions.push_back(source->position());
  }
  const auto resumed = opened(inputs, options, tokenizer);
  for (size_t k = positions.size(); k-- > 0;) {
    SCOPED_TRACE(fmt::format("going on at document {}", k));
    EXPECT_EQ(positions[k].documents, k);
    resumed->seek(positions[k]);
    EXPECT_EQ(resumed->position(), positions[k]);
    const auto rest = rest_of(*resumed);
    ASSERT_EQ(rest.size(), all.size() - k);
    for (size_t i = 0; i < rest.size(); ++i)
      ASSERT_TRUE(same(rest[i], all[k + i])) << rest[i].place;
    EXPECT_EQ(resumed->skipped().count, source->skipped().count);
  }
}

TEST(DocumentSource, GoesOnAtEveryDocument) {
  const uint64_t seed = run_seed();
  SCOPED_TRACE(seed_note(seed));
  std::mt19937_64 random(seed);
  const TempDir folder;
  constexpr uint32_t kEnd = 259;
  std::vector<Ids> documents = random_documents(random, 40, kEnd);
  for (Ids& ids : documents) ids.push_back(kEnd);
  for (const auto& [name, written] : write_in_all_formats(folder, documents, kEnd)) {
    SCOPED_TRACE(name);
    expect_the_same_rest_from_everywhere(written.inputs, written.options, nullptr);
  }
}

TEST(DocumentSource, GoesOnInFilesOfManyKindsWithBadDocuments) {
  const TempDir folder;
  const ByteTokenizer tokenizer({259});
  write_file(folder / "a.jsonl",
             "\xEF\xBB\xBF\n{\"text\": \"ab\"}\r\nx\n\n{\"text\": \"c\", \"id\": 5}\nx\n");
  write_file(folder / "empty.jsonl", "");
  write_file(folder / "a.txt", "a whole text\nof two lines");
  write_file(folder / "rows.npy", npy_of<uint16_t>("<u2", {1, 2, 3, 999, 5, 6}, "(3, 2)"));
  write_file(folder / "a.bin", bytes_of<uint16_t>({1, 2, 9, 3, 300, 9, 4, 9}));
  write_file(folder / "b.jsonl", "x\n{\"prompt\": \"a\", \"completion\": \"c\"}");
  DataOptions options = plain_options();
  options.token_type = TokenType::kU16;
  options.end_token = 9;
  options.skip_bad = true;
  std::vector<DataInput> inputs;
  for (const char* name : {"a.jsonl", "empty.jsonl", "a.txt", "rows.npy", "a.bin", "b.jsonl"}) {
    inputs.push_back({folder / name, {}});
  }
  const auto source = opened(inputs, options, &tokenizer);
  EXPECT_EQ(rest_of(*source).size(), 8u);
  EXPECT_EQ(source->skipped().count, 5u);
  expect_the_same_rest_from_everywhere(inputs, options, &tokenizer);
}

TEST(DocumentSource, RefusesPositionsThatAreNone) {
  const TempDir folder;
  write_file(folder / "a.jsonl", "{\"input_ids\": [1]}\n");
  write_file(folder / "a.npy", npy_of<uint16_t>("<u2", {1, 2, 3, 4}, "(2, 2)"));
  const auto says = [&](const char* name, DataPosition position) {
    const auto source = opened({{folder / name, {}}}, plain_options(), nullptr);
    return error_of([&] { source->seek(position); });
  };
  const std::string start =
      ", where the job would go on; the file is not the one it began with: start again";
  EXPECT_EQ(says("a.jsonl", {1, 0, 0, 1, 5, 0}),
            (folder / "a.jsonl").string() + ": no line begins at byte 5" + start);
  EXPECT_EQ(says("a.npy", {1, 0, 0, 1, 129, 0}),
            (folder / "a.npy").string() + ": no token begins at byte 129" + start);
  EXPECT_EQ(says("a.npy", {1, 0, 0, 1, 130, 0}),
            (folder / "a.npy").string() + ": no row begins at byte 130" + start);
  EXPECT_EQ(
      says("a.npy", {1, 0, 2, 0, 0, 0}),
      "the job would go on in file 3 of its data, and 1 is given; give the files that it began "
      "with");
}

// ------------------------------------------------------------------ pairs

TEST(Pairs, AreEncodedAsTheHarnessDoes) {
  SPILLWAY_NEEDS_TEST_DATA();
  const Json families =
      Json::parse(test::read_file(std::string(SPILLWAY_TEST_SOURCE) + "/pair_encoding_cases.json"));
  ASSERT_EQ(families.size(), 2u);
  for (const auto& [family, table] : families.items()) {
    const auto tokenizer = load_tokenizer(test::test_data() / "tokenizers" / family);
    ASSERT_GT(table["cases"].size(), 20u);
    for (const Json& row : table["cases"]) {
      const TokenPair pair = encode_pair(*tokenizer, row["context"].get<std::string>(),
                                         row["continuation"].get<std::string>(),
                                         table["prefix_token"].get<uint32_t>());
      EXPECT_EQ(pair.context, row["context_ids"].get<Ids>()) << family << " " << row;
      EXPECT_EQ(pair.continuation, row["continuation_ids"].get<Ids>()) << family << " " << row;
    }
  }
}

TEST(Pairs, OfWhiteSpaceAreAfterThePrefixToken) {
  const ByteTokenizer plain;
  TokenPair pair = encode_pair(plain, " \n", "b", 7);
  EXPECT_EQ(pair.context, Ids{7});
  EXPECT_EQ(pair.continuation, (Ids{' ', '\n', 'b'}));
  const ByteTokenizer with_bos({259});
  pair = encode_pair(with_bos, "\x1c ", "b", 7);
  EXPECT_EQ(pair.context, Ids{259});
  EXPECT_EQ(pair.continuation, (Ids{0x1c, 256}));
  pair = encode_pair(plain, "", "<s>x", 259);
  EXPECT_EQ(pair.context, Ids{259});
  EXPECT_EQ(pair.continuation, Ids{'x'}) << "the prefix token does not stand there twice";
}

// ------------------------------------------------------------------ windows

TEST(Windows, ScoreEveryTokenOnceWithAsMuchBeforeItAsIsPromised) {
  const uint64_t seed = run_seed();
  SCOPED_TRACE(seed_note(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20'000; ++round) {
    const auto window = static_cast<uint32_t>(2 + random() % 12);
    const auto stride = static_cast<uint32_t>(1 + random() % (window - 1));
    const uint64_t tokens = random() % 60;
    const uint64_t from = 1 + random() % 60;
    std::vector<int> scored(tokens);
    uint64_t end = 0;
    for (const ScoreWindow& w : windows_of(tokens, from, window, stride)) {
      ASSERT_GE(w.scored_from, 1u);
      ASSERT_LT(w.scored_from, w.tokens);
      ASSERT_LE(w.tokens, window);
      ASSERT_LE(w.begin + w.tokens, tokens);
      ASSERT_GT(w.begin + w.tokens, end);
      end = w.begin + w.tokens;
      for (uint64_t t = w.scored_from; t < w.tokens; ++t) {
        ++scored[w.begin + t];
        ASSERT_GE(t, std::min<uint64_t>(w.begin + t, window - stride));
      }
    }
    for (uint64_t t = 0; t < tokens; ++t) {
      ASSERT_EQ(scored[t], t >= from ? 1 : 0) << fmt::format(
          "token {} of {} from {}, window {}, stride {}", t, tokens, from, window, stride);
    }
  }
}

TEST(Windows, OverlapByOneTokenUnlessAskedOtherwise) {
  for (const uint32_t window : {2u, 3u, 10u}) {
    for (uint64_t tokens = 0; tokens < 50; ++tokens) {
      std::vector<ScoreWindow> expected;  // as plan_scoring() cuts
      for (uint64_t begin = 0; begin + 1 < tokens; begin += window - 1) {
        expected.push_back(
            {begin, static_cast<uint32_t>(std::min<uint64_t>(window, tokens - begin)), 1});
      }
      std::vector<ScoreWindow> windows;
      DocumentWindows source(tokens, 1, window);
      for (ScoreWindow next; source.next(next);) windows.push_back(next);
      EXPECT_EQ(windows, expected) << tokens << " tokens, window of " << window;
    }
  }
}

TEST(Windows, KeepWhatOneMayScoreTogether) {
  const auto fits = windows_of(1000, 995, 100, 50);
  ASSERT_EQ(fits.size(), 1u);
  EXPECT_EQ(fits[0], (ScoreWindow{900, 100, 95}));
  const auto whole = windows_of(80, 70, 100, 50);
  ASSERT_EQ(whole.size(), 1u);
  EXPECT_EQ(whole[0], (ScoreWindow{0, 80, 70}));
  const auto several = windows_of(1000, 850, 100, 40);
  ASSERT_EQ(several.size(), 4u);
  EXPECT_EQ(several[0], (ScoreWindow{790, 100, 60}));
  EXPECT_EQ(several[3], (ScoreWindow{910, 90, 60}));
}

// ------------------------------------------------------------------ fingerprints

TEST(Fingerprints, AreXxh3OfWholeFiles) {
  const TempDir folder;
  write_file(folder / "empty", "");
  write_file(folder / "abc", "abc");
  const std::string large(3 * kMiB + 1, 'x');
  write_file(folder / "large", large);
  const StopFlag stop;
  std::vector<std::pair<uint64_t, uint64_t>> told;
  const DataFingerprint fingerprint =
      fingerprint_files({folder / "empty", folder / "abc", folder / "large"}, stop,
                        [&](uint64_t done, uint64_t total) { told.emplace_back(done, total); });
  ASSERT_EQ(fingerprint.files.size(), 3u);
  EXPECT_EQ(fingerprint.files[0].xxh3, "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(fingerprint.files[1].xxh3, "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(fingerprint.files[2].bytes, large.size());
  ASSERT_EQ(told.size(), 5u);
  EXPECT_EQ(told[0], (std::pair<uint64_t, uint64_t>(3, large.size() + 3)));
  EXPECT_EQ(told[4], (std::pair<uint64_t, uint64_t>(large.size() + 3, large.size() + 3)));
  EXPECT_EQ(parse_fingerprint(Json::parse(fingerprint_json(fingerprint).dump()), "x"), fingerprint);
  for (const char* damaged : {"{}", "[1]", "[{}]", "[{\"name\": 1, \"bytes\": 1, \"xxh3\": \"\"}]",
                              "[{\"name\": \"\", \"bytes\": -1, \"xxh3\": \"\"}]"}) {
    EXPECT_EQ(error_of([&] { parse_fingerprint(Json::parse(damaged), "x"); }),
              "x: not a fingerprint of data: expected a list of objects with name, bytes and xxh3");
  }
}

TEST(Fingerprints, StopWhenAsked) {
  const TempDir folder;
  write_file(folder / "large", std::string(3 * kMiB, 'x'));
  StopFlag stop;
  EXPECT_THROW(
      fingerprint_files({folder / "large"}, stop, [&](uint64_t, uint64_t) { stop.request(); }),
      Stopped);
}

TEST(Fingerprints, NameWhatIsAnother) {
  const auto files = [](std::vector<FileFingerprint> list) {
    return DataFingerprint{std::move(list)};
  };
  const FileFingerprint a{"a", 10, "aa"};
  const FileFingerprint b{"b", 10, "bb"};
  EXPECT_EQ(fingerprint_difference_text(files({a, b}), files({a, b})), "");
  EXPECT_EQ(fingerprint_difference_text(files({a}), files({{"moved", 10, "aa"}})), "");
  EXPECT_EQ(fingerprint_difference_text(files({a, b}), files({a})),
            "2 files when the job began, 1 now");
  EXPECT_EQ(fingerprint_difference_text(files({a, b}), files({b, a})),
            "the same files in another order: b now stands where a was");
  EXPECT_EQ(fingerprint_difference_text(files({a}), files({{"a", 12, "aa"}})),
            "a: 12 bytes now, not the 10 that the job began with");
  EXPECT_EQ(fingerprint_difference_text(files({a}), files({{"c", 12, "aa"}})),
            "c: 12 bytes now, not the 10 of a that the job began with");
  EXPECT_EQ(fingerprint_difference_text(files({a}), files({{"a", 10, "cc"}})),
            "a: of the same size, but not the content that the job began with");
}

}  // namespace
}  // namespace spillway
