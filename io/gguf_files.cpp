#include "io/gguf_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <set>
#include <string_view>

#include "core/error.h"
#include "core/one_line.h"
#include "core/user_path.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kGgufSuffix = ".gguf";
constexpr size_t kPartDigits = 5;
constexpr std::string_view kPartsSeparator = "-of-";
/// "-00001-of-00003.gguf"
constexpr size_t kPartTail =
    1 + kPartDigits + kPartsSeparator.size() + kPartDigits + kGgufSuffix.size();

/// Of five digits; 0 where they are none.
uint32_t part_number(std::string_view digits) {
  uint32_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return error == std::errc() && end == digits.data() + digits.size() ? number : 0;
}

/// Only of regular files: of another it might be waited for.
bool begins_like_gguf(const fs::path& file) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return false;
  std::string magic(4, '\0');
  return std::ifstream(file, std::ios::binary).read(magic.data(), 4) && looks_like_gguf(magic);
}

bool named_like_gguf(const fs::path& file) {
  std::error_code error;
  const std::string name = file.filename().string();
  return name.ends_with(kGgufSuffix) && !name.starts_with('.') && !fs::is_directory(file, error);
}

/// By convention that is what they are called; their metadata say it when they are opened.
bool named_like_projector(const std::string& name) {
  return name.find("mmproj") != std::string::npos;
}

/// By their extension; where none has it, by their first bytes.
std::vector<std::string> gguf_names(const fs::path& folder) {
  std::error_code error;
  const std::vector<fs::path> files = entries_of(folder, error);
  std::vector<std::string> names;
  for (const auto wanted : {named_like_gguf, begins_like_gguf}) {
    for (const fs::path& file : files) {
      if (wanted(file)) names.push_back(file.filename().string());
    }
    if (!names.empty()) break;
  }
  return names;
}

/// The names by which a folder's models are opened: the first part stands for all.
std::set<std::string> models_among(const std::vector<std::string>& names) {
  std::set<std::string> models;
  for (const std::string& name : names) {
    const auto part = parse_gguf_part(name);
    models.insert(part ? part->file_of(1) : name);
  }
  if (models.size() > 1) {
    std::set<std::string> texts = models;
    std::erase_if(texts, named_like_projector);
    if (!texts.empty()) return texts;
  }
  return models;
}

}  // namespace

std::string GgufPartName::file_of(uint32_t which) const {
  return fmt::format("{}-{:05}-of-{:05}{}", prefix, which, parts, kGgufSuffix);
}

std::string gguf_part_name(const std::string& name, uint32_t part, uint32_t parts) {
  if (parts == 1) return name;
  std::string_view stem = name;
  if (stem.ends_with(kGgufSuffix)) stem.remove_suffix(kGgufSuffix.size());
  return GgufPartName{std::string(stem), part + 1, parts}.file_of(part + 1);
}

std::optional<GgufPartName> parse_gguf_part(const std::string& file_name) {
  if (file_name.size() <= kPartTail) return std::nullopt;
  const size_t begin = file_name.size() - kPartTail;
  const auto tail = std::string_view(file_name).substr(begin);
  GgufPartName name;
  name.prefix = file_name.substr(0, begin);
  name.part = part_number(tail.substr(1, kPartDigits));
  name.parts = part_number(tail.substr(1 + kPartDigits + kPartsSeparator.size(), kPartDigits));
  const bool fits = name.part >= 1 && name.part <= name.parts;
  if (!fits || name.file_of(name.part) != file_name) return std::nullopt;
  return name;
}

std::optional<GgufSplit> split_of(const GgufMetadata& metadata) {
  GgufSplit split;
  split.count = metadata.whole("split.count").value_or(0);
  split.no = metadata.whole("split.no").value_or(0);
  split.tensors = metadata.whole("split.tensors.count").value_or(0);
  if (split.count <= 1 && split.no == 0) return std::nullopt;
  if (split.no >= split.count || !metadata.has("split.tensors.count")) {
    throw Error(fmt::format(
        "{}: split.no {}, split.count {} and split.tensors.count {} do not go together; fetch the "
        "file again",
        metadata.path(), split.no, split.count, split.tensors));
  }
  return split;
}

