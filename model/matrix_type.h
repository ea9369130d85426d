// What the matrices of a model are written in: one format, or a known mix. Plain data, pure
// functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/weight_format.h"
#include "model/weight_map.h"

namespace spillway {

struct MatrixType {
  std::string_view name;  ///< "Q4_K_M"
  WeightFormat format = WeightFormat::kBF16;
  bool mixed = false;      ///< what matters more is Q6_K: the head, and some of the layers' v, down
  uint32_t file_type = 0;  ///< general.file_type of a GGUF file

  /// Of the matrix of this name, whatever its rows are. `tied`: the table is the head too.
  WeightFormat format_of(std::string_view gguf_name, uint32_t layers, bool tied) const;
};

/// By name, in any case: "bf16", "q4_k", "Q4_K_M".
std::optional<MatrixType> parse_matrix_type(std::string_view name);
std::vector<std::string> matrix_type_names();
MatrixType matrix_type(WeightFormat format);

/// What this tensor is written in. Vectors are F32 wherever matrices may have blocks (`in_gguf`),
/// and as the matrices are elsewhere. Rows that are no whole number of blocks take a format with
/// smaller ones, or F16.
WeightFormat format_in(const MatrixType& type, const ModelConfig& config, const WeightSpec& spec,
                       bool in_gguf);
/// The same for rows of `cols` values that are to be of `format`.
WeightFormat format_for_row(WeightFormat format, uint64_t cols);

/// "4 matrices Q5_0" where rows of a GGUF file are no whole number of the type's blocks; else
/// empty.
std::string other_formats(const ModelConfig& config, const MatrixType& type);

}  // namespace spillway
