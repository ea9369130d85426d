// Lines of JSON as documents to score.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/json_document.h"

namespace {

/// A byte a token.
class Bytes final : public spillway::Tokenizer {
 public:
  std::vector<uint32_t> encode(std::string_view text) const override {
    std::vector<uint32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::unique_ptr<spillway::Detokenizer> detokenizer() const override { return nullptr; }
  const std::vector<uint32_t>& bos() const override { return bos_; }
  uint32_t vocab_size() const override { return 256; }

 private:
  std::vector<uint32_t> bos_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Bytes tokenizer;
  spillway::DataOptions options;
  options.vocab = 200;
  spillway::Document document;
  try {
    spillway::read_json_document(text, "fuzz, line 1", options, &tokenizer, document);
  } catch (const spillway::BadDocument& bad) {  // the only way out that bad input may take
    if (std::string_view(bad.what()).find('\n') != std::string_view::npos) __builtin_trap();
    return 0;
  }
  if (document.ids.empty() || document.scored_from < 1) __builtin_trap();
  // Of a pair something is left to score; a single token has nothing before it.
  if (document.scored_from > 1 && document.scored_from >= document.ids.size()) __builtin_trap();
  for (const uint32_t id : document.ids) {
    if (id >= options.vocab) __builtin_trap();
  }
  return 0;
}
