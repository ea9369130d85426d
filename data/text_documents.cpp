#include "data/text_documents.h"

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "core/error.h"
#include "data/json_document.h"

namespace spillway {
namespace {

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r\v\f") == std::string_view::npos;
}

}  // namespace

LineDocuments::LineDocuments(const DataFile& file, Content content, const DataOptions& options,
                             const Tokenizer* tokenizer)
    : file_(file),
      content_(content),
      options_(options),
      tokenizer_(tokenizer),
      lines_(file, options.max_line_bytes) {}

bool LineDocuments::next(Document& document) {
  Line line;
  do {
    if (!lines_.next(line)) return false;
  } while (!line.too_long && is_blank(line.text));
  document.place = fmt::format("{}, line {}", file_.name(), line.number);
  if (line.too_long) {
    throw BadDocument(
        fmt::format("{}: longer than {}, which is as much as a line may have; cut the "
                    "document into several",
                    document.place, format_bytes(options_.max_line_bytes)));
  }
  if (content_ == Content::kJson) {
    read_json_document(line.text, document.place, options_, tokenizer_, document);
  } else {
    encode_text_document(line.text, document.place, options_, tokenizer_, document);
  }
  return true;
}

WholeText::WholeText(const DataFile& file, const DataOptions& options, const Tokenizer* tokenizer)
    : file_(file), options_(options), tokenizer_(tokenizer) {
  if (file.bytes() <= options.max_text_bytes) return;
  throw Error(
      fmt::format("{}: {}, and a text that is one document has at most {}; cut it, or read "
                  "each of its lines as a document",
                  file.name(), format_bytes(file.bytes()), format_bytes(options.max_text_bytes)));
}

bool WholeText::next(Document& document) {
  if (read_) return false;
  read_ = true;
  document.place = file_.name();
  std::string bytes(file_.bytes(), '\0');
  file_.read(0, bytes);
  std::string_view text = bytes;
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  if (text.empty()) {
    throw BadDocument(fmt::format("{}: the text is empty; leave the file out", document.place));
  }
  encode_text_document(text, document.place, options_, tokenizer_, document);
  return true;
}

}  // namespace spillway
