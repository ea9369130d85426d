// Tokens of a text that is given and of one that follows it and is scored. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace spillway {

struct TokenPair {
  std::vector<uint32_t> context;
  std::vector<uint32_t> continuation;
};

/// As lm-evaluation-harness (0.4.13) encodes a request for a causal model, so that scores can be
/// compared:
/// - white space at the end of the context belongs to the continuation;
/// - the continuation's tokens are those of both texts together behind as many as the context alone
///   has; each begins with BOS where the tokenizer adds it;
/// - an empty context is `prefix_token`, or the continuation's first token where it is that one.
/// Of white space alone nothing is left: where no BOS takes its place, `prefix_token` does (the
/// harness fails there).
/// The context is empty when there is no token to stand for it, the continuation when its text only
/// lengthens the context's last token. Throws Error for bad UTF-8.
TokenPair encode_pair(const Tokenizer& tokenizer, std::string_view context,
                      std::string_view continuation, std::optional<uint32_t> prefix_token);

}  // namespace spillway
