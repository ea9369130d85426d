#include "packaging/roff.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <vector>

namespace spillway {
namespace {

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::string trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return std::string(text);
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

/// A code point at the front of valid UTF-8, which is taken away.
uint32_t take_code_point(std::string_view& text) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[i])); };
  const uint32_t first = byte(0);
  const size_t bytes = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  uint32_t code = bytes == 1 ? first : first & (0x7Fu >> bytes);
  for (size_t i = 1; i < bytes && i < text.size(); ++i) code = code << 6 | (byte(i) & 0x3F);
  text.remove_prefix(std::min(bytes, text.size()));
  return code;
}

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

/// Cells of "| a | b \| c |".
std::vector<std::string> cells_of(std::string_view row) {
  std::vector<std::string> cells(1);
  for (size_t i = 1; i < row.size(); ++i) {
    if (row[i] == '\\' && i + 1 < row.size() && row[i + 1] == '|') {
      cells.back() += row[++i];
    } else if (row[i] == '|') {
      cells.emplace_back();
    } else {
      cells.back() += row[i];
    }
  }
  cells.pop_back();  // what follows the last bar
  for (std::string& cell : cells) cell = trimmed(cell);
  return cells;
}

std::string table_row(const std::vector<std::string>& head, const std::vector<std::string>& cells) {
  std::string out = ".TP\n" + roff_inline(cells[0]) + "\n";
  for (size_t i = cells.size() - 1; i > 0; --i) {  // what it means, then its default
    if (cells[i].empty()) continue;
    const bool is_default = i < head.size() && head[i] == "default";
    std::string text = roff_inline(cells[i]);
    if (!is_default && text.back() != '.') text += ".";
    out += is_default ? "Default: " + text + ".\n" : text + "\n";
  }
  // A tag with nothing below it would take what follows for its text.
  return std::count(out.begin(), out.end(), '\n') < 3 ? out + "\\&\n" : out;
}

/// Writes roff line by line; knows what the line before was.
class Document {
 public:
  void add(const std::string& line) {
    if (starts_with(line, "```")) return fence();
    if (fenced_) {
      out_ += roff_verbatim(line + "\n");
      return;
    }
    if (line.empty()) return end_block();
    if (starts_with(line, "# ")) return;
    if (starts_with(line, "## ")) return heading(".SH ", upper(line.substr(3)));
    if (starts_with(line, "### ")) return heading(".SS ", line.substr(4));
    if (line[0] == '|') return row(line);
    if (starts_with(line, "- ")) {
      end_block();
      out_ += ".IP \\(bu 2\n";
      block_ = line.substr(2);
      after_heading_ = false;
      return;
    }
    if (block_.empty() && !after_heading_) out_ += ".PP\n";
    after_heading_ = false;
    block_ += (block_.empty() ? "" : "\n") + trimmed(line);
  }

  std::string finish() {
    end_block();
    return std::move(out_);
  }

 private:
  void fence() {
    end_block();
    fenced_ = !fenced_;
    after_heading_ = false;
    out_ += fenced_ ? ".PP\n.RS 4\n.nf\n" : ".fi\n.RE\n";
  }

  void heading(const std::string& request, const std::string& text) {
    end_block();
    out_ += request + "\"" + roff_text(text) + "\"\n";
    after_heading_ = true;
  }

  void row(const std::string& line) {
    const std::vector<std::string> cells = cells_of(line);
    if (starts_with(line, "| ---")) return;
    if (head_.empty()) {
      end_block();
      head_ = cells;
      return;
    }
    out_ += table_row(head_, cells);
    after_heading_ = false;
  }

  void end_block() {
    if (!block_.empty()) out_ += roff_inline(block_) + "\n";
    block_.clear();
    head_.clear();
  }

  std::string out_;
  std::string block_;
  std::vector<std::string> head_;
  bool fenced_ = false;
  bool after_heading_ = true;
};

}  // namespace

std::string roff_text(std::string_view text) {
  std::string out;
  bool line_start = true;
  while (!text.empty()) {
    const uint32_t code = take_code_point(text);
    if (line_start && (code == '.' || code == '\'')) out += "\\&";
    line_start = code == '\n';
    if (code == '\\') {
      out += "\\e";
    } else if (code == '-') {
      out += "\\-";
    } else if (code == '\'') {
      out += "\\(aq";
    } else if (code == '"') {
      out += "\\(dq";
    } else if (code == '~') {
      out += "\\(ti";
    } else if (code == '^') {
      out += "\\(ha";
    } else if (code == '`') {
      out += "\\(ga";
    } else if (code < 0x80) {
      out += static_cast<char>(code);
    } else {
      out += fmt::format("\\[u{:04X}]", code);
    }
  }
  return out;
}

std::string roff_inline(std::string_view markdown) {
  std::string out;
  size_t plain = 0;  // start of what is not yet written
  const auto flush = [&](size_t end) {
    const std::string text = roff_text(markdown.substr(plain, end - plain));
    // Only the start of a line of the page can be a request.
    const bool inside = !out.empty() && out.back() != '\n' && starts_with(text, "\\&");
    out += inside ? text.substr(2) : text;
  };
  for (size_t i = 0; i < markdown.size(); ++i) {
    const bool strong = starts_with(markdown.substr(i), "**");
    const std::string_view mark = strong ? "**" : markdown[i] == '`' ? "`" : "";
    if (!mark.empty()) {
      const size_t close = markdown.find(mark, i + mark.size());
      if (close == std::string_view::npos) continue;
      flush(i);
      out += "\\fB" + roff_text(markdown.substr(i + mark.size(), close - i - mark.size())) + "\\fR";
      plain = close + mark.size();
      i = plain - 1;
    } else if (markdown[i] == '[') {
      const size_t middle = markdown.find("](", i);
      const size_t close = markdown.find(')', i);
      if (middle == std::string_view::npos || close == std::string_view::npos || close < middle) {
        continue;
      }
      flush(i);
      out += roff_text(markdown.substr(i + 1, middle - i - 1));
      plain = close + 1;
      i = close;
    }
  }
  flush(markdown.size());
  return out;
}

std::string roff_document(std::string_view markdown) {
  Document document;
  for (const std::string& line : lines_of(markdown)) document.add(line);
  return document.finish();
}

std::string roff_verbatim(std::string_view text) {
  std::string out;
  for (const std::string& line : lines_of(text)) out += roff_text(line) + "\n";
  return out;
}

}  // namespace spillway
