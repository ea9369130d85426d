#include "model/quantize.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tbb/global_control.h>
#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <exception>
#include <span>
#include <utility>

#include "core/block_encoding.h"
#include "core/descriptor.h"
#include "core/error.h"
#include "core/new_file.h"
#include "core/one_line.h"
#include "core/thread.h"
#include "core/units.h"
#include "core/user_path.h"
#include "io/checkpoint.h"
#include "io/gguf_writer.h"
#include "kernels/host/cpu_features.h"
#include "kernels/host/workers.h"
#include "model/gguf_metadata.h"
#include "model/gguf_names.h"
#include "model/weight_map.h"
#include "text/gguf_tokenizer.h"
#include "text/tokenizer_export.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

/// A task of a thread: what it decodes and encodes at a time stays in its cache.
constexpr uint64_t kTaskValues = 32 * 1024;
/// Of a task's values: what they are, and what becomes of them.
constexpr uint64_t kTaskCopies = 2;
constexpr uint64_t kMostChunkBytes = 64 * kMiB;
constexpr uint64_t kLeastChunkBytes = kMiB;
/// What a user lowers where there is less memory.
constexpr std::string_view kRamOption = "--ram";
/// Besides those that compute: the one that reads.
constexpr uint32_t kReaders = 1;

/// A tensor's way: where its bytes are, and what becomes of them.
struct TensorJob {
  GgufTensorSpec spec;  ///< in the new file
  std::string source_name;
  uint32_t file = 0;
  uint64_t offset = 0;
  WeightFormat from = WeightFormat::kF32;
  uint64_t rows = 1;
  uint64_t cols = 0;
  uint64_t rotated_head = 0;  ///< rows of a head, where they change places; 0 = they do not
  float added = 0;            ///< to every value
  std::vector<float> given;   ///< in place of bytes of the source

  uint64_t source_row() const { return row_bytes(from, cols); }
  uint64_t target_row() const { return row_bytes(spec.format, cols); }
  uint64_t source_bytes() const { return given.empty() ? rows * source_row() : 0; }
};

struct Work {
  GgufMetadata metadata{"the new file"};
  std::vector<TensorJob> jobs;
  std::string no_tokenizer;
  std::vector<uint32_t> lost_ends;
  std::vector<std::string> unused;
};

// ---- what is to be done -------------------------------------------------------------------------

/// A checkpoint as transformers has it.
class FolderWork {
 public:
  FolderWork(const Checkpoint& checkpoint, const MatrixType& type)
      : checkpoint_(checkpoint),
        type_(type),
        config_(load_model_config(checkpoint.directory())),
        map_(map_weights(config_, checkpoint)) {}

  Work take() {
    describe_model(config_, model_name(), type_, work_.metadata);
    carry_tokenizer();
    add("token_embd.weight", map_.embed.tensors[0], map_.embed_weight);
    for (RopeFactors& factors : rope_factors(config_)) add_given(std::move(factors));
    for (size_t l = 0; l < map_.layers.size(); ++l) {
      for (size_t t = 0; t < map_.weights[l].size(); ++t) {
        const Weight& weight = map_.weights[l][t];
        const bool head = l + 1 == map_.layers.size() && !weight.spec.vector;
        if (head && map_.tied) continue;
        const auto name = gguf_tensor_name(weight.spec.name, config_.architecture);
        CHECK(name);
        if (weight.spec.first_row > 0) continue;  // another part of what was added
        add(*name, map_.layers[l].tensors[t], weight);
      }
    }
    work_.unused = map_.unused;
    return std::move(work_);
  }

 private:
  static bool is_norm(std::string_view name) { return name.ends_with("norm.weight"); }

  std::string model_name() const {
    return fs::absolute(checkpoint_.directory()).lexically_normal().filename().string();
  }

  void carry_tokenizer() {
    const TokenizerExport wanted{config_.vocab, config_.end_tokens};
    work_.no_tokenizer = export_tokenizer(checkpoint_.directory(), wanted, work_.metadata);
    if (!work_.no_tokenizer.empty()) work_.metadata.set("tokenizer.ggml.model", "no_vocab");
    set_end_tokens(wanted, work_.metadata);
    // Some of the others are known by their texts.
    const std::vector<uint32_t> carried = gguf_end_tokens(work_.metadata);
    for (const uint32_t end : config_.end_tokens) {
      const bool there = std::find(carried.begin(), carried.end(), end) != carried.end();
      if (!there && end < config_.vocab) work_.lost_ends.push_back(end);
    }
  }

