// spillway tokenize: token ids of a text as JSON, and back.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "cli/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/read_file.h"
#include "text/tokenizer.h"

namespace spillway {
namespace {

std::string input_of(const TokenizeOptions& options) {
  if (options.text) return *options.text;
  return read_text_file(*options.text_file, {"a text", kMaxTextBytes, FileKind::kStream});
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

std::string decode_ids(const Tokenizer& tokenizer, const std::vector<uint32_t>& ids) {
  for (const uint32_t id : ids) {
    if (id >= tokenizer.vocab_size()) {
      throw Error(fmt::format("token id {} is outside the vocabulary of {}: ids end at {}", id,
                              tokenizer.vocab_size(), tokenizer.vocab_size() - 1));
    }
  }
  return tokenizer.decode(ids);
}

std::vector<uint32_t> encode_text(const Tokenizer& tokenizer, const TokenizeOptions& options,
                                  const std::string& text) {
  return options.bos ? tokenizer.encode_prompt(text) : tokenizer.encode(text);
}

/// One line of --lines: a JSON string, or with --decode a list of ids.
nlohmann::json answer_line(const Tokenizer& tokenizer, const TokenizeOptions& options,
                           const std::string& line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (options.decode) {
    if (const auto ids = ids_in(json)) return decode_ids(tokenizer, *ids);
    throw Error("expected a JSON list of token ids, such as [1, 15043]");
  }
  if (!json.is_string()) throw Error("expected a JSON string, such as \"Hello\"");
  return encode_text(tokenizer, options, json.get<std::string>());
}

int tokenize_lines(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  std::istringstream in(input_of(options));
  std::string line;
  for (uint64_t number = 1; std::getline(in, line); ++number) {
    std::string answer;
    try {
      // ASCII: some readers take U+2028 for the end of a line.
      answer = answer_line(tokenizer, options, line).dump(-1, ' ', true);
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
  std::error_code error;
  if (!std::filesystem::is_directory(options.directory, error)) {
    throw Error(fmt::format(
        "{}: {}; expected a folder with a tokenizer", options.directory,
        std::filesystem::exists(options.directory, error) ? "is no folder" : "no such folder"));
  }
  const auto tokenizer = load_tokenizer(options.directory);
  if (tokenizer == nullptr) {
    throw Error(
        fmt::format("{}: no tokenizer.json and no tokenizer.model; give the folder of a "
                    "Hugging Face checkpoint",
                    options.directory));
  }
  if (options.lines) return tokenize_lines(*tokenizer, options);
  const std::string text = input_of(options);
  if (options.decode) {
    const auto ids = ids_in(nlohmann::json::parse(text, nullptr, false));
    print("{}\n", decode_ids(*tokenizer, ids ? *ids : tokenizer->encode(text)));
    return 0;
  }
  print("{}\n", nlohmann::json(encode_text(*tokenizer, options, text)).dump());
  return 0;
}

}  // namespace spillway
