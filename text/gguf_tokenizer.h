// Tokenizers from a GGUF file's metadata: byte-level BPE ("gpt2") and SentencePiece BPE ("llama").
// They give the tokens that the model's own tokenizer gives, or refuse in one line.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "text/tokenizer.h"

namespace spillway {

/// Null when the file holds no tokenizer. Throws Error naming file, key and what is wrong with it
/// or not supported.
std::unique_ptr<Tokenizer> gguf_tokenizer(const GgufMetadata& metadata);

/// Ids that end an answer: those that the file names, and control tokens that do so by their texts
/// (`<|im_end|>`, `<|eot_id|>`). In ascending order. Throws Error.
std::vector<uint32_t> gguf_end_tokens(const GgufMetadata& metadata);

}  // namespace spillway