  void add(const std::string& name, const TensorSpec& tensor, const Weight& weight) {
    TensorJob job;
    job.source_name = tensor.name;
    job.file = tensor.file;
    job.offset = tensor.offset;
    job.from = weight.format;
    const WeightSpec& spec = weight.spec;
    const bool moves = has_rotated_rows(spec.name) &&
                       gguf_interleaves_heads(gguf_architecture(config_.architecture));
    if (moves) job.rotated_head = config_.head_dim;
    if (spec.vector) {  // biases change places one by one
      job.rows = moves ? spec.cols : 1;
      job.cols = moves ? 1 : spec.cols;
      if (is_norm(spec.name)) job.added = config_.norm_added;
      job.spec = {name, {spec.cols}, WeightFormat::kF32};
    } else {
      job.rows = spec.stored_rows > 0 ? spec.stored_rows : spec.rows;
      job.cols = spec.cols;
      const WeightFormat wanted = type_.format_of(name, config_.layers, map_.tied);
      job.spec = {name, {spec.cols, job.rows}, format_for_row(wanted, spec.cols)};
    }
    work_.jobs.push_back(std::move(job));
  }

  void add_given(RopeFactors factors) {
    TensorJob job;
    job.source_name = factors.name;
    job.cols = factors.values.size();
    job.spec = {std::move(factors.name), {job.cols}, WeightFormat::kF32};
    job.given = std::move(factors.values);
    work_.jobs.push_back(std::move(job));
  }

  const Checkpoint& checkpoint_;
  const MatrixType& type_;
  ModelConfig config_;
  WeightMap map_;
  Work work_;
};

/// GGUF says of itself what it is: keys stay, of any architecture, and rows lie as they are to lie.
class GgufWork {
 public:
  GgufWork(const Checkpoint& checkpoint, const MatrixType& type)
      : checkpoint_(checkpoint), type_(type) {}

  Work take() {
    Work work;
    const GgufMetadata& metadata = *checkpoint_.metadata();
    describe_type(type_, work.metadata);
    for (const auto& [key, value] : metadata.values()) {
      const bool ours = key == "general.file_type" || key == "general.quantization_version" ||
                        key == "general.alignment";
      if (!ours && !key.starts_with("split.")) work.metadata.set(key, value);
    }
    const std::string architecture = metadata.text("general.architecture").value_or("");
    layers_ = static_cast<uint32_t>(metadata.whole(architecture + ".block_count").value_or(0));
    tied_ = !checkpoint_.has("output.weight");
    for (const TensorEntry& entry : checkpoint_.tensors()) work.jobs.push_back(job_of(entry));
    return work;
  }

 private:
  TensorJob job_of(const TensorEntry& entry) const {
    if (!entry.format) {
      throw Error(fmt::format("{}: tensor {} is {}, which cannot be read",
                              checkpoint_.files()[entry.file].info().path, entry.name,
                              entry.format_text));
    }
    TensorJob job;
    job.source_name = entry.name;
    job.file = entry.file;
    job.offset = entry.offset;
    job.from = *entry.format;
    job.cols = entry.shape.back();
    for (size_t i = 0; i + 1 < entry.shape.size(); ++i) job.rows *= entry.shape[i];
    job.spec.name = entry.name;
    job.spec.ne.assign(entry.shape.rbegin(), entry.shape.rend());
    job.spec.format = entry.shape.size() > 1 && is_gguf_matrix(entry.name)
                          ? format_for_row(type_.format_of(entry.name, layers_, tied_), job.cols)
                          : *entry.format;
    return job;
  }

  const Checkpoint& checkpoint_;
  const MatrixType& type_;
  uint32_t layers_ = 0;
  bool tied_ = false;
};

void say_what_is_left_out(const Work& work, const NoticeSink& notice) {
  if (!work.no_tokenizer.empty()) {
    notice(fmt::format("the tokenizer cannot be carried: {}; the file takes token ids only",
                       one_line(work.no_tokenizer)));
  }
  if (!work.lost_ends.empty()) {
    notice(
        fmt::format("a GGUF file has keys for three tokens that end an answer; the model has "
                    "more, and goes on after {}",
                    fmt::join(work.lost_ends, ", ")));
  }
  if (!work.unused.empty()) {
    const bool one = work.unused.size() == 1;
    notice(fmt::format("{} that the model does not use {} left out: {}",
                       one ? "a tensor" : fmt::format("{} tensors", work.unused.size()),
                       one ? "is" : "are", first_few(work.unused)));
  }
}

