// Tokens back to text, one at a time: what a tokenizer's decoder says of a list of tokens, said as
// soon as later tokens cannot change it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace spillway {

/// One step of a decoder; plain data, immutable, shared by all streams.
struct DecoderStep {
  enum class Kind {
    kReplace,
    kReplacePattern,
    kStrip,
    kMetaspace,
    kByteFallback,
    kFuse,
    kByteLevel
  };
  Kind kind;
  std::string from;  ///< kReplace: literal; kStrip: the character; kMetaspace: the mark
  std::string to;
  std::shared_ptr<const Regex> pattern;
  size_t count = 0;          ///< kStrip: how many at the beginning of a token
  bool drops_first = false;  ///< kMetaspace: no space for marks of the first token
};

struct Decoder {
  std::vector<DecoderStep> steps;
  bool spaces_between = false;  ///< no decoder at all: tokens are joined by spaces
};

/// Decodes one list of tokens. Not for several threads at once.
class DecodeStream {
 public:
  /// `decoder` must outlive the stream.
  explicit DecodeStream(const Decoder& decoder);
  /// Text that is certain now; may be empty.
  std::string add(std::string_view token);
  /// The rest.
  std::string finish();

 private:
  struct State {
    std::string bytes;  // kByteFallback: a run; kByteLevel: the start of a character
    size_t stripped = 0;
    bool started = false;
    bool stopped = false;
  };
  void pass(size_t step, std::string token, std::string& out);
  void flush(size_t step, std::string& out);
  void end_run(size_t step, std::string& out);
  std::string strip(size_t step, const std::string& token);

  const Decoder& decoder_;
  std::vector<State> states_;
  size_t fused_from_;  // steps from here on see pieces of one token
  bool first_ = true;
};

}  // namespace spillway
