// What to tell a person of an exception of any kind: an Error's own line, or what the others mean.
#pragma once

#include <exception>
#include <string>
#include <string_view>

#include "core/error.h"

namespace spillway {

/// `memory_setting` is what the user may lower where there is too little memory.
std::string failure_text(const std::exception& failure,
                         std::string_view memory_setting = "memory.ram");

/// For whoever has no use for a part of a result: throws what ended it early.
template <typename Result>
Result whole(Result result) {
  if (!result.error.empty()) throw Error(result.error);
  return result;
}

}  // namespace spillway
