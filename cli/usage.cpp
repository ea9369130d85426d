#include "cli/usage.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <utility>

#include "core/nearest.h"
#include "core/one_line.h"

namespace spillway {
namespace {

/// What other programs call it, and what to type here.
constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kForeignCommands = {{
    {"chat", "spillway run answers prompts"},
    {"generate", "spillway run answers prompts"},
    {"complete", "spillway run answers prompts"},
    {"infer", "spillway run answers prompts"},
    {"perplexity", "spillway score measures it"},
    {"eval", "spillway score measures texts"},
    {"benchmark", "did you mean bench?"},
    {"show", "spillway inspect shows what a checkpoint holds"},
    {"info", "spillway inspect shows what a checkpoint holds"},
    {"list", "spillway inspect shows what a checkpoint holds"},
    {"pull", "hf download ORGANIZATION/MODEL fetches a checkpoint"},
    {"download", "hf download ORGANIZATION/MODEL fetches a checkpoint"},
    {"serve", "there is no server; spillway run answers prompts"},
    {"convert", "nothing needs to be converted: checkpoints are read as they are"},
}};

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (!command->get_name().empty()) names.push_back(command->get_name());
  }
  return names;
}

/// Options of a command and of the groups in it.
void add_option_names(const CLI::App& command, std::vector<std::string>& names) {
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  for (const CLI::App* group : command.get_subcommands({})) {
    if (group->get_name().empty()) add_option_names(*group, names);
  }
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& words) {
  const std::string near = nearest_word(word, words);
  return near.empty() ? "" : fmt::format("; did you mean {}?", near);
}

std::string unknown_command(const CLI::App& app, const std::string& word) {
  const std::string what = "unknown command " + in_quotes(word);
  for (const auto& [foreign, answer] : kForeignCommands) {
    if (word == foreign) return fmt::format("{}; {}", what, answer);
  }
  std::error_code error;
  if (word.ends_with(".yaml") || word.ends_with(".yml") || word.ends_with(".gguf") ||
      word.find('/') != std::string::npos ||
      std::filesystem::exists(word, error)) {
    return fmt::format("{}; to run it: spillway run {}", what, cut_middle(printable(word), 80));
  }
  std::string small = word;
  std::transform(small.begin(), small.end(), small.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const std::string near = did_you_mean(small, command_names(app));
  return what + (near.empty() ? "; spillway --help lists the commands" : near);
}

bool is_option(const std::string& word) {
  return word.size() > 1 && word.front() == '-';
}

/// The command that was chosen; the program itself where none was.
const CLI::App& chosen_command(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? app : *chosen.front();
}

/// What could not be placed: an option, if there is one.
std::optional<std::string> leftover(const CLI::App& app) {
  const std::vector<std::string> words = app.remaining(true);
  const auto option = std::find_if(words.begin(), words.end(), is_option);
  if (option != words.end()) return *option;
  return words.empty() ? std::nullopt : std::optional(words.front());
}

std::string unexpected(const CLI::App& command, const std::string& word) {
  if (!is_option(word)) {
    const bool takes_text = command.get_option_no_throw("--prompt") != nullptr ||
                            command.get_option_no_throw("--text") != nullptr;
    return fmt::format("unexpected {}{}", in_quotes(word),
                       takes_text ? "; a text of several words needs quotes" : "");
  }
  std::vector<std::string> names;
  add_option_names(command, names);
  const std::string name = word.substr(0, word.find('='));
  return fmt::format("unknown option {}{}", in_quotes(name), did_you_mean(name, names));
}

/// "0.010000" without what it does not say.
std::string short_number(std::string_view text) {
  return fmt::format("{}", std::strtod(std::string(text).c_str(), nullptr));
}

/// "Value 7 not in range 1.000000 to 3.000000".
std::string range_text(std::string_view value, std::string_view range) {
  const size_t to = range.find(" to ");
  if (to == std::string_view::npos) return fmt::format("{} is out of range", in_quotes(value));
  const std::string low = short_number(range.substr(0, to));
  const std::string_view high = range.substr(to + 4);
  constexpr size_t kNoBound = 30;  // digits: the largest number there is
  if (high.size() > kNoBound)
    return fmt::format("expected {} or more, got {}", low, in_quotes(value));
  return fmt::format("expected a number from {} to {}, got {}", low, short_number(high),
                     in_quotes(value));
}

/// "{memory,decode}" as words.
std::string words_of_set(std::string_view set) {
  std::string words;
  for (const char c : set) {
    if (c == ',') {
      words += ", ";
    } else if (c != '{' && c != '}') {
      words += c;
    }
  }
  const size_t last = words.rfind(", ");
  if (last != std::string::npos) words.replace(last, 2, " or ");
  return words;
}

/// Splits at `mark`; nothing where it does not stand there.
std::optional<std::pair<std::string, std::string>> split(const std::string& text,
                                                         std::string_view mark) {
  const size_t at = text.find(mark);
  if (at == std::string::npos) return std::nullopt;
  return std::pair(text.substr(0, at), text.substr(at + mark.size()));
}

/// The parser's complaint about an option's value: "--name: complaint".
std::string value_text(const std::string& complaint) {
  const auto named = split(complaint, ": ");
  if (!named) return complaint;
  const auto& [name, problem] = *named;
  if (problem.starts_with("Value ")) {
    if (const auto range = split(problem.substr(6), " not in range ")) {
      return fmt::format("{}: {}", name, range_text(range->first, range->second));
    }
  }
  if (const auto set = split(problem, " not in {")) {
    return fmt::format("{}: expected {}, got {}", name, words_of_set(set->second),
                       in_quotes(set->first));
  }
  return complaint;
}

std::string conversion_text(const std::string& complaint) {
  constexpr std::string_view kBegin = "Could not convert: ";
  if (!complaint.starts_with(kBegin)) return complaint;
  const auto parts = split(complaint.substr(kBegin.size()), " = ");
  if (!parts) return complaint;
  return fmt::format("{}: expected a number, got {}", parts->first, in_quotes(parts->second));
}

std::string missing_text(const CLI::App& command, const std::string& complaint) {
  if (complaint.starts_with("A subcommand")) return "no command was given";
  if (const auto list = split(complaint, "option from [")) {
    const auto parts = split(list->second, "]");
    const std::string names = words_of_set(parts ? parts->first : list->second);
    return fmt::format("give {} {}", complaint.ends_with("were given") ? "only one of" : "one of",
                       names);
  }
  const auto parts = split(complaint, " is required");
  if (!parts) return complaint;
  const CLI::Option* option = command.get_option_no_throw(parts->first);
  return fmt::format("{} is missing{}", parts->first,
                     option == nullptr || option->get_description().empty()
                         ? ""
                         : fmt::format(": {}", option->get_description()));
}

/// "--report: 1 required FILE missing", and options that stand there too often.
std::string count_text(const std::string& complaint) {
  if (complaint.ends_with("disallowed flag override")) {
    return fmt::format("{} takes no value", complaint.substr(0, complaint.find(' ')));
  }
  const auto named = split(complaint, ": ");
  if (!named) return complaint;
  if (named->second.ends_with(" missing")) {
    const size_t type = named->second.find("required ");
    const std::string value =
        type == std::string::npos ? "" : named->second.substr(type + 9);  // "FILE missing"
    return fmt::format("{}: its value is missing: {} {}", named->first, named->first,
                       value.substr(0, value.find(' ')));
  }
  if (named->second.find("At Most") != std::string::npos) {
    return fmt::format("{} stands here more than once; keep one", named->first);
  }
  return complaint;
}

std::string complaint_text(const CLI::App& app, const CLI::Error& error) {
  const CLI::App& command = chosen_command(app);
  // Not its name, which for what is left over is the command's.
  const auto kind = static_cast<CLI::ExitCodes>(error.get_exit_code());
  const std::string complaint = error.what();
  if (kind == CLI::ExitCodes::RequiredError || kind == CLI::ExitCodes::ExtrasError) {
    const auto word = leftover(app);
    if (word && (kind == CLI::ExitCodes::ExtrasError || is_option(*word)))
      return unexpected(command, *word);
    return missing_text(command, complaint);
  }
  if (kind == CLI::ExitCodes::ValidationError) return value_text(complaint);
  if (kind == CLI::ExitCodes::ConversionError) return conversion_text(complaint);
  if (kind == CLI::ExitCodes::ArgumentMismatch) return count_text(complaint);
  if (kind == CLI::ExitCodes::RequiresError) {
    const auto parts = split(complaint, " requires ");
    if (parts) return fmt::format("{} needs {}", parts->first, parts->second);
  }
  if (kind == CLI::ExitCodes::ExcludesError) {
    const auto parts = split(complaint, " excludes ");
    if (parts) return fmt::format("{} and {} exclude each other", parts->first, parts->second);
  }
  return complaint;
}

/// What stands behind the words of "version" or "help COMMAND".
std::optional<std::string> surplus_word(const std::vector<std::string>& arguments) {
  const size_t words = arguments[0] == "version" ? 1 : arguments[0] == "help" ? 2 : SIZE_MAX;
  if (arguments.size() <= words || is_option(arguments[words])) return std::nullopt;
  return arguments[words];
}

}  // namespace

