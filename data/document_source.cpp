#include "data/document_source.h"

#include <fmt/format.h>

#include <utility>

#include "core/one_line.h"
#include "data/array_documents.h"
#include "data/data_file.h"
#include "data/document_lengths.h"
#include "data/file_documents.h"
#include "data/text_documents.h"

namespace spillway {
namespace {

[[noreturn]] void throw_unknown_ending(const std::filesystem::path& path) {
  throw Error(
      fmt::format("{}: cannot tell what is in it by its name; expected .jsonl, .ndjson, "
                  ".txt, .npy or .bin, or say the format",
                  printable(path.string())));
}

DataFormat format_of(const std::filesystem::path& path, DataFormat wanted) {
  if (wanted != DataFormat::kByEnding) return wanted;
  const std::string ending = ending_of(path);
  if (ending == ".jsonl" || ending == ".ndjson") return DataFormat::kJsonLines;
  if (ending == ".txt") return DataFormat::kText;
  if (ending == ".npy") return DataFormat::kNpy;
  if (ending == ".bin") return DataFormat::kRawTokens;
  throw_unknown_ending(path);
}

/// All tokens of a file that has nothing else.
TokenArray open_raw(const DataFile& file, const DataOptions& options) {
  if (!options.token_type) {
    throw Error(
        fmt::format("{}: token ids of 2 bytes or of 4? Say which: score.token_type is u16 or u32",
                    file.name()));
  }
  const uint32_t bytes = token_bytes(*options.token_type);
  if (file.bytes() % bytes != 0) {
    throw Error(
        fmt::format("{}: cut short, or of another type: {} are no whole number of ids of {}",
                    file.name(), counted(file.bytes(), "byte"), counted(bytes, "byte")));
  }
  return TokenArray(file, 0, *options.token_type, file.bytes() / bytes);
}

std::unique_ptr<FileDocuments> open_array(const DataFile& file, const DataInput& input,
                                          DataFormat format, const DataOptions& options) {
  std::vector<uint64_t> shape;
  TokenArray array = format == DataFormat::kNpy ? open_npy(file, shape) : open_raw(file, options);
  const bool rows = shape.size() == 2;
  if (input.lengths.empty()) {
    if (rows) return std::make_unique<RowDocuments>(std::move(array), shape[1], options);
    return std::make_unique<PackedDocuments>(std::move(array), nullptr, options);
  }
  if (rows || options.end_token) {
    throw Error(fmt::format("{}: lengths of documents are given, and {}; give one of them",
                            file.name(),
                            rows ? "its rows are documents" : "a token that ends them"));
  }
  return std::make_unique<PackedDocuments>(
      std::move(array), std::make_unique<DocumentLengths>(input.lengths), options);
}

std::unique_ptr<FileDocuments> open_file(const DataFile& file, const DataInput& input,
                                         const DataOptions& options, const Tokenizer* tokenizer) {
  const DataFormat format = format_of(input.file, options.format);
  if (format == DataFormat::kNpy || format == DataFormat::kRawTokens) {
    return open_array(file, input, format, options);
  }
  if (!input.lengths.empty()) {
    throw Error(fmt::format("{}: lengths of documents are for .npy and .bin", file.name()));
  }
  if (format == DataFormat::kText && !options.text_lines) {
    return std::make_unique<WholeText>(file, options, tokenizer);
  }
  const auto content =
      format == DataFormat::kText ? LineDocuments::Content::kText : LineDocuments::Content::kJson;
  return std::make_unique<LineDocuments>(file, content, options, tokenizer);
}

void check_options(const DataOptions& options) {
  CHECK(options.vocab > 0);
  for (const auto& [token, what] :
       {std::pair(options.end_token, "ends a document"),
        std::pair(options.prefix_token, "stands for an empty context")}) {
    if (!token || *token < options.vocab) continue;
    throw Error(fmt::format("the token that {}, {}, is outside the vocabulary of {}: ids end at {}",
                            what, *token, options.vocab, options.vocab - 1));
  }
  if (options.token_type && token_bytes(*options.token_type) > 4) {
    throw Error("raw token ids have 2 bytes or 4; say u16 or u32");
  }
}

class Documents final : public DocumentSource {
 public:
  Documents(std::vector<DataInput> inputs, const DataOptions& options, const Tokenizer* tokenizer,
            const StopFlag& stop)
      : inputs_(std::move(inputs)), options_(options), tokenizer_(tokenizer) {
    check_options(options_);
    for (const std::filesystem::path& path : files()) states_.push_back(DataFile(path).state());
    // Mistakes in the last file are said before the first is scored.
    for (size_t i = 0; i < inputs_.size(); ++i) {
      open(i);
      documents_->check_whole(stop);
    }
    documents_.reset();
  }

