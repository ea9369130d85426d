#include <fmt/format.h>
#include <fmt/ranges.h>

#include "packaging/completion.h"

namespace spillway {
namespace {

std::string fish_quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

/// What may stand for the value, as arguments of `complete`.
std::string value_arguments(const GrammarOption& option, const std::string& keys) {
  switch (option.kind) {
    case ValueKind::kNone:
      return "";
    case ValueKind::kText:
      return " -x";
    case ValueKind::kFile:
      return " -r -F";
    case ValueKind::kFolder:
      return " -x -a '(__fish_complete_directories (commandline -ct))'";
    case ValueKind::kModel:
      return " -x -a '(__fish_complete_suffix .gguf)'";
    case ValueKind::kYaml:
      return " -x -a '(__fish_complete_suffix .yaml; __fish_complete_suffix .gguf)'";
    case ValueKind::kKey:
      return " -x -a " + fish_quoted(keys);
    case ValueKind::kChoice:
      break;
  }
  const std::string words = fmt::format("{}", fmt::join(option.choices, " "));
  return option.comma_list ? fmt::format(" -x -a '(__fish_append , {})'", words)
                           : " -x -a " + fish_quoted(words);
}

std::string option_lines(const std::vector<GrammarOption>& options, const std::string& condition,
                         const std::string& keys) {
  std::string out;
  for (const GrammarOption& option : options) {
    std::string names;
    for (const std::string& name : option.names) {
      names += name.rfind("--", 0) == 0 ? " -l " + name.substr(2) : " -s " + name.substr(1);
    }
    out += fmt::format("complete -c spillway -n {}{}{} -d {}\n", condition, names,
                       value_arguments(option, keys), fish_quoted(option.description));
  }
  return out;
}

}  // namespace

std::string fish_completion(const Grammar& grammar) {
  std::string keys;
  for (const std::string& key : grammar.keys) keys += (keys.empty() ? "" : " ") + key + "=";
  std::string out =
      "# Completion of spillway for fish, made from the program's own grammar.\n"
      "complete -c spillway -f\n";
  out += option_lines(grammar.options, "__fish_use_subcommand", keys);
  for (const GrammarCommand& command : grammar.commands) {
    out += fmt::format("complete -c spillway -n __fish_use_subcommand -a {} -d {}\n", command.name,
                       fish_quoted(command.description));
  }
  for (const GrammarCommand& command : grammar.commands) {
    const std::string condition = fish_quoted("__fish_seen_subcommand_from " + command.name);
    out += option_lines(command.options, condition, keys);
    for (const GrammarOption& place : command.places) {
      const std::string what =
          place.kind == ValueKind::kFile ? " -F" : value_arguments(place, keys);
      out += fmt::format("complete -c spillway -n {}{}\n", condition, what);
    }
  }
  return out;
}

}  // namespace spillway
