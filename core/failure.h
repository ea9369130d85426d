// What to tell a person of an exception of any kind: an Error's own line, or what the others mean.
#pragma once

#include <exception>
#include <string>

#include "core/error.h"

namespace spillway {

std::string failure_text(const std::exception& failure);

/// For whoever has no use for a part of a result: throws what ended it early.
template <typename Result>
Result whole(Result result) {
  if (!result.error.empty()) throw Error(result.error);
  return result;
}

}  // namespace spillway
