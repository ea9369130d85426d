#include <fmt/format.h>
#include <fmt/ranges.h>

#include "packaging/completion.h"

namespace spillway {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

/// For single quotes.
std::string zsh_quoted(const std::string& text) {
  return "'" + replaced(text, "'", "'\\''") + "'";
}

/// For what _arguments and _describe take apart at colons and brackets.
std::string plain(std::string text) {
  for (const char* special : {"\\", "[", "]", ":"}) {
    text = replaced(text, special, std::string("\\") + special);
  }
  return text;
}

/// ":FILE:_files"
std::string action(const GrammarOption& option) {
  const std::string head = ":" + plain(option.placeholder) + ":";
  switch (option.kind) {
    case ValueKind::kNone:
      return "";
    case ValueKind::kText:
      return head + " ";
    case ValueKind::kFile:
      return head + "_files";
    case ValueKind::kFolder:
      return head + "_files -/";
    case ValueKind::kModel:
      return head + "_files -g \"*.gguf(-.)\"";
    case ValueKind::kYaml:
      return head + "_files -g \"*.(yaml|yml|gguf)(-.)\"";
    case ValueKind::kKey:
      return head + "_spillway_keys";
    case ValueKind::kChoice:
      break;
  }
  std::string words;
  for (const std::string& choice : option.choices) {
    words += (words.empty() ? "" : " ") + replaced(choice, ":", "\\:");
  }
  return option.comma_list ? head + "_values -s , value " + words : head + "(" + words + ")";
}

std::string argument_lines(const std::vector<GrammarOption>& options, const char* indent) {
  std::string out;
  for (const GrammarOption& option : options) {
    for (const std::string& name : option.names) {
      const bool is_long = name.rfind("--", 0) == 0;
      const std::string value = option.kind == ValueKind::kNone ? "" : is_long ? "=" : "+";
      const std::string before =
          option.repeats ? "*" : fmt::format("({})", fmt::join(option.names, " "));
      out += indent +
             zsh_quoted(fmt::format("{}{}{}[{}]{}", before, name, value, plain(option.description),
                                    action(option))) +
             " \\\n";
    }
  }
  return out;
}

std::string command_case(const GrammarCommand& command) {
  std::string out = fmt::format("    {})\n      _arguments \\\n{}", command.name,
                                argument_lines(command.options, "        "));
  for (size_t i = 0; i < command.places.size(); ++i) {
    const std::string head = command.places[i].repeats ? "*" : std::to_string(i + 1);
    out += "        " + zsh_quoted(head + action(command.places[i])) + " \\\n";
  }
  return out.substr(0, out.size() - 3) + "\n      ;;\n";  // without the last backslash
}

}  // namespace

std::string zsh_completion(const Grammar& grammar) {
  std::string out =
      "#compdef spillway\n"
      "# Completion of spillway for zsh, made from the program's own grammar.\n\n"
      "_spillway_keys() {\n  local -a keys\n";
  out += fmt::format("  keys=({})\n", fmt::join(grammar.keys, " "));
  out +=
      "  compadd -S = -- $keys\n}\n\n_spillway_commands() {\n  local -a commands\n"
      "  commands=(\n";
  for (const GrammarCommand& command : grammar.commands) {
    out +=
        "    " + zsh_quoted(command.name + ":" + replaced(command.description, ":", "\\:")) + "\n";
  }
  out +=
      "  )\n  _describe -t commands command commands\n}\n\n_spillway() {\n"
      "  local curcontext=$curcontext state line\n  typeset -A opt_args\n  _arguments -C \\\n";
  out += argument_lines(grammar.options, "    ");
  out +=
      "    '1:command:_spillway_commands' \\\n    '*::argument:->arguments' && return\n"
      "  [[ $state == arguments ]] || return\n  case $words[1] in\n";
  for (const GrammarCommand& command : grammar.commands) out += command_case(command);
  return out + "  esac\n}\n\n_spillway \"$@\"\n";
}

}  // namespace spillway
