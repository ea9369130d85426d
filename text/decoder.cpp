#include "text/decoder.h"

#include <charconv>
#include <utility>

#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/unicode.h"

namespace spillway {
namespace {

using Kind = DecoderStep::Kind;

/// The byte of a "<0x0A>" token, or -1.
int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const size_t begin = token[3] == '+' ? 4 : 3;  // the reference reads a sign as well
  int byte = -1;
  const auto [end, error] = std::from_chars(token.data() + begin, token.data() + 5, byte, 16);
  return error == std::errc() && end == token.data() + 5 && byte >= 0 ? byte : -1;
}

/// The bytes that a token of the byte-level alphabet spells; its own where it is none.
std::string spelled_bytes(std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size(); at += utf8_length(token, at)) {
    const int byte = byte_of_character(utf8_code_point(token, at));
    if (byte < 0) return std::string(token);
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

std::string replace(std::string_view text, const std::vector<Match>& matches, std::string_view to) {
  std::string result;
  size_t at = 0;
  for (const Match& match : matches) {
    result.append(text.substr(at, match.begin - at)).append(to);
    at = match.end;
  }
  return result.append(text.substr(at));
}

}  // namespace

DecodeStream::DecodeStream(const Decoder& decoder)
    : decoder_(decoder), states_(decoder.steps.size()), fused_from_(decoder.steps.size()) {
  for (size_t i = decoder.steps.size(); i-- > 0;) {
    const Kind kind = decoder.steps[i].kind;
    if (kind == Kind::kFuse || kind == Kind::kByteLevel) fused_from_ = i + 1;
  }
}

std::string DecodeStream::add(std::string_view token) {
  std::string out;
  if (decoder_.spaces_between && !first_) out += ' ';
  first_ = false;
  pass(0, std::string(token), out);
  return out;
}

std::string DecodeStream::finish() {
  std::string out;
  for (size_t step = 0; step < states_.size(); ++step) flush(step, out);
  return out;
}

void DecodeStream::pass(size_t step, std::string token, std::string& out) {
  if (step == decoder_.steps.size()) {
    out += token;
    return;
  }
  const DecoderStep& rule = decoder_.steps[step];
  State& state = states_[step];
  switch (rule.kind) {
    case Kind::kReplace:
      if (!token.empty()) token = replace(token, find_literal(token, rule.from), rule.to);
      break;
    case Kind::kReplacePattern:
      if (!token.empty()) token = replace(token, rule.pattern->find_all(token), rule.to);
      break;
    case Kind::kStrip:
      token = strip(step, token);
      break;
    case Kind::kMetaspace: {
      const bool first = step >= fused_from_ || !state.started;
      state.started = true;
      token = replace(token, find_literal(token, rule.from), first && rule.drops_first ? "" : " ");
      break;
    }
    case Kind::kByteFallback:
      if (const int byte = fallback_byte(token); byte >= 0) {
        state.bytes += static_cast<char>(byte);
        return;
      }
      end_run(step, out);
      break;
    case Kind::kByteLevel: {
      state.bytes += spelled_bytes(token);
      const size_t whole = state.bytes.size() - incomplete_tail(state.bytes);
      token = replace_malformed(std::string_view(state.bytes).substr(0, whole));
      state.bytes.erase(0, whole);
      break;
    }
    case Kind::kFuse:
      break;
  }
  pass(step + 1, std::move(token), out);
}

/// A run of bytes that is not text as a whole is one U+FFFD for each of them.
void DecodeStream::end_run(size_t step, std::string& out) {
  const std::string run = std::exchange(states_[step].bytes, {});
  if (run.empty()) return;
  if (is_valid_utf8(run)) return pass(step + 1, run, out);
  for (size_t i = 0; i < run.size(); ++i) pass(step + 1, "\xEF\xBF\xBD", out);
}

void DecodeStream::flush(size_t step, std::string& out) {
  const Kind kind = decoder_.steps[step].kind;
  if (kind == Kind::kByteFallback) end_run(step, out);
  if (kind != Kind::kByteLevel) return;
  const std::string rest = std::exchange(states_[step].bytes, {});
  if (!rest.empty()) pass(step + 1, replace_malformed(rest), out);
}

/// At most `count` characters at the beginning of a token; fused, of the whole text.
std::string DecodeStream::strip(size_t step, const std::string& token) {
  const DecoderStep& rule = decoder_.steps[step];
  State& state = states_[step];
  if (step < fused_from_) state = {};
  size_t at = 0;
  while (!state.stopped && at < token.size()) {
    if (state.stripped < rule.count && token.compare(at, rule.from.size(), rule.from) == 0) {
      ++state.stripped;
      at += rule.from.size();
    } else {
      state.stopped = true;
    }
  }
  return token.substr(at);
}

}  // namespace spillway
