#include <fmt/format.h>
#include <fmt/ranges.h>

#include "packaging/completion.h"

namespace spillway {
namespace {

/// The argument of _spillway_offer.
std::string kind_word(const GrammarOption& option) {
  switch (option.kind) {
    case ValueKind::kNone:
      return "";
    case ValueKind::kText:
      return "text";
    case ValueKind::kFile:
      return "file";
    case ValueKind::kFolder:
      return "folder";
    case ValueKind::kModel:
      return "model";
    case ValueKind::kYaml:
      return "yaml";
    case ValueKind::kKey:
      return "key";
    case ValueKind::kChoice:
      break;
  }
  return fmt::format("{} {}", option.comma_list ? "list" : "words", fmt::join(option.choices, " "));
}

std::string names_of(const std::vector<GrammarOption>& options) {
  std::string out;
  for (const GrammarOption& option : options) {
    for (const std::string& name : option.names) out += (out.empty() ? "" : " ") + name;
  }
  return out;
}

/// "    'run --set') kind='key' ;;" for each value of a command; places are numbered.
std::string kinds_of(const GrammarCommand& command) {
  std::string out;
  const auto line = [&](const std::string& what, const GrammarOption& option) {
    const std::string kind = kind_word(option);
    if (!kind.empty()) out += fmt::format("    '{} {}') kind='{}' ;;\n", command.name, what, kind);
  };
  for (size_t i = 0; i < command.places.size(); ++i) {
    line(std::to_string(i + 1), command.places[i]);
  }
  for (const GrammarOption& option : command.options) {
    for (const std::string& name : option.names) line(name, option);
  }
  return out;
}

constexpr const char* kHead =
    R"(# Completion of spillway for bash, made from the program's own grammar.

)";

constexpr const char* kBody = R"(
# Sets COMPREPLY to what `kind` can be that begins with $1.
_spillway_offer() {
  local value=$1
  [[ $value == [\"\']* ]] && value=${value:1}
  value=${value//\\/}
  case ${kind%% *} in
    file) mapfile -t COMPREPLY < <(compgen -f -- "$value"); compopt -o filenames 2>/dev/null ;;
    folder) mapfile -t COMPREPLY < <(compgen -d -- "$value"); compopt -o filenames 2>/dev/null ;;
    model | yaml)
      mapfile -t COMPREPLY < <(compgen -d -- "$value"; compgen -f -X '!*.gguf' -- "$value"
        [[ $kind == yaml ]] || exit 0
        compgen -f -X '!*.yaml' -- "$value"; compgen -f -X '!*.yml' -- "$value")
      compopt -o filenames 2>/dev/null ;;
    key)
      [[ $value == *=* ]] && return
      mapfile -t COMPREPLY < <(compgen -S = -W "$_spillway_keys" -- "$value")
      compopt -o nospace 2>/dev/null ;;
    words) mapfile -t COMPREPLY < <(compgen -W "${kind#* }" -- "$value") ;;
    list)
      local before=''
      [[ $value == *,* ]] && before=${value%,*},
      mapfile -t COMPREPLY < <(compgen -P "$before" -W "${kind#* }" -- "${value##*,}") ;;
  esac
}

_spillway() {
  local kind='' command='' pending='' value='' place=1 line=$COMP_LINE blanks word i
  local -a typed=()
  COMPREPLY=()
  # The words as they were typed: bash has cut them at = and : too.
  for ((i = 0; i <= COMP_CWORD; i++)); do
    blanks=${line%%[![:space:]]*}
    word=${COMP_WORDS[i]}
    line=${line#"$blanks"}
    line=${line#"$word"}
    if ((i > 0)) && [[ -z $blanks ]]; then typed[-1]+=$word; else typed+=("$word"); fi
  done
  for word in "${typed[@]:1:${#typed[@]}-2}"; do
    if [[ -n $pending ]]; then
      pending=''
    elif [[ -z $command ]]; then
      [[ $word == -* ]] || command=$word
    elif [[ $word == -?* ]]; then
      _spillway_kind "$command $word"
      pending=${kind:+$word}
    else
      place=$((place + 1))
    fi
  done
  word=${typed[-1]}
  if [[ -n $pending ]]; then
    _spillway_kind "$command $pending"
    value=$word
  elif [[ -n $command && $word == --*=* ]]; then
    _spillway_kind "$command ${word%%=*}"
    value=${word#*=}
  elif [[ -z $command || $word == -* ]]; then
    _spillway_options "$command"
    value=$word
  else
    _spillway_kind "$command $place"
    value=$word
  fi
  _spillway_offer "$value"
  # Only what follows the last = or : is replaced.
  local breaks='' i
  [[ $COMP_WORDBREAKS == *=* ]] && breaks+='='
  [[ $COMP_WORDBREAKS == *:* ]] && breaks+=':'
  if [[ -n $breaks && $value == *[$breaks]* ]]; then
    blanks=${value%"${value##*["$breaks"]}"}
    COMPREPLY=("${COMPREPLY[@]#"$blanks"}")
  fi
}

complete -F _spillway spillway
)";

}  // namespace

std::string bash_completion(const Grammar& grammar) {
  std::string words;
  for (const GrammarCommand& command : grammar.commands) words += command.name + " ";
  std::string out = kHead;
  out += fmt::format("_spillway_keys='{}'\n\n", fmt::join(grammar.keys, " "));
  out +=
      "# Sets `kind` to what follows an option of a command (\"run --set\"), or stands in its "
      "places "
      "(\"run 1\").\n_spillway_kind() {\n  kind=''\n  case $1 in\n";
  for (const GrammarCommand& command : grammar.commands) out += kinds_of(command);
  out +=
      "  esac\n}\n\n# Sets `kind` to the options of a command, or to the commands.\n"
      "_spillway_options() {\n  kind=''\n  case $1 in\n";
  out += fmt::format("    '') kind='words {}{}' ;;\n", words, names_of(grammar.options));
  for (const GrammarCommand& command : grammar.commands) {
    out += fmt::format("    {}) kind='words {}' ;;\n", command.name, names_of(command.options));
  }
  return out + "  esac\n}\n" + kBody;
}

}  // namespace spillway
