#include "packaging/man_pages.h"

#include <fmt/format.h>

#include <cctype>

#include "packaging/roff.h"

namespace spillway {
namespace {

std::string lower_first(std::string text) {
  const bool word = text.size() > 1 && std::islower(static_cast<unsigned char>(text[1])) != 0;
  if (word) text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  return text;
}

std::string bold(const std::string& text) {
  return "\\fB" + roff_text(text) + "\\fR";
}
std::string italic(const std::string& text) {
  return "\\fI" + roff_text(text) + "\\fR";
}

std::string title(const Grammar& grammar, std::string name, int section) {
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return fmt::format(
      ".\\\" Made from the program's grammar by packaging/describe.cpp.\n"
      ".TH \"{}\" {} \"\" \"{} {}\" \"Spillway\"\n.nh\n.ad l\n",
      roff_text(name), section, grammar.program, grammar.version);
}

std::string name_section(const std::string& name, const std::string& description) {
  return fmt::format(".SH NAME\n{} \\- {}\n", roff_text(name), roff_text(lower_first(description)));
}

std::string text_of(const ManTexts& texts, const std::string& name) {
  const auto found = texts.find(name);
  return found == texts.end() ? std::string() : found->second;
}

/// What stands before the first "## " of a document, and the rest.
std::pair<std::string, std::string> split_text(const std::string& markdown) {
  if (markdown.rfind("## ", 0) == 0) return {"", markdown};
  const size_t heading = markdown.find("\n## ");
  if (heading == std::string::npos) return {markdown, ""};
  return {markdown.substr(0, heading + 1), markdown.substr(heading + 1)};
}

/// The name as it is written last: "--prompt" of "-p, --prompt".
std::string usage_of(const GrammarOption& option) {
  std::string text = bold(option.names.empty() ? "" : option.names.back());
  if (option.names.empty()) text.clear();
  if (!option.placeholder.empty()) {
    text += (text.empty() ? "" : "\\ ") + italic(option.placeholder);
  }
  if (!option.required) text = "[" + text + "]";
  return option.repeats && !option.comma_list ? text + "..." : text;
}

std::string options_list(const std::vector<GrammarOption>& options) {
  std::string out;
  for (const GrammarOption& option : options) {
    out += ".TP\n";
    std::string names;
    for (const std::string& name : option.names) names += (names.empty() ? "" : ", ") + bold(name);
    if (!option.placeholder.empty())
      names += (names.empty() ? "" : " ") + italic(option.placeholder);
    out += names + "\n" + roff_inline(option.description) + ".\n";
    if (!option.range.empty()) out += "A number " + roff_text(option.range) + ".\n";
    if (option.kind == ValueKind::kChoice && option.names.size() == 1 && option.comma_list) {
      out += "Several are separated by commas.\n";
    }
    if (!option.default_value.empty()) {
      out += "Default: " + roff_text(option.default_value) + ".\n";
    }
  }
  return out;
}

std::string page_name(const Grammar& grammar, const GrammarCommand& command) {
  return grammar.program + "-" + command.name;
}

std::string reference(const std::string& name, int section) {
  return fmt::format("\\fB{}\\fR({})", roff_text(name), section);
}

std::string see_also(const Grammar& grammar, const std::string& self) {
  std::string out = ".SH \"SEE ALSO\"\n";
  std::string list;
  const auto add = [&](const std::string& name, int section) {
    if (name != self) list += (list.empty() ? "" : ",\n") + reference(name, section);
  };
  add(grammar.program, 1);
  for (const GrammarCommand& command : grammar.commands) add(page_name(grammar, command), 1);
  add(grammar.program + ".yaml", 5);
  return out + list + "\n";
}

}  // namespace

std::string program_page(const Grammar& grammar, const ManTexts& texts) {
  const auto [description, sections] = split_text(text_of(texts, grammar.program));
  std::string out = title(grammar, grammar.program, 1);
  out += name_section(grammar.program, "runs transformer models larger than GPU and RAM");
  out += ".SH SYNOPSIS\n" + bold(grammar.program) + " " + italic("COMMAND") + " [" +
         italic("ARGUMENTS") + "]\n.br\n" + bold(grammar.program);
  for (const GrammarOption& option : grammar.options) out += " " + usage_of(option);
  out += "\n.SH DESCRIPTION\n" + roff_text(grammar.description) + "\n";
  if (!description.empty()) out += ".PP\n" + roff_document(description);
  out += ".SH COMMANDS\n";
  for (const GrammarCommand& command : grammar.commands) {
    out += ".TP\n" + reference(page_name(grammar, command), 1) + "\n" +
           roff_text(command.description) + ".\n";
  }
  out += ".SH OPTIONS\n" + options_list(grammar.options);
  return out + roff_document(sections) + see_also(grammar, grammar.program);
}

std::string command_page(const Grammar& grammar, const GrammarCommand& command,
                         const ManTexts& texts) {
  const auto [description, sections] = split_text(text_of(texts, command.name));
  const std::string name = page_name(grammar, command);
  std::string out = title(grammar, name, 1) + name_section(name, command.description);
  out += ".SH SYNOPSIS\n" + bold(grammar.program + " " + command.name);
  for (const GrammarOption& place : command.places) out += "\n" + usage_of(place);
  for (const GrammarOption& option : command.options) {
    if (option.names.back() != "--help") out += "\n" + usage_of(option);
  }
  out += "\n.SH DESCRIPTION\n" + roff_text(command.description) + ".\n";
  if (!description.empty()) out += ".PP\n" + roff_document(description);
  out += ".SH OPTIONS\n" + options_list(command.places) + options_list(command.options);
  out += roff_document(sections);
  out += ".SH \"EXIT STATUS\"\nAs of every command: see " + reference(grammar.program, 1) + ".\n";
  return out + see_also(grammar, name);
}

std::string configuration_page(const Grammar& grammar, const std::string& keys_document,
                               const std::string& example, const ManTexts& texts) {
  const std::string name = grammar.program + ".yaml";
  std::string out = title(grammar, name, 5) + name_section(name, "configuration of a run");
  out += ".SH DESCRIPTION\n" + roff_document(keys_document);
  out += ".SH EXAMPLE\n.nf\n" + roff_verbatim(example) + ".fi\n";
  return out + roff_document(text_of(texts, name)) + see_also(grammar, name);
}

}  // namespace spillway
