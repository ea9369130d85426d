// A checkpoint's tokenizer in the words of a GGUF file's metadata.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/gguf.h"

namespace spillway {

struct TokenizerExport {
  uint32_t vocab = 0;                ///< of the model: tokens that are none fill the list up
  std::vector<uint32_t> end_tokens;  ///< of the model
};

/// Sets the end tokens, with a tokenizer or without one: as many as there are keys, which is three.
void set_end_tokens(const TokenizerExport& wanted, GgufMetadata& metadata);

/// Sets tokenizer.* of what is in the folder (tokenizer.json, tokenizer.model). Empty where that
/// was done, and gives the same tokens; else nothing is set and the text says why: what a tokenizer
/// does that the format cannot say, a text that it refuses, or that there is none. Throws Error for
/// a tokenizer that cannot be read.
std::string export_tokenizer(const std::filesystem::path& folder, const TokenizerExport& wanted,
                             GgufMetadata& metadata);

}  // namespace spillway
