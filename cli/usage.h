// What a person typed instead of a command line, and what to say about it. Pure.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
class Error;
}  // namespace CLI

namespace spillway {

/// The arguments, with `help`, `help COMMAND` and `version` as the options that the grammar has.
std::vector<std::string> usual_words(std::vector<std::string> arguments);

/// What is wrong with the first argument: no command of `app`, or an option before it. Empty where
/// it is one.
std::string wrong_command(const CLI::App& app, const std::vector<std::string>& arguments);

/// What the parser complains about, as one line without end, and where the usage stands.
std::string usage_text(const CLI::App& app, const CLI::Error& error);

}  // namespace spillway
