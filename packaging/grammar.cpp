#include "packaging/grammar.h"

#include <CLI/CLI.hpp>
#include <cctype>
#include <string_view>

#include "model/matrix_type.h"
#include "model/quantize.h"
#include "model/synthetic.h"

namespace spillway {
namespace {

bool holds(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// The words that IsMember describes: "TEXT:{a,b}".
std::vector<std::string> members(const std::string& type) {
  const size_t open = type.find('{');
  const size_t close = type.find('}');
  if (open == std::string::npos || close == std::string::npos || close < open) return {};
  return CLI::detail::split(type.substr(open + 1, close - open - 1), ',');
}

/// What Range describes: "UINT in [1 - 100]".
std::string range_of(const std::string& type) {
  const size_t open = type.find(" in [");
  const size_t close = type.find(']');
  if (open == std::string::npos || close == std::string::npos) return {};
  std::string range = type.substr(open + 5, close - open - 5);
  const size_t dash = range.find(" - ");
  return dash == std::string::npos
             ? std::string()
             : "from " + range.substr(0, dash) + " to " + range.substr(dash + 3);
}

std::vector<std::string> lower_case(std::vector<std::string> words) {
  for (std::string& word : words) {
    for (char& c : word) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return words;
}

/// Values that the program checks in its own words, by the name that stands for them.
std::vector<std::string> known_values(std::string_view placeholder) {
  if (placeholder == "PRESET") return preset_names();
  if (placeholder == "DEVICE") return {"auto", "host", "host-discrete", "cuda", "cuda:0"};
  if (placeholder == "TYPE") return quantize_type_names();
  if (placeholder == "DTYPE") return lower_case(matrix_type_names());
  return {};
}

ValueKind kind_of(std::string_view placeholder, std::string_view description) {
  if (holds(placeholder, "KEY=")) return ValueKind::kKey;
  if (holds(placeholder, "MODEL") && holds(description, "YAML")) return ValueKind::kYaml;
  if (holds(placeholder, "MODEL")) return ValueKind::kModel;
  if (holds(placeholder, "DIR")) return ValueKind::kFolder;
  if (holds(placeholder, "FILE") || holds(placeholder, "PATH")) return ValueKind::kFile;
  return ValueKind::kText;
}

GrammarOption read_option(const CLI::Option& option) {
  GrammarOption result;
  for (const std::string& name : option.get_snames()) result.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) result.names.push_back("--" + name);
  result.description = option.get_description();
  result.required = option.get_required();
  if (option.get_items_expected_max() == 0) return result;  // a flag
  const std::string type = option.get_type_name();
  result.placeholder =
      option.get_positional() ? option.get_name(true) : type.substr(0, type.find(':'));
  result.choices = members(type);
  if (result.choices.empty()) result.choices = known_values(result.placeholder);
  result.kind =
      result.choices.empty() ? kind_of(result.placeholder, result.description) : ValueKind::kChoice;
  result.comma_list = option.get_delimiter() == ',';
  result.repeats = option.get_expected_max() >= CLI::detail::expected_max_vector_size;
  result.range = range_of(type);
  const std::string& value = option.get_default_str();
  const bool list = value.size() > 1 && value.front() == '[' && value.back() == ']';
  result.default_value = list ? value.substr(1, value.size() - 2) : value;
  return result;
}

/// Options of `app` and of its groups; those without a group are not shown by --help either.
void read_options(const CLI::App& app, std::vector<GrammarOption>& places,
                  std::vector<GrammarOption>& options) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;
    (option->get_positional() ? places : options).push_back(read_option(*option));
  }
  const auto is_group = [](const CLI::App* part) { return part->get_name().empty(); };
  for (const CLI::App* group : app.get_subcommands(is_group)) {
    read_options(*group, places, options);
  }
}

}  // namespace

Grammar read_grammar(const CLI::App& app, std::string version, std::vector<std::string> keys) {
  Grammar grammar{app.get_name(), std::move(version), app.get_description(), {}, {},
                  std::move(keys)};
  for (const CLI::Option* option : app.get_options()) {
    grammar.options.push_back(read_option(*option));
  }
  const auto is_command = [](const CLI::App* part) {
    return !part->get_name().empty() && !part->get_group().empty();
  };
  for (const CLI::App* part : app.get_subcommands(is_command)) {
    GrammarCommand command{part->get_name(), part->get_description(), {}, {}};
    read_options(*part, command.places, command.options);
    grammar.commands.push_back(std::move(command));
  }
  return grammar;
}

}  // namespace spillway
