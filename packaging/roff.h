// Text for manual pages: roff from plain text and from the Markdown that the documents use.
//
// Markdown here is headings, paragraphs, lists, tables, fenced code, `code`, **strong** and links.
// A table with columns "key | default | meaning" becomes a list of the keys.
#pragma once

#include <string>
#include <string_view>

namespace spillway {

/// Escaped, so that nothing in it is a request or changes its look; hyphens can be copied.
std::string roff_text(std::string_view text);

/// One line or several with `code` in bold and links by their text.
std::string roff_inline(std::string_view markdown);

/// A document without its title. "## Name" begins a section.
std::string roff_document(std::string_view markdown);

/// Fixed lines, as they are.
std::string roff_verbatim(std::string_view text);

}  // namespace spillway
