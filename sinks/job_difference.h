// How two descriptions of jobs differ, key by key, for a person. Pure; any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace spillway {

struct JobDifference {
  std::string text;               ///< `model: fingerprint "b" is not "a"`; empty = none
  std::vector<std::string> keys;  ///< of the outermost level, printable
};

/// `now` against what there was `before`. The first few differences are named.
JobDifference difference_of(const nlohmann::json& now, const nlohmann::json& before);

}  // namespace spillway
