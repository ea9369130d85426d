// SentencePiece BPE from a GGUF file's tokens and scores: the model that they came from is put
// together again and given to the library, so that merges, ties and bytes are its own.
#pragma once

#include <memory>

#include "text/gguf_vocabulary.h"
#include "text/tokenizer.h"

namespace spillway {

/// Throws Error.
std::unique_ptr<Tokenizer> gguf_sentencepiece(const GgufVocabulary& vocabulary);

}  // namespace spillway
