// Documents to score, read from files one after the other. However large the files are, memory is
// a few buffers and the longest document; of a line some times its length, while it is read: the
// line, its text, and its tokens. Owner: a DocumentSource owns its open file and refers to
// the tokenizer. Not for several threads at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/stop.h"
#include "core/units.h"
#include "data/token_array.h"
#include "text/tokenizer.h"

namespace spillway {

struct Document {
  uint64_t number = 0;  ///< among those handed out, over all files: 0, 1, 2, ...
  std::string id;       ///< as the file gives it; empty where it gives none
  std::string place;    ///< "a.jsonl, line 3", for messages
  std::vector<uint32_t> ids;
  uint32_t scored_from = 1;  ///< the first token whose log-probability is wanted, at least 1
};

/// Where a source goes on: before the next document. Plain data, to be kept with a job's results.
struct DataPosition {
  uint64_t documents = 0;       ///< handed out before
  uint64_t skipped = 0;         ///< bad ones passed over before
  uint64_t file = 0;            ///< of the inputs
  uint64_t item = 0;            ///< lines, rows or documents of that file that are before
  uint64_t offset = 0;          ///< bytes in that file
  uint64_t lengths_offset = 0;  ///< bytes in its file of lengths
  bool operator==(const DataPosition&) const = default;
};

/// What is wrong with one document; the ones behind it can be read.
class BadDocument : public Error {
 public:
  using Error::Error;
};

struct SkippedDocuments {
  static constexpr size_t kReasons = 10;
  uint64_t count = 0;
  std::vector<std::string> reasons;  ///< of the first few: file, line and what is wrong
};

class DocumentSource {
 public:
  virtual ~DocumentSource() = default;

  /// The next document; false behind the last. Throws BadDocument naming file, line and reason for
  /// one that cannot be used (where they are not skipped), and goes on behind it when called again.
  /// Throws Error for files that fail, were cut or are another now; position() stays before it, and
  /// another call tries again.
  virtual bool next(Document& document) = 0;

  virtual DataPosition position() const = 0;
  /// Goes on where position() was that, with the same inputs and options; nothing before is read.
  /// Throws Error where it cannot be a position in these files.
  virtual void seek(const DataPosition& position) = 0;

  /// Bad ones that were passed over; after a seek the reasons are of those since.
  virtual const SkippedDocuments& skipped() const = 0;
  /// At the end of a sweep: throws Error naming a file that changed since the source was made.
  virtual void check_unchanged() const = 0;
  /// Every file that is read, those of lengths too, in the order of the inputs.
  virtual std::vector<std::filesystem::path> files() const = 0;
  /// Bytes that the source keeps for reading, apart from documents.
  virtual uint64_t buffer_bytes() const = 0;
};

enum class DataFormat {
  kByEnding,   ///< .jsonl or .ndjson, .txt, .npy, .bin
  kJsonLines,  ///< an object a line: text, input_ids, or a pair of which the second is scored
  kText,       ///< one document, or one a line
  kNpy,        ///< token ids as numpy.save writes them: a document a row, or packed
  kRawTokens,  ///< token ids and nothing else, packed
};

struct DataInput {
  std::filesystem::path file;
  /// Of packed tokens: how many each document has. A 1-D .npy, or a text of one number a line.
  std::filesystem::path lengths;
};

struct DataOptions {
  DataFormat format = DataFormat::kByEnding;
  uint32_t vocab = 0;  ///< ids end before it
  /// Stands for an empty context; the tokenizer's BOS where it is not given.
  std::optional<uint32_t> prefix_token;
  bool text_lines = false;               ///< texts: every line is a document
  std::optional<uint32_t> end_token;     ///< packed tokens: ends a document, and belongs to it
  std::optional<TokenType> token_type;   ///< of raw tokens: kU16 or kU32
  bool skip_bad = false;                 ///< pass over bad documents and count them
  uint64_t max_line_bytes = 64 * kMiB;   ///< a line takes some times its length in memory
  uint64_t max_text_bytes = 256 * kMiB;  ///< of a text that is one document
  uint64_t max_document_tokens = uint64_t{64} << 20;  ///< of token ids given as such
};

/// Opens every input once, looks at its form, and stands before the first document. Reads files of
/// lengths, which must add up, as a whole: here alone. `tokenizer` may be null where no text comes.
/// Throws Error, Stopped.
std::unique_ptr<DocumentSource> open_documents(std::vector<DataInput> inputs,
                                               const DataOptions& options,
                                               const Tokenizer* tokenizer, const StopFlag& stop);

}  // namespace spillway
