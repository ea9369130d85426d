// One-line notices to a person: what was chosen and how to get the faster path.
#pragma once

#include <functional>
#include <string>

namespace spillway {

/// Called with a complete sentence, no newline. cli prints it to stderr; tests collect it.
using NoticeSink = std::function<void(const std::string&)>;

}  // namespace spillway
