// spillway tokenize: token ids of a text as JSON, and back.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "cli/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/one_line.h"
#include "core/read_file.h"
#include "io/gguf_files.h"
#include "model/runtime.h"
#include "text/tokenizer.h"

namespace spillway {
namespace {

constexpr const char* kExpectedIds = "expected a JSON list of token ids, such as [1, 15043]";

std::string input_of(const TokenizeOptions& options) {
  if (options.text) return *options.text;
  return read_text_file(*options.text_file, {"a text", kMaxTextBytes, FileKind::kText});
}

/// Ids when `json` is a list of them.
std::optional<std::vector<uint32_t>> ids_in(const nlohmann::json& json) {
  if (!json.is_array()) return std::nullopt;
  std::vector<uint32_t> ids;
  for (const auto& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > UINT32_MAX) return std::nullopt;
    ids.push_back(item.get<uint32_t>());
  }
  return ids;
}

/// A list of numbers that is cut off or misspelt: no text that anybody meant.
bool is_torn_list(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos || text[begin] != '[') return false;
  const size_t other = text.find_first_not_of("0123456789, \t\r\n", begin + 1);
  return other == std::string::npos ||
         (text[other] == ']' && other == text.find_last_not_of(" \t\r\n"));
}

/// A tokenizer, and how many ids its model has, which has more where the vocabulary is padded;
/// those have no text.
struct Vocabulary {
  std::unique_ptr<Tokenizer> tokenizer;
  uint32_t ids = 0;
};

/// The configuration's vocabulary; 0 for a tokenizer alone, or beside a model that is none of ours.
template <typename Load>
uint32_t model_ids(const Load& load) {
  try {
    return load().vocab;
  } catch (const Error&) {
    return 0;
  }
}

Vocabulary vocabulary_of_gguf(const std::string& path) {
  const Checkpoint checkpoint =
      Checkpoint::open(path, DirectChoice::kOff, [](const std::string&) {});
  Vocabulary vocabulary{tokenizer_of(checkpoint),
                        model_ids([&] { return model_config_of(checkpoint); })};
  if (vocabulary.tokenizer == nullptr) {
    throw Error(no_tokenizer_text(checkpoint));
  }
  return vocabulary;
}

Vocabulary vocabulary_of(const std::string& path) {
  std::error_code error;
  const bool folder = std::filesystem::is_directory(path, error);
  if (!folder && !is_gguf_file(path)) {
    throw Error(fmt::format("{}: {}; expected a folder with a tokenizer, or a GGUF file", path,
                            std::filesystem::exists(path, error)
                                ? "is neither a folder nor a GGUF file"
                                : "no such file or folder"));
  }
  // As run chooses: where it reads the GGUF file, the tokens are that file's.
  if (!folder || !gguf_to_read(path).empty()) return vocabulary_of_gguf(path);
  Vocabulary vocabulary{load_tokenizer(path), 0};
  if (vocabulary.tokenizer != nullptr) {
    vocabulary.ids = model_ids([&] { return load_model_config(path); });
    return vocabulary;
  }
  throw Error(fmt::format(
      "{}: no tokenizer.json, no tokenizer.model and no GGUF file; give a model's folder or its "
      ".gguf file",
      path));
}

std::string decode_ids(const Vocabulary& vocabulary, const std::vector<uint32_t>& ids) {
  for (const uint32_t id : ids) {
    if (id >= vocabulary.ids) {
      throw Error(fmt::format("token id {} is outside the vocabulary of {}: ids end at {}", id,
                              vocabulary.ids, vocabulary.ids - 1));
    }
  }
  return vocabulary.tokenizer->decode(ids);
}

std::vector<uint32_t> encode_text(const Tokenizer& tokenizer, const TokenizeOptions& options,
                                  const std::string& text) {
  return options.bos ? tokenizer.encode_prompt(text) : tokenizer.encode(text);
}

/// One line of --lines: a JSON string, or with --decode a list of ids.
nlohmann::json answer_line(const Vocabulary& vocabulary, const TokenizeOptions& options,
                           const std::string& line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (options.decode) {
    if (const auto ids = ids_in(json)) return decode_ids(vocabulary, *ids);
    throw Error(kExpectedIds);
  }
  if (!json.is_string()) throw Error("expected a JSON string, such as \"Hello\"");
  return encode_text(*vocabulary.tokenizer, options, json.get<std::string>());
}

int tokenize_lines(const Vocabulary& vocabulary, const TokenizeOptions& options) {
  std::istringstream in(input_of(options));
  std::string line;
  for (uint64_t number = 1; std::getline(in, line); ++number) {
    std::string answer;
    try {
      // ASCII: some readers take U+2028 for the end of a line.
      answer = answer_line(vocabulary, options, line).dump(-1, ' ', true);
    } catch (const Error& error) {
      throw Error(fmt::format("{}:{}: {}", *options.text_file, number, error.what()));
    }
    print("{}\n", answer);
  }
  return 0;
}

}  // namespace

int tokenize_command(const TokenizeOptions& options) {
  with_model_files(options.directory, {}).check_stdout();
  Vocabulary vocabulary = vocabulary_of(options.directory);
  const Tokenizer& tokenizer = *vocabulary.tokenizer;
  vocabulary.ids = std::max(vocabulary.ids, tokenizer.vocab_size());
  if (options.lines) return tokenize_lines(vocabulary, options);
  const std::string text = input_of(options);
  if (options.decode) {
    const auto json = nlohmann::json::parse(text, nullptr, false);
    const auto ids = ids_in(json);
    if (!ids && (json.is_array() || is_torn_list(text))) throw Error(kExpectedIds);
    const std::string decoded = decode_ids(vocabulary, ids ? *ids : tokenizer.encode(text));
    print("{}\n", isatty(STDOUT_FILENO) != 0 ? harmless(decoded) : decoded);
    return 0;
  }
  print("{}\n", nlohmann::json(encode_text(tokenizer, options, text)).dump());
  return 0;
}

}  // namespace spillway
