// Which files a model in GGUF is made of: one, or the parts of a split, which are named
// NAME-00001-of-00003.gguf. Pure, but for the last three functions, which look at the
// file system; any thread.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "io/gguf.h"

namespace spillway {

/// What the name of a part says of it.
struct GgufPartName {
  std::string prefix;
  uint32_t part = 0;  ///< from 1
  uint32_t parts = 0;

  std::string file_of(uint32_t which) const;
};

/// Empty where a file of this name is no part.
std::optional<GgufPartName> parse_gguf_part(const std::string& file_name);

/// "model-00002-of-00003.gguf" for "model.gguf": the name of part `part`, from 0, of a model in
/// `parts` files; the name itself where there is one.
std::string gguf_part_name(const std::string& name, uint32_t part, uint32_t parts);

/// What the metadata of a part says of it.
struct GgufSplit {
  uint64_t no = 0;  ///< from 0
  uint64_t count = 0;
  uint64_t tensors = 0;  ///< of all parts
};

/// Empty where the model is in one file. Throws Error where the keys disagree.
std::optional<GgufSplit> split_of(const GgufMetadata& metadata);

/// Of the file that was named: says by name what is no model (projectors, adapters), and which part
/// is the first. Gives its name's parts where it is the first of several.
std::optional<GgufPartName> check_gguf_start(const std::filesystem::path& file,
                                             const GgufMetadata& metadata);

/// Of a later part: `number` counts from 1. Throws Error where it does not belong to the first.
void check_gguf_part(const GgufMetadata& part, uint32_t number, const GgufMetadata& first);

/// Says that a part is not there, and how to get it.
std::string missing_part(const std::filesystem::path& folder, const GgufPartName& name,
                         uint32_t which);

/// Is this a file that begins as GGUF does, or at least is called so?
bool is_gguf_file(const std::filesystem::path& file);

/// Is there a file in the folder whose name ends like GGUF files do?
bool has_gguf(const std::filesystem::path& folder);

/// The file, or the first part, of the only model in GGUF in the folder; empty where there is none.
/// Throws Error where there are several.
std::filesystem::path find_gguf(const std::filesystem::path& folder);

}  // namespace spillway
