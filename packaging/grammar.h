// The grammar of the command line as plain data, read from the parser itself: what manual pages and
// completions are made of, so that they cannot say anything else than the program does.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace spillway {

/// What a shell offers where a value is expected.
enum class ValueKind { kNone, kText, kFile, kFolder, kModel, kYaml, kKey, kChoice };

struct GrammarOption {
  std::vector<std::string> names;  ///< "-p", "--prompt"; none: it is known by its place
  std::string placeholder;         ///< "FILE"
  ValueKind kind = ValueKind::kNone;
  std::vector<std::string> choices;
  bool comma_list = false;
  bool required = false;
  bool repeats = false;
  std::string description;
  std::string default_value;
  std::string range;  ///< "from 1 to 100"
};

struct GrammarCommand {
  std::string name;
  std::string description;
  std::vector<GrammarOption> places;
  std::vector<GrammarOption> options;
};

struct Grammar {
  std::string program;
  std::string version;
  std::string description;
  std::vector<GrammarOption> options;
  std::vector<GrammarCommand> commands;
  std::vector<std::string> keys;  ///< of the configuration
};

/// `keys`: what may stand before the = of KEY=VALUE.
Grammar read_grammar(const CLI::App& app, std::string version, std::vector<std::string> keys);

}  // namespace spillway