// ---- streaming ----------------------------------------------------------------------------------

/// Reads whole pieces of the source's files, through the page cache.
class SourceFiles {
 public:
  explicit SourceFiles(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {
    for (const DirectFile& file : checkpoint.files()) {
      const std::string& path = file.info().path;
      files_.emplace_back(open(path.c_str(), O_RDONLY | O_CLOEXEC));
      if (!files_.back().valid()) fail(path, errno_text(errno));
      posix_fadvise(files_.back().get(), 0, 0, POSIX_FADV_SEQUENTIAL);
    }
  }

  void read(uint32_t file, uint64_t offset, uint64_t bytes, std::byte* out) const {
    while (bytes > 0) {
      const ssize_t got = pread(files_[file].get(), out, bytes, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      const std::string& path = checkpoint_.files()[file].info().path;
      if (got < 0) fail(path, errno_text(errno));
      if (got == 0) fail(path, "the file became shorter");
      const auto count = static_cast<uint64_t>(got);
      out += count;
      offset += count;
      bytes -= count;
    }
  }

 private:
  [[noreturn]] static void fail(const std::string& path, const std::string& cause) {
    throw Error(fmt::format("cannot read {}: {}", path, cause));
  }
  const Checkpoint& checkpoint_;
  std::vector<Descriptor> files_;
};

/// Rows of a tensor that are in memory at once.
struct Chunk {
  const TensorJob* job = nullptr;
  uint64_t first = 0;
  uint64_t rows = 0;
  uint64_t bytes() const { return rows * job->source_row(); }
};

/// Rows that one thread takes at a time.
uint64_t task_rows(uint64_t cols) {
  return std::max<uint64_t>(1, kTaskValues / cols);
}
uint64_t task_values(uint64_t cols) {
  return task_rows(cols) * cols;
}
/// Rows that must be together.
uint64_t least_rows(const TensorJob& job) {
  return std::max<uint64_t>(1, job.rotated_head);
}

class Quantizer {
 public:
  Quantizer(const Checkpoint& checkpoint, const fs::path& target, const QuantizeOptions& options,
            const StopFlag& stop, const NoticeSink& notice, const QuantizeProgress& progress,
            Work work)
      : files_(checkpoint),
        checkpoint_(checkpoint),
        target_(target),
        stop_(stop),
        progress_(progress),
        work_(std::move(work)),
        threads_(startable_to_compute(options.threads != 0 ? options.threads : usable_cores(),
                                      kReaders, notice)),
        allowed_(tbb::global_control::max_allowed_parallelism,
                 std::max<size_t>(threads_, tbb::info::default_concurrency())),
        arena_(static_cast<int>(threads_)) {
    for (const TensorJob& job : work_.jobs) total_bytes_ += job.source_bytes();
    start_workers(arena_, threads_, "--threads");  // first: buffers may take what stacks need
    size_buffers(options.ram_bytes);
  }

  QuantizeResult run() {
    std::vector<GgufTensorSpec> specs;
    specs.reserve(work_.jobs.size());
    for (const TensorJob& job : work_.jobs) specs.push_back(job.spec);
    const GgufLayout layout = lay_out_gguf(work_.metadata, specs);
    check_room(target_, layout.file_bytes, "free some space or choose a smaller --type");
    NewFile file(target_, layout.file_bytes);
    file.write(layout.header);
    QuantizeResult result;
    list_chunks();
    begin_read(0);
    size_t next = 0;
    for (size_t j = 0; j < work_.jobs.size(); ++j) {
      file.write_zeros(layout.offsets[j] - file.position());
      result.tensors.push_back(write_tensor(work_.jobs[j], next, file));
    }
    file.write_zeros(layout.file_bytes - file.position());
    file.finish();
    stop_.check();
    file.publish();
    result.file_bytes = layout.file_bytes;
    result.no_tokenizer = work_.no_tokenizer;
    result.lost_ends = work_.lost_ends;
    result.unused = work_.unused;
    return result;
  }

 private:
  /// The largest chunks that fit, up to where more bring nothing: two of the source and one of what
  /// they become, beside the file's own buffer and what each thread needs for a task.
  void size_buffers(uint64_t ram_bytes) {
    uint64_t least = kLeastChunkBytes;
    uint64_t most_values = 0;
    for (const TensorJob& job : work_.jobs) {
      if (!job.given.empty()) continue;
      least = std::max(least, least_rows(job) * job.source_row());
      most_values = std::max(most_values, task_values(job.cols));
    }
    const uint64_t of_threads = threads_ * kTaskCopies * sizeof(float) * most_values;
    const auto needed = [&](uint64_t chunk) {
      return NewFile::kBufferBytes + of_threads + 2 * align_up(chunk, kHugePageBytes) +
             align_up(target_bytes(chunk), kHugePageBytes);
    };
    uint64_t chunk = std::max(least, kMostChunkBytes);
    while (chunk > least && needed(chunk) > ram_bytes) chunk = std::max(chunk / 2, least);
    if (needed(chunk) > ram_bytes) {
      throw Error(fmt::format("{} {}: {} are needed", kRamOption, format_bytes(ram_bytes),
                              format_bytes_up(needed(chunk))));
    }
    chunk_bytes_ = chunk;
    for (HugeBuffer& buffer : source_) buffer = HugeBuffer(chunk, kRamOption);
    encoded_ = HugeBuffer(target_bytes(chunk), kRamOption);
  }

  uint64_t chunk_rows(const TensorJob& job, uint64_t chunk_bytes) const {
    const uint64_t group = least_rows(job);
    const uint64_t rows = align_down(chunk_bytes / job.source_row(), group);
    return std::min(std::max(rows, group), job.rows);
  }
  uint64_t target_bytes(uint64_t chunk_bytes) const {
    uint64_t most = 0;
    for (const TensorJob& job : work_.jobs) {
      if (!job.given.empty()) continue;
      most = std::max(most, chunk_rows(job, chunk_bytes) * job.target_row());
    }
    return most;
  }

  void list_chunks() {
    for (const TensorJob& job : work_.jobs) {
      if (!job.given.empty()) continue;
      const uint64_t each = chunk_rows(job, chunk_bytes_);
      for (uint64_t first = 0; first < job.rows; first += each) {
        chunks_.push_back({&job, first, std::min(each, job.rows - first)});
      }
    }
  }

  /// Chunk `index` into its buffer, beside the encoding of the one before.
  void begin_read(size_t index) {
    if (index >= chunks_.size()) return;
    reader_ = start_thread("that reads weights", [this, index] {
      try {
        const Chunk& chunk = chunks_[index];
        const TensorJob& job = *chunk.job;
        files_.read(job.file, job.offset + chunk.first * job.source_row(), chunk.bytes(),
                    source_[index % 2].data());
      } catch (...) {
        read_error_ = std::current_exception();
      }
    });
  }
  void finish_read() {
    reader_ = std::jthread();
    if (read_error_) std::rethrow_exception(std::exchange(read_error_, nullptr));
  }

  QuantizedTensor write_tensor(const TensorJob& job, size_t& next, NewFile& file) {
    QuantizedTensor report{
        job.spec.name, job.from, job.spec.format, job.rows * job.target_row(), 0, 0};
    if (!job.given.empty()) {
      file.write(std::as_bytes(std::span(job.given)));
      return report;
    }
    Errors errors;
    for (; next < chunks_.size() && chunks_[next].job == &job; ++next) {
      stop_.check();
      finish_read();
      begin_read(next + 1);
      const Chunk& chunk = chunks_[next];
      errors.add(encode(chunk, source_[next % 2].data()));
      file.write(std::span<const std::byte>(encoded_.data(), chunk.rows * job.target_row()));
      done_bytes_ += chunk.bytes();
      progress_(done_bytes_, total_bytes_);
    }
    report.error = errors.relative();
    report.worst_row = std::sqrt(errors.worst_row);
    return report;
  }

  /// Squares of values and of what encoding changed.
  struct Errors {
    double values = 0;
    double changes = 0;
    double worst_row = 0;  ///< relative, squared

    void add(const Errors& other) {
      values += other.values;
      changes += other.changes;
      worst_row = std::max(worst_row, other.worst_row);
    }
    double relative() const { return values > 0 ? std::sqrt(changes / values) : 0; }
  };

  Errors encode(const Chunk& chunk, const std::byte* source) {
    const TensorJob& job = *chunk.job;
    const uint64_t each = task_rows(job.cols);
    const uint64_t tasks = ceil_div(chunk.rows, each);
    std::vector<Errors> errors(tasks);
    arena_.execute([&] {
      tbb::parallel_for(uint64_t{0}, tasks, [&](uint64_t task) {
        stop_.check();
        const uint64_t first = task * each;
        errors[task] = encode_rows(chunk, source, first, std::min(each, chunk.rows - first));
      });
    });
    Errors sum;
    for (const Errors& one : errors) sum.add(one);
    return sum;
  }

  /// Blocks that are to stay as they are, bit by bit.
  static bool stays(const TensorJob& job) {
    return job.from == job.spec.format && has_blocks(job.from) && job.rotated_head == 0 &&
           job.added == 0;
  }

  /// Rows [first, first + rows) of a chunk, which begins a head where heads are turned.
  Errors encode_rows(const Chunk& chunk, const std::byte* source, uint64_t first, uint64_t rows) {
    const TensorJob& job = *chunk.job;
    if (stays(job)) {
      std::memcpy(encoded_.data() + first * job.target_row(), source + first * job.source_row(),
                  rows * job.source_row());
      return {};
    }
    std::vector<float> values(rows * job.cols);
    for (uint64_t r = 0; r < rows; ++r) {
      const uint64_t row = first + r;
      const uint64_t from = job.rotated_head != 0 ? hf_row(row, job.rotated_head) : row;
      decode_values(job.from, source + from * job.source_row(), job.cols, &values[r * job.cols]);
    }
    if (job.added != 0) {
      for (float& value : values) value += job.added;
    }
    std::byte* out = encoded_.data() + first * job.target_row();
    const EncodeResult result = encode_values(job.spec.format, values.data(), values.size(), out);
    if (result != EncodeResult::kDone) refuse(job, result);
    std::vector<float> back(values.size());
    decode_values(job.spec.format, out, back.size(), back.data());
    Errors errors;
    for (uint64_t r = 0; r < rows; ++r) {
      Errors row;
      for (uint64_t i = r * job.cols; i < (r + 1) * job.cols; ++i) {
        const double change = double{values[i]} - back[i];
        row.values += double{values[i]} * values[i];
        row.changes += change * change;
      }
      if (row.values > 0) row.worst_row = row.changes / row.values;
      errors.add(row);
    }
    return errors;
  }

  [[noreturn]] void refuse(const TensorJob& job, EncodeResult result) const {
    const std::string& path = checkpoint_.files()[job.file].info().path;
    if (result == EncodeResult::kNotFinite) {
      throw Error(
          fmt::format("{}: tensor {} holds a value that is not a finite number; the weights "
                      "are damaged: fetch them again",
                      path, job.source_name));
    }
    throw Error(
        fmt::format("{}: tensor {} holds a value that is too large for {}; choose --type "
                    "BF16",
                    path, job.source_name, format_name(job.spec.format)));
  }

  SourceFiles files_;
  const Checkpoint& checkpoint_;
  fs::path target_;
  const StopFlag& stop_;
  const QuantizeProgress& progress_;
  Work work_;
  uint32_t threads_;
  tbb::global_control allowed_;  ///< more threads than cores, where that was asked for
  tbb::task_arena arena_;
  uint64_t chunk_bytes_ = 0;
  HugeBuffer source_[2];
  HugeBuffer encoded_;
  std::vector<Chunk> chunks_;
  std::exception_ptr read_error_;  // set by the reader, looked at when it has ended
  std::jthread reader_;            // the last: it uses the others
  uint64_t total_bytes_ = 0;
  uint64_t done_bytes_ = 0;
};

}  // namespace

bool can_quantize_to(const MatrixType& type) {
  return can_encode(type.format);
}

std::vector<std::string> quantize_type_names() {
  std::vector<std::string> names;
  for (const std::string& name : matrix_type_names()) {
    if (can_quantize_to(*parse_matrix_type(name))) names.push_back(name);
  }
  return names;
}

QuantizeResult quantize(const fs::path& source, const fs::path& target,
                        const QuantizeOptions& options, const StopFlag& stop,
                        const NoticeSink& notice, const QuantizeProgress& progress) {
  if (has_entry(target)) {
    throw Error(fmt::format("{}: exists; choose another name or remove it", target.string()));
  }
  const Checkpoint checkpoint = Checkpoint::open(source, DirectChoice::kOff, notice);
  Work work = checkpoint.metadata() != nullptr ? GgufWork(checkpoint, options.type).take()
                                               : FolderWork(checkpoint, options.type).take();
  say_what_is_left_out(work, notice);
  return Quantizer(checkpoint, target, options, stop, notice, progress, std::move(work)).run();
}

}  // namespace spillway
