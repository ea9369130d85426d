// What a person reads: one line, of characters that a terminal shows as themselves. Pure; any
// thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace spillway {

/// The text with everything escaped that would change how a terminal shows the rest: control
/// characters, bytes that are not UTF-8 (`\xff`), and Unicode's own controls, such as those that
/// turn the direction of writing (`\u202e`). Names of files and tensors may hold anything.
std::string printable(std::string_view text);

/// The same for a text of many lines that a terminal shows as it is: line ends and tabs stay, and
/// so do formats of writing; control characters become escapes.
std::string harmless(std::string_view text);

/// printable(), with the middle cut out of overlong words, and of a text longer than a screen.
std::string one_line(std::string_view text);

/// Columns that a terminal gives to a printable text: two for wide characters, none for those that
/// combine; one for each byte that is not UTF-8. Escape sequences are not known here.
size_t display_width(std::string_view text);

/// A printable text in at most `columns`, 1 at least, with … for the middle where it is longer.
std::string cut_middle(std::string_view text, size_t columns);

/// `text` where it fits into `columns`, else its beginning and "…". Never half a character.
std::string cut_to_width(std::string_view text, size_t columns);

/// A value in a message: printable, in quotes, at most 80 columns of it.
std::string in_quotes(std::string_view text);

/// The first three names of a list, printable, and how many more there are.
std::string first_few(const std::vector<std::string>& names);

}  // namespace spillway
