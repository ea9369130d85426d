// What to tell a person of an exception of any kind: an Error's own line, or what the others mean.
#pragma once

#include <exception>
#include <string>

namespace spillway {

std::string failure_text(const std::exception& failure);

}  // namespace spillway
