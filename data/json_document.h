// One line of JSON as a document. Pure; any thread.
#pragma once

#include <string>
#include <string_view>

#include "data/document_source.h"

namespace spillway {

/// Reads an object with one of `text`, `input_ids`, `prompt` and `completion`, `context` and
/// `continuation`, `context_ids` and `continuation_ids`; with an `id` where it has one; other
/// members are passed over without being kept. Throws BadDocument that begins with `place`, and
/// Error for a text without a tokenizer.
void read_json_document(std::string_view line, const std::string& place, const DataOptions& options,
                        const Tokenizer* tokenizer, Document& document);

/// A whole text as a document, encoded as `score` and `run` encode theirs. The same errors.
void encode_text_document(std::string_view text, const std::string& place,
                          const DataOptions& options, const Tokenizer* tokenizer,
                          Document& document);

/// "more than 5 tokens, which is as much as a document may have", for messages.
std::string too_many_tokens_text(uint64_t most);
/// "token id 7 at 2 is outside the vocabulary of 5: ..." for messages; `at`: "item 3".
std::string outside_vocabulary_text(const std::string& value, const std::string& at,
                                    uint32_t vocab);

}  // namespace spillway