  bool next(Document& document) override {
    if (failed_) go_to(*failed_);
    const DataPosition before = position();
    const size_t reasons = skipped_.reasons.size();
    failed_ = before;
    try {
      const bool found = next_in_files(document);
      failed_.reset();
      return found;
    } catch (const BadDocument&) {
      failed_.reset();
      throw;
    } catch (...) {  // those passed over since are so again when it is tried again
      skipped_.count = before.skipped;
      skipped_.reasons.resize(reasons);
      throw;
    }
  }

  DataPosition position() const override {
    if (failed_) return *failed_;
    DataPosition position = position_;
    if (documents_ == nullptr) return position;
    const FilePosition in_file = documents_->position();
    position.item = in_file.item;
    position.offset = in_file.offset;
    position.lengths_offset = in_file.lengths_offset;
    return position;
  }

  void seek(const DataPosition& position) override {
    if (position.file > inputs_.size()) {
      throw Error(fmt::format(
          "the job would go on in file {} of its data, and {} given; give the "
          "files that it began with",
          position.file + 1, inputs_.size() == 1 ? "1 is" : fmt::format("{} are", inputs_.size())));
    }
    go_to(position);
    skipped_ = {position.skipped, {}};
  }

  const SkippedDocuments& skipped() const override { return skipped_; }

  void check_unchanged() const override {
    const auto paths = files();
    for (size_t i = 0; i < paths.size(); ++i) spillway::check_unchanged(paths[i], states_[i]);
  }

  std::vector<std::filesystem::path> files() const override {
    std::vector<std::filesystem::path> paths;
    for (const DataInput& input : inputs_) {
      paths.push_back(input.file);
      if (!input.lengths.empty()) paths.push_back(input.lengths);
    }
    return paths;
  }

  uint64_t buffer_bytes() const override {
    return documents_ != nullptr ? documents_->buffer_bytes() : 0;
  }

 private:
  bool next_in_files(Document& document) {
    while (position_.file < inputs_.size()) {
      if (documents_ == nullptr) open(position_.file);
      if (next_of_file(document)) {
        document.number = position_.documents++;
        return true;
      }
      begin_file(position_.file + 1);
    }
    return false;
  }

  void go_to(const DataPosition position) {
    failed_.reset();
    begin_file(position.file);
    position_.documents = position.documents;
    position_.skipped = skipped_.count = position.skipped;
    const bool untouched = position.item == 0 && position.offset == 0;  // nor is a header passed
    if (position.file == inputs_.size() || untouched) return;
    failed_ = position;
    open(position.file);
    documents_->seek({position.item, position.offset, position.lengths_offset});
    failed_.reset();
  }

  void open(size_t input) {
    documents_.reset();
    file_.emplace(inputs_[input].file);
    documents_ = open_file(*file_, inputs_[input], options_, tokenizer_);
    check_same(input);
  }

  /// The files are those that were there when the source was made.
  void check_same(size_t input) const {
    size_t at = 0;
    for (size_t i = 0; i < input; ++i) at += inputs_[i].lengths.empty() ? 1 : 2;
    spillway::check_unchanged(inputs_[input].file, states_[at]);
    if (!inputs_[input].lengths.empty()) {
      spillway::check_unchanged(inputs_[input].lengths, states_[at + 1]);
    }
  }

  void begin_file(uint64_t file) {
    documents_.reset();
    file_.reset();
    position_.file = file;
  }

  /// The file's next document that is good, or that is bad where those are not skipped.
  bool next_of_file(Document& document) {
    while (true) {
      document.id.clear();
      document.place.clear();
      document.ids.clear();
      document.scored_from = 1;
      try {
        return documents_->next(document);
      } catch (const BadDocument& bad) {
        if (!options_.skip_bad) throw;
        skip(bad);
      }
    }
  }

  void skip(const BadDocument& bad) {
    skipped_.count = ++position_.skipped;
    if (skipped_.reasons.size() < SkippedDocuments::kReasons) {
      skipped_.reasons.emplace_back(bad.what());
    }
  }

  std::vector<DataInput> inputs_;
  DataOptions options_;
  const Tokenizer* tokenizer_;
  std::vector<FileState> states_;  // of files()
  std::optional<DataFile> file_;
  std::unique_ptr<FileDocuments> documents_;  // of the file that is read; refers to it
  DataPosition position_;                     // without the part that is within the file
  std::optional<DataPosition> failed_;        // where an Error left it
  SkippedDocuments skipped_;
};

}  // namespace

std::unique_ptr<DocumentSource> open_documents(std::vector<DataInput> inputs,
                                               const DataOptions& options,
                                               const Tokenizer* tokenizer, const StopFlag& stop) {
  return std::make_unique<Documents>(std::move(inputs), options, tokenizer, stop);
}

}  // namespace spillway
