// How byte-level tokenizers split text, by the names that GGUF files give to it
// (`tokenizer.ggml.pre`). A wrong one changes tokens silently, so that only names are known whose
// rules are those of the models' own tokenizers.
#pragma once

#include <string>
#include <string_view>

#include "text/json_tokenizer.h"

namespace spillway {

struct GgufPreTokenizer {
  std::string_view name;
  void (*build)(TokenizerParts& parts);  ///< sets pre_tokenizer and byte_level
  std::string_view pattern = {};         ///< where one that isolates is all there is
  bool composes = false;                 ///< text is brought to NFC
  bool ignores_merges = false;           ///< a word that is a token is that token
  bool adds_bos = false;                 ///< where the file does not say
};

/// Null for a name that is not known.
const GgufPreTokenizer* find_gguf_pre_tokenizer(std::string_view name);
/// The name of tokenizers that split by this pattern alone; empty where none is known.
std::string_view gguf_name_of_pattern(std::string_view pattern, bool composes, bool ignores_merges);

}  // namespace spillway
