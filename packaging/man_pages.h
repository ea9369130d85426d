// Manual pages: spillway(1), one per subcommand, and spillway.yaml(5) for the configuration.
#pragma once

#include <map>
#include <string>

#include "packaging/grammar.h"

namespace spillway {

/// What people wrote, in Markdown, by name: "spillway", "run", "spillway.yaml". Paragraphs before
/// the first heading continue the description.
using ManTexts = std::map<std::string, std::string>;

std::string program_page(const Grammar& grammar, const ManTexts& texts);
std::string command_page(const Grammar& grammar, const GrammarCommand& command,
                         const ManTexts& texts);

/// From the document of the keys; `example` is shown as it is.
std::string configuration_page(const Grammar& grammar, const std::string& keys_document,
                               const std::string& example, const ManTexts& texts);

}  // namespace spillway
