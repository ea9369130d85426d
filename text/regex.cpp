#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <optional>

#include "core/one_line.h"
#include "text/unicode.h"

namespace spillway {
namespace {

constexpr size_t kFirstJitStackBytes = 32 * 1024;
constexpr size_t kMaxJitStackBytes = 64 * 1024 * 1024;

template <auto free_it>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    free_it(object);
  }
};
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>>;

}  // namespace

struct Regex::Impl {
  pcre2_code* code = nullptr;
  bool substitutes = false;  // characters that the library does not know
  ~Impl() { pcre2_code_free(code); }
};

Regex::Regex(const std::string& oniguruma) : impl_(std::make_unique<Impl>()) {
  const std::string pattern = pcre2_pattern(oniguruma);
  impl_->substitutes = asks_properties(pattern);
  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP, &error, &offset, context.get());
  if (impl_->code == nullptr) {
    PCRE2_UCHAR message[160] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    throw BadPattern(fmt::format("the pattern {} is not a regular expression that PCRE2 runs: {}",
                                 in_quotes(oniguruma), reinterpret_cast<const char*>(message)));
  }
  pcre2_jit_compile(impl_->code, PCRE2_JIT_COMPLETE);  // optional: matching works without
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

std::vector<Match> Regex::find_all(std::string_view subject) const {
  std::vector<Match> found;
  const std::optional<std::string> substituted =
      impl_->substitutes ? same_for_patterns(subject) : std::nullopt;
  const std::string_view text = substituted ? *substituted : subject;
  const MatchData data(pcre2_match_data_create(1, nullptr));
  MatchContext context;
  JitStack stack;
  const auto match_at = [&](size_t at) {
    return pcre2_match(impl_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                       PCRE2_NO_UTF_CHECK, data.get(), context.get());
  };
  size_t last_end = std::string_view::npos;
  for (PCRE2_SIZE at = 0; at <= text.size();) {
    int result = match_at(at);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && stack == nullptr) {  // 32 KiB of the caller's stack
      stack.reset(pcre2_jit_stack_create(kFirstJitStackBytes, kMaxJitStackBytes, nullptr));
      context.reset(pcre2_match_context_create(nullptr));
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
      result = match_at(at);
    }
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) {
      throw Error(
          fmt::format("a pattern of the tokenizer takes too long or too much memory on this text "
                      "(PCRE2 error {}); split the text into shorter ones",
                      result));
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    const Match match{span[0], span[1]};
    if (match.begin == match.end && match.begin == last_end) {
      at += at < text.size() ? utf8_length(text, at) : 1;
      continue;
    }
    found.push_back(match);
    at = last_end = match.end;
  }
  return found;
}

}  // namespace spillway