std::vector<std::string> usual_words(std::vector<std::string> arguments) {
  if (arguments.empty() || surplus_word(arguments)) return arguments;
  if (arguments.front() == "version") {
    arguments.front() = "--version";
  } else if (arguments.front() == "help") {
    arguments.erase(arguments.begin());
    if (!arguments.empty() && (arguments[0] == "help" || arguments[0] == "version")) {
      return {"--help"};
    }
    arguments.insert(arguments.begin() + (arguments.empty() ? 0 : 1), "--help");
  }
  return arguments;
}

std::string wrong_command(const CLI::App& app, const std::vector<std::string>& arguments) {
  if (arguments.empty()) return "no command was given; spillway --help lists them";
  const std::string& first = arguments.front();
  if (const auto word = surplus_word(arguments)) {
    return fmt::format("unexpected {} behind {}", in_quotes(*word), first);
  }
  const std::vector<std::string> names = command_names(app);
  if (std::find(names.begin(), names.end(), first) != names.end()) return "";
  if (!is_option(first)) return unknown_command(app, first);
  if (first == "-h" || first == "-V") return "";
  std::vector<std::string> options;
  add_option_names(app, options);
  if (std::find(options.begin(), options.end(), first) != options.end()) return "";
  const std::string near = did_you_mean(first, options);
  return fmt::format("unknown option {}{}", in_quotes(first),
                     near.empty() ? "; a command comes first: spillway --help lists them" : near);
}

std::string usage_text(const CLI::App& app, const CLI::Error& error) {
  const CLI::App& command = chosen_command(app);
  const std::string name = &command == &app ? "" : command.get_name() + " ";
  const std::string complaint = one_line(complaint_text(app, error));
  const std::string help = fmt::format("spillway {}--help", name);
  return fmt::format("spillway: {}{}{}", name.empty() ? "" : command.get_name() + ": ", complaint,
                     complaint.ends_with('?') ? " (" + help + ")" : "; see " + help);
}

}  // namespace spillway
