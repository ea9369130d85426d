// The alphabet in which byte-level tokenizers write bytes: printable ones stand for themselves, the
// others are shifted to U+0100. Functions without state: any thread may call them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace spillway {

std::string byte_level_text(std::string_view bytes);
/// -1 when the character is not in the alphabet.
int byte_of_character(uint32_t code_point);

}  // namespace spillway
