#include "data/npy_header.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxDimensions = 32;  // numpy has 64 at most

[[noreturn]] void throw_damaged(const std::string& name, const std::string& what) {
  throw Error(fmt::format(
      "{}: not a .npy file that can be read: {}; write it again with numpy.save", name, what));
}

/// The header's dictionary, a literal of Python: three keys, of a text, a truth and a tuple.
class NpyDictionary {
 public:
  NpyDictionary(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  void parse() {
    expect('{');
    while (!take('}')) {
      parse_member();
      if (take(',')) continue;
      expect('}');
      break;
    }
    skip_blanks();
    if (at_ != text_.size()) unexpected();
    if (!descr || !fortran_order || !shape) {
      throw_damaged(name_, "its header lacks descr, fortran_order or shape");
    }
  }

  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<uint64_t>> shape;

 private:
  [[noreturn]] void unexpected() const {
    if (at_ >= text_.size()) throw_damaged(name_, "its header ends in the middle");
    throw_damaged(name_,
                  fmt::format("unexpected {} in its header", in_quotes(text_.substr(at_, 20))));
  }
  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(char wanted) {
    skip_blanks();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!take(wanted)) unexpected();
  }
  bool take_word(std::string_view word) {
    skip_blanks();
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  std::string parse_string() {
    const char quote = take('"') ? '"' : '\'';
    if (quote == '\'') expect('\'');
    const size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) {
      at_ = text_.size();
      unexpected();
    }
    std::string value(text_.substr(at_, end - at_));
    at_ = end + 1;
    return value;
  }
  bool parse_truth() {
    if (take_word("True")) return true;
    if (!take_word("False")) unexpected();
    return false;
  }
  uint64_t parse_number() {
    skip_blanks();
    uint64_t value = 0;
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error != std::errc()) unexpected();
    at_ += static_cast<size_t>(end - begin);
    take('L');  // of a long, as Python 2 wrote it
    return value;
  }
  std::vector<uint64_t> parse_shape() {
    expect('(');
    std::vector<uint64_t> sizes;
    while (!take(')')) {
      if (sizes.size() == kMaxDimensions) unexpected();
      sizes.push_back(parse_number());
      if (take(',')) continue;
      expect(')');
      break;
    }
    return sizes;
  }
  void parse_member() {
    const std::string key = parse_string();
    expect(':');
    if (key == "descr" && !descr) {
      skip_blanks();
      if (at_ < text_.size() && text_[at_] == '[') {
        throw Error(
            fmt::format("{}: its values are records of several fields; expected token ids "
                        "as uint16, uint32, int32 or int64",
                        name_));
      }
      descr = parse_string();
    } else if (key == "fortran_order" && !fortran_order) {
      fortran_order = parse_truth();
    } else if (key == "shape" && !shape) {
      shape = parse_shape();
    } else {
      throw_damaged(name_, fmt::format("unexpected {} in its header", in_quotes(key)));
    }
  }

  std::string_view text_;
  const std::string& name_;
  size_t at_ = 0;
};

struct HeaderPlace {
  uint64_t begin = 0;
  uint64_t bytes = 0;
};

uint64_t little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

HeaderPlace header_place(std::string_view start, const std::string& name) {
  if (!start.starts_with(kMagic) || start.size() < 8) {
    throw_damaged(name, "it does not begin with \\x93NUMPY and a version");
  }
  const unsigned major = static_cast<unsigned char>(start[6]);
  const unsigned minor = static_cast<unsigned char>(start[7]);
  if (major < 1 || major > 3 || minor != 0) {
    throw_damaged(name,
                  fmt::format("its format is {}.{}, and 1.0, 2.0 and 3.0 are known", major, minor));
  }
  const size_t word = major == 1 ? 2 : 4;
  if (start.size() < 8 + word) throw_damaged(name, "its header ends in the middle");
  const HeaderPlace place{8 + word, little_endian(start.substr(8, word))};
  if (place.bytes > kMaxNpyHeaderBytes - place.begin) {
    throw_damaged(name, fmt::format("its header has {}", counted(place.bytes, "byte")));
  }
  if (place.bytes > start.size() - place.begin) {
    throw_damaged(name, "its header ends in the middle");
  }
  return place;
}

TokenType type_of(const std::string& descr, const std::string& name) {
  if (descr == "<u2") return TokenType::kU16;
  if (descr == "<u4") return TokenType::kU32;
  if (descr == "<i4") return TokenType::kI32;
  if (descr == "<i8") return TokenType::kI64;
  throw Error(
      fmt::format("{}: its values are {}{}; expected token ids as uint16, uint32, int32 or int64, "
                  "little-endian: "
                  "write it again with numpy.save of array.astype('<u4')",
                  name, in_quotes(descr), descr.starts_with('>') ? ", big-endian" : ""));
}

uint64_t values_of(const std::vector<uint64_t>& shape, const std::string& name) {
  if (shape.empty() || shape.size() > 2) {
    throw Error(
        fmt::format("{}: an array of {}; expected one dimension (packed documents) or two "
                    "(a document a row)",
                    name, counted(shape.size(), "dimension")));
  }
  uint64_t values = 1;
  for (const uint64_t size : shape) {
    if (__builtin_mul_overflow(values, size, &values)) {
      throw_damaged(name, "its shape is larger than any file");
    }
  }
  return values;
}

void check_bytes(const NpyHeader& header, uint64_t file_bytes, const std::string& name) {
  uint64_t wanted = 0;
  if (__builtin_mul_overflow(header.values, token_bytes(header.type), &wanted) ||
      __builtin_add_overflow(wanted, header.values_begin, &wanted)) {
    throw_damaged(name, "its shape is larger than any file");
  }
  if (file_bytes < wanted) {
    throw Error(
        fmt::format("{}: cut short: {}, and its array ends at byte {}; fetch or write it "
                    "again",
                    name, counted(file_bytes, "byte"), wanted));
  }
  if (file_bytes > wanted) {
    throw Error(fmt::format("{}: {} behind its array; write one array to a file with numpy.save",
                            name, counted(file_bytes - wanted, "byte")));
  }
}

}  // namespace

NpyHeader parse_npy_header(std::string_view start, uint64_t file_bytes, const std::string& name) {
  const HeaderPlace place = header_place(start, name);
  NpyDictionary dictionary(start.substr(place.begin, place.bytes), name);
  dictionary.parse();
  NpyHeader header;
  header.type = type_of(*dictionary.descr, name);
  header.shape = *dictionary.shape;
  header.values = values_of(header.shape, name);
  header.values_begin = place.begin + place.bytes;
  if (*dictionary.fortran_order && header.shape.size() == 2) {
    throw Error(
        fmt::format("{}: its rows do not lie one after the other (Fortran order); write it "
                    "again with numpy.save of numpy.ascontiguousarray(array)",
                    name));
  }
  check_bytes(header, file_bytes, name);
  return header;
}

}  // namespace spillway
