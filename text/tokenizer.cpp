#include "text/tokenizer.h"

#include <algorithm>

#include "core/user_path.h"

namespace spillway {

std::vector<uint32_t> Tokenizer::encode_prompt(std::string_view text) const {
  std::vector<uint32_t> ids = encode(text);
  const std::vector<uint32_t>& prefix = bos();
  if (ids.size() < prefix.size() || !std::equal(prefix.begin(), prefix.end(), ids.begin())) {
    ids.insert(ids.begin(), prefix.begin(), prefix.end());
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const uint32_t> ids) const {
  const auto stream = detokenizer();
  std::string text;
  for (const uint32_t id : ids) text += stream->add(id);
  return text + stream->finish();
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory) {
  const auto json = directory / "tokenizer.json";
  if (has_entry(json)) return load_tokenizer_json(json);
  const auto model = directory / "tokenizer.model";
  if (has_entry(model)) return load_sentencepiece(model);
  return nullptr;
}

}  // namespace spillway