std::optional<GgufPartName> check_gguf_start(const fs::path& file, const GgufMetadata& metadata) {
  const auto split = split_of(metadata);
  const auto name = parse_gguf_part(file.filename().string());
  if (split && split->no != 0) {
    throw Error(fmt::format(
        "{}: part {} of {} of a model; name the first part{}", file.string(), split->no + 1,
        split->count,
        name ? ", " + (file.parent_path() / name->file_of(1)).string() : std::string(" instead")));
  }
  const uint64_t by_name = name ? name->parts : 1;
  const uint64_t by_keys = split ? split->count : 1;
  if (by_name != by_keys || (name && name->part != 1)) {
    throw Error(fmt::format(
        "{}: its metadata say that it is part 1 of {}, {}; give every file its own name, "
        "NAME-00001-of-00003.gguf where it is part 1 of 3",
        file.string(), by_keys,
        name ? fmt::format("its name says part {} of {}", name->part, name->parts)
             : std::string("which its name does not")));
  }
  const std::string architecture = metadata.text("general.architecture").value_or("");
  const std::string type = metadata.text("general.type").value_or("model");
  if (architecture == "clip" || type == "mmproj") {
    throw Error(fmt::format(
        "{}: a projector for images or sound (mmproj), not a model; name the model's own GGUF file",
        file.string()));
  }
  if (type != "model") {
    throw Error(fmt::format("{}: not a model (its general.type is {}); name the model's GGUF file",
                            file.string(), in_quotes(type)));
  }
  return split ? name : std::nullopt;
}

void check_gguf_part(const GgufMetadata& part, uint32_t number, const GgufMetadata& first) {
  const auto split = split_of(part);
  const auto whole = split_of(first);
  const auto model = part.text("general.architecture");
  std::string problem;
  if (!split) {
    problem = "it has no split.no and split.count";
  } else if (split->no + 1 != number || split->count != whole->count) {
    problem = fmt::format("its metadata say part {} of {}", split->no + 1, split->count);
  } else if (split->tensors != whole->tensors) {
    problem = fmt::format("its model has {} tensors, that of the first part {}", split->tensors,
                          whole->tensors);
  } else if (model && model != first.text("general.architecture")) {
    problem = fmt::format("its architecture is {}", in_quotes(*model));
  }
  if (problem.empty()) return;
  throw Error(
      fmt::format("{}: not part {} of {} of the model that begins in {}: {}; fetch it again",
                  part.path(), number, whole->count, first.path(), problem));
}

std::string missing_part(const fs::path& folder, const GgufPartName& name, uint32_t which) {
  const fs::path file = folder / name.file_of(which);
  std::string fetch = fetch_command(folder / name.prefix);  // of all parts, not of this one
  if (!fetch.empty()) {
    fetch = fmt::format(": {} --include {}", fetch,
                        shell_word(fmt::format("*{}-*-of-{:05}.gguf", name.prefix, name.parts)));
  }
  return fmt::format("{}: part {} of {} of the model is not there; fetch it{}", file.string(),
                     which, name.parts, fetch);
}

bool is_gguf_file(const fs::path& file) {
  std::error_code error;
  return fs::is_regular_file(file, error) && (named_like_gguf(file) || begins_like_gguf(file));
}

bool has_gguf(const fs::path& folder) {
  std::error_code error;
  const std::vector<fs::path> files = entries_of(folder, error);
  return std::any_of(files.begin(), files.end(), named_like_gguf);
}

fs::path find_gguf(const fs::path& folder) {
  constexpr size_t kListed = 8;
  const std::set<std::string> models = models_among(gguf_names(folder));
  if (models.empty()) return {};
  if (models.size() == 1) return folder / *models.begin();
  const auto shown = std::next(models.begin(), std::min(kListed, models.size()));
  std::vector<std::string> words;
  std::transform(models.begin(), shown, std::back_inserter(words),
                 [](const std::string& name) { return cut_middle(printable(name), 80); });
  const size_t more = models.size() - words.size();
  throw Error(fmt::format("{}: holds {} models in GGUF; name one of the files: {}{}",
                          folder.string(), models.size(), fmt::join(words, ", "),
                          more == 0 ? "" : fmt::format(" and {} more", more)));
}

}  // namespace spillway
