// The word that a person probably meant. Pure; any thread.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace spillway {

/// Letters to insert, to remove, to replace or to swap with their neighbour.
size_t edit_distance(std::string_view a, std::string_view b);

/// The nearest of `words`, or the only one that begins so; empty where none is near.
std::string nearest_word(std::string_view word, std::span<const std::string> words);

}  // namespace spillway
