// A checkpoint, written anew as one GGUF file with its matrices in another format: streamed tensor
// by tensor through buffers of a fixed size, encoded by all threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/stop.h"
#include "model/matrix_type.h"

namespace spillway {

struct QuantizeOptions {
  MatrixType type;
  uint64_t ram_bytes = 0;  ///< of the buffers; on top come the header, and tokens while it is made
  uint32_t threads = 0;    ///< 0 = as many as there are cores
};

/// What became of a tensor. Errors are relative, root mean square: 0.07 is 7 %.
struct QuantizedTensor {
  std::string name;  ///< in the new file
  WeightFormat from = WeightFormat::kF32;
  WeightFormat to = WeightFormat::kF32;
  uint64_t bytes = 0;
  double error = 0;
  double worst_row = 0;
};

struct QuantizeResult {
  std::vector<QuantizedTensor> tensors;
  uint64_t file_bytes = 0;
  std::string no_tokenizer;         ///< why it could not be carried; empty = it was, or is none
  std::vector<uint32_t> lost_ends;  ///< tokens that end an answer, for which there was no key
  std::vector<std::string> unused;  ///< tensors of the source that the model does not need
};

/// Called with bytes of the source read so far and in all.
using QuantizeProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

/// Can matrices be written so? Some formats can be read only.
bool can_quantize_to(const MatrixType& type);
std::vector<std::string> quantize_type_names();

/// From the folder of a Hugging Face checkpoint or a GGUF file. `target` must not exist; it gets
/// its name when it is whole, and nothing stays of it on any failure. What the file will lack is
/// said before the work begins. Throws Error, Stopped.
QuantizeResult quantize(const std::filesystem::path& source, const std::filesystem::path& target,
                        const QuantizeOptions& options, const StopFlag& stop,
                        const NoticeSink& notice, const QuantizeProgress& progress);

}  // namespace spillway
