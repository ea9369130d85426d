// How much room a text takes on a terminal. Functions without state: any thread may call them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace spillway {

/// Columns of `text`: two for wide characters, none for those that combine; one for each byte that
/// is not UTF-8. Escape sequences are not known here.
size_t display_width(std::string_view text);

/// `text` where it fits into `columns`, else its beginning and "…". Never half a character.
std::string cut_to_width(std::string_view text, size_t columns);

}  // namespace spillway
