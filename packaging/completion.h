// Completion for shells: subcommands, options, and what may follow an option or stands in a place.
#pragma once

#include <string>

#include "packaging/grammar.h"

namespace spillway {

std::string bash_completion(const Grammar& grammar);
std::string zsh_completion(const Grammar& grammar);
std::string fish_completion(const Grammar& grammar);

}  // namespace spillway
