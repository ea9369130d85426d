#include "kernels/host/host_ops.h"

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/units.h"
#include "kernels/host/amx.h"
#include "kernels/host/attention.h"
#include "kernels/host/gemm.h"
#include "kernels/host/isa_kernels.h"
#include "kernels/host/matmul_cut.h"
#include "kernels/host/sampling.h"
#include "kernels/host/top_k.h"
#include "kernels/host/vnni.h"
#include "kernels/host/workers.h"

namespace spillway {
namespace {

/// Up to this many rows the own kernels win: weights are read once, at memory speed.
constexpr uint32_t kMaxGemvRows = 32;
/// Activation rows per oneDNN call.
constexpr uint32_t kGemmRows = 512;
/// Of to_bf16 where parts follow each other.
constexpr size_t kPlainParts = 32;
/// Below this many multiply-adds a second thread costs more than it brings.
constexpr uint64_t kMinParallelWork = 32 * 1024;

const IsaKernels& kernels_of(Isa isa) {
  return isa >= Isa::kAvx512 ? kAvx512Kernels : isa == Isa::kAvx2 ? kAvx2Kernels : kBaselineKernels;
}
const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::kAvx512Vnni:
      return "AVX-512 VNNI";
    case Isa::kAvx512:
      return "AVX-512";
    case Isa::kAvx2:
      return "AVX2";
    case Isa::kBaseline:
      return "SSE2";
  }
  return "";
}

class HostOps final : public Ops {
 public:
  HostOps(const DeviceOptions& options, Isa isa)
      : isa_(kernels_of(isa)),
        threads_(options.threads != 0 ? options.threads : usable_cores()),
        vnni_(isa >= Isa::kAvx512Vnni),
        bf16_prompts_(choose_bf16(options.prompt_math)),
        amx_(bf16_prompts_ && allowed_amx()),
        allowed_(tbb::global_control::max_allowed_parallelism,
                 std::max<size_t>(threads_, tbb::info::default_concurrency())),
        arena_(static_cast<int>(threads_)) {
    start_workers(arena_, threads_, "compute.threads");
    description_ = fmt::format("{}, prompts {}, decode {} GEMV", counted(threads_, "thread"),
                               amx_            ? "AMX bf16"
                               : bf16_prompts_ ? "oneDNN bf16"
                                               : "oneDNN f32 tiles",
                               name_of(isa));
  }

  std::string description() const override { return description_; }

  uint64_t workspace_bytes(const OpsLimits& limits) const override {
    return layout(limits).total_bytes;
  }
  void bind_workspace(std::span<std::byte> memory, const OpsLimits& limits) override {
    const Layout parts = layout(limits);
    CHECK(memory.size() >= parts.total_bytes);
    limits_ = limits;
    packed_ = memory.data();
    packed_bytes_ = parts.input_bytes;
    packed_for_prompts_ = false;
    packed_with_ = nullptr;
    scratch_ = memory.data() + parts.input_bytes;
    panel_bytes_ = parts.panel_bytes;
    scratch_bytes_ = parts.panel_bytes + parts.gemm_bytes;
    vector_.reserve(limits.max_cols);
  }
  uint64_t kv_bytes(const AttentionShape& shape, uint32_t capacity) const override {
    return host_kv_bytes(shape, capacity);
  }

  void stop_on(const StopFlag* stop) override { stop_ = stop; }

  /// In pieces: the first touch of a large cache takes seconds.
  void zero(Stream&, std::byte* data, uint64_t bytes) override {
    constexpr uint64_t kPiece = 4 * kMiB;
    parallel(static_cast<uint32_t>(ceil_div(bytes, kPiece)), bytes, [&](uint32_t i) {
      std::memset(data + i * kPiece, 0, std::min(kPiece, bytes - i * kPiece));
    });
  }

  void embed(Stream&, const WeightView& table, const uint32_t* ids, const uint32_t* rows,
             uint32_t count, float* out) override {
    const uint64_t row_bytes = ::spillway::row_bytes(table.format, table.cols);
    for (uint32_t i = 0; i < count; ++i) {
      CHECK(ids[i] < table.rows);
      to_f32(table.format, table.data + ids[i] * row_bytes, out + uint64_t{rows[i]} * table.cols,
             table.cols);
    }
  }

  void rmsnorm(Stream&, const float* x, const NormWeight& norm, uint32_t rows,
               float* out) override {
    const uint32_t cols = norm.weight.cols;
    float* w = vector_of(norm.weight);
    if (norm.added != 0) {
      for (uint32_t i = 0; i < cols; ++i) w[i] += norm.added;
    }
    for_rows(rows, cols, [&](uint32_t r) {
      isa_.rmsnorm(x + uint64_t{r} * cols, w, cols, norm.epsilon, out + uint64_t{r} * cols);
    });
  }

  void set_input(Stream&, const float* x, uint32_t rows, uint32_t cols) override {
    CHECK(rows <= limits_.max_rows && cols <= limits_.max_cols);
    input_ = x;
    input_rows_ = rows;
    input_cols_ = cols;
    packed_for_prompts_ = false;
    packed_with_ = nullptr;
  }

  void norm_input(Stream& stream, float* x, const float* y, const NormWeight& norm, uint32_t rows,
                  float* scratch) override {
    if (y != nullptr) add(stream, x, y, uint64_t{rows} * norm.weight.cols);
    rmsnorm(stream, x, norm, rows, scratch);
    set_input(stream, scratch, rows, norm.weight.cols);
  }

  void gated_input(Stream& stream, Activation activation, float* gate, const float* up,
                   uint32_t rows, uint32_t cols) override {
    const auto gate_mul = activation == Activation::kSilu ? isa_.silu_mul : isa_.gelu_mul;
    for_blocks(uint64_t{rows} * cols,
               [&](uint64_t at, uint64_t n) { gate_mul(gate + at, up + at, n); });
    set_input(stream, gate, rows, cols);
  }

  void matmul_tiles(Stream&, std::span<const WeightView> tiles, float* out,
                    uint32_t out_stride) override {
    const TiledRows weight(tiles);
    CHECK(weight.cols() == input_cols_);
    const bool gemv = input_rows_ <= kMaxGemvRows;
    const bool bf16 = !gemv && bf16_prompts_ &&
                      (weight.format() == WeightFormat::kBF16 || has_blocks(weight.format()));
    if (bf16) pack_for_prompts();
    if (gemv) return gemv_tasks(weight, out, out_stride);
    if (bf16 && amx_) return amx_tasks(weight, out, out_stride);
    // Cut by panels and by rows: both borders are fixed, so that results do not depend on threads.
    const auto panels = static_cast<uint32_t>(ceil_div(weight.rows(), kPanelRows));
    const auto blocks = static_cast<uint32_t>(ceil_div(input_rows_, kGemmRows));
    parallel(panels * blocks, UINT64_MAX, [&](uint32_t index) {
      const uint32_t row = index % blocks * kGemmRows;
      const uint32_t rows = std::min(kGemmRows, input_rows_ - row);
      weight.each(index / blocks * kPanelRows, kPanelRows,
                  [&](const WeightView& panel, uint32_t first) {
                    multiply_panel(panel, bf16, row, rows, out + uint64_t{row} * out_stride + first,
                                   out_stride);
                  });
    });
  }

  void add_bias(Stream&, float* x, uint32_t rows, const WeightView& bias) override {
    const float* b = vector_of(bias);
    for (uint32_t r = 0; r < rows; ++r) isa_.add(x + uint64_t{r} * bias.cols, b, bias.cols);
  }

  void rope_append(Stream&, float* q, float* k, const float* v, const AttentionShape& shape,
                   const float* inverse_frequencies,
                   std::span<const SequenceRows> sequences) override {
    const uint64_t q_width = uint64_t{shape.heads} * shape.head_dim;
    const uint64_t kv_width = uint64_t{shape.kv_heads} * shape.head_dim;
    const uint32_t half = rotating(shape) / 2;
    CHECK(half <= kMaxHalfHead && (!shape.interleaved || rotating(shape) == shape.head_dim));
    for (const SequenceRows& sequence : sequences) {
      CHECK(sequence.first_position + sequence.rows <= sequence.kv_capacity);
      const float* speeds = inverse_frequencies + uint64_t{sequence.rope_table} * half;
      for_rows(sequence.rows, static_cast<uint32_t>(q_width + kv_width), [&](uint32_t r) {
        float cosine[kMaxHalfHead];
        float sine[kMaxHalfHead];
        const uint32_t position = sequence.first_position + r;
        for (uint32_t i = 0; i < half; ++i) {
          const float angle = static_cast<float>(position) * speeds[i];
          cosine[i] = std::cos(angle) * shape.rope_scale;
          sine[i] = std::sin(angle) * shape.rope_scale;
        }
        const uint64_t row = sequence.first_row + r;
        rotate_heads(q + row * q_width, shape.heads, shape, cosine, sine);
        rotate_heads(k + row * kv_width, shape.kv_heads, shape, cosine, sine);
        host_kv_store(k + row * kv_width, v + row * kv_width, shape, sequence, position);
      });
    }
  }

  void attention(Stream&, const float* q, const AttentionShape& shape,
                 std::span<const SequenceRows> sequences, float* out) override {
    CHECK(shape.heads % shape.kv_heads == 0);
    for (const SequenceRows& sequence : sequences) {
      const auto tiles = static_cast<uint32_t>(ceil_div(sequence.rows, kAttentionTileRows));
      const uint32_t seen = std::min(sequence.first_position + sequence.rows, shape.window);
      const uint64_t work = uint64_t{sequence.rows} * shape.heads * shape.head_dim * seen;
      parallel(tiles * shape.kv_heads, work, [&](uint32_t index) {
        const uint32_t first = index / shape.kv_heads * kAttentionTileRows;
        const uint32_t count = std::min(kAttentionTileRows, sequence.rows - first);
        host_attention_tile(isa_, q, shape, sequence, first, count, index % shape.kv_heads, out);
      });
    }
  }

  void add(Stream&, float* x, const float* y, uint64_t count) override {
    for_blocks(count, [&](uint64_t at, uint64_t n) { isa_.add(x + at, y + at, n); });
  }
  void scale(Stream&, float* x, float factor, uint64_t count) override {
    for_blocks(count, [&](uint64_t at, uint64_t n) { isa_.scale(x + at, factor, n); });
  }
  void soft_cap(Stream&, float* x, float cap, uint32_t rows, uint32_t cols,
                uint32_t stride) override {
    CHECK(cap > 0);
    const auto blocks = static_cast<uint32_t>(ceil_div(cols, kBlockValues));
    parallel(rows * blocks, uint64_t{rows} * cols, [&](uint32_t index) {
      const uint64_t at = index % blocks * kBlockValues;
      isa_.soft_cap(x + uint64_t{index / blocks} * stride + at, std::min(kBlockValues, cols - at),
                    cap);
    });
  }

  void fold_log_softmax(Stream&, const float* logits, uint32_t rows, uint32_t cols, uint32_t stride,
                        uint32_t first_id, const uint32_t* targets, float* running_max,
                        float* running_sum, float* target_logit) override {
    for_rows(rows, cols, [&](uint32_t r) {
      const float* row = logits + uint64_t{r} * stride;
      for (uint32_t at = 0; at < cols; at += kPanelRows) {
        float maximum = 0;
        float sum = 0;
        isa_.max_exp_sum(row + at, std::min(kPanelRows, cols - at), &maximum, &sum);
        const float top = std::max(running_max[r], maximum);
        running_sum[r] =
            running_sum[r] * std::exp(running_max[r] - top) + sum * std::exp(maximum - top);
        running_max[r] = top;
      }
      if (targets[r] >= first_id && targets[r] - first_id < cols) {
        target_logit[r] = row[targets[r] - first_id];
      }
    });
  }

  void fold_top_k(Stream&, const float* logits, uint32_t rows, uint32_t cols, uint32_t stride,
                  uint32_t first_id, uint32_t k, float* values, uint32_t* ids) override {
    CHECK(k > 0 && k <= kMaxTopK);
    for_rows(rows, cols, [&](uint32_t r) {
      const uint64_t list = uint64_t{r} * k;
      host_fold_top_k(isa_, {logits + uint64_t{r} * stride, cols}, first_id, {values + list, k},
                      {ids + list, k});
    });
  }

  void sample(Stream&, const float* logits, uint32_t cols, std::span<const SampleRow> rows,
              uint32_t* ids) override {
    const bool draws = std::any_of(rows.begin(), rows.end(),
                                   [](const SampleRow& row) { return row.temperature > 0; });
    const uint64_t scratch_ids = draws ? cols : 0;
    sample_ids_.resize(threads_ * scratch_ids);  // grows once: the vocabulary stays the same
    parallel(static_cast<uint32_t>(rows.size()), rows.size() * cols, [&](uint32_t r) {
      ids[r] =
          host_sample({logits + uint64_t{r} * cols, cols}, rows[r],
                      std::span(sample_ids_).subspan(this_thread() * scratch_ids, scratch_ids));
    });
  }

 private:
  static constexpr uint32_t kMaxHalfHead = 512;
  /// Of a flat loop that one thread takes at a time.
  static constexpr uint64_t kBlockValues = 16 * 1024;
  struct Layout {
    uint64_t input_bytes;  // packed, for prompts or for decode
    uint64_t panel_bytes;  // one thread's
    uint64_t gemm_bytes;   // one thread's
    uint64_t total_bytes;
  };

  static bool choose_bf16(PromptMath math) {
    if (math == PromptMath::kAuto) return bf16_matmul_is_fast();
    if (math == PromptMath::kBf16 && !has_avx512_bf16()) {
      throw Error("compute.prompt_math: bf16 needs AVX512-BF16, which this CPU lacks; use auto");
    }
    return math == PromptMath::kBf16;
  }

  Layout layout(const OpsLimits& limits) const {
    Layout parts{};
    if (vnni_ && limits.block_values > 0) {
      const uint64_t rows = std::min(limits.max_rows, kMaxGemvRows);
      parts.input_bytes = rows * vnni_input_bytes(limits.max_cols);
    }
    if (limits.max_rows > kMaxGemvRows) add_prompts(parts, limits);
    parts.total_bytes = parts.input_bytes + threads_ * (parts.panel_bytes + parts.gemm_bytes);
    return parts;
  }
  void add_prompts(Layout& parts, const OpsLimits& limits) const {
    const uint64_t cols = limits.max_cols;
    if (amx_) {
      // Rows and columns are filled up; fewer of the one may come with more of the other.
      parts.input_bytes =
          std::max(parts.input_bytes, amx_input_bytes(limits.max_rows, limits.max_cols));
    } else if (bf16_prompts_) {
      parts.input_bytes = std::max(parts.input_bytes, align_up(limits.max_rows * cols * 2, 64));
    }
    parts.panel_bytes = align_up(kPanelRows * cols * sizeof(float), 64);
    const uint32_t rows = std::min(kGemmRows, limits.max_rows);
    parts.gemm_bytes = gemm_.scratch_bytes(DType::kF32, rows, kPanelRows, limits.max_cols);
    if (amx_) {
      const uint64_t other = parts.panel_bytes + parts.gemm_bytes;
      parts.gemm_bytes = std::max(other, amx_scratch_bytes()) - parts.panel_bytes;
    } else if (bf16_prompts_) {
      parts.gemm_bytes = std::max(
          parts.gemm_bytes, gemm_.scratch_bytes(DType::kBF16, rows, kPanelRows, limits.max_cols));
    }
  }

  void to_f32(WeightFormat format, const std::byte* source, float* target, size_t count) const {
    isa_.to_f32[index_of(format)](source, target, count);
  }

  static uint32_t rotating(const AttentionShape& shape) {
    return shape.rotary_dim != 0 ? shape.rotary_dim : shape.head_dim;
  }
  void rotate_heads(float* x, uint32_t heads, const AttentionShape& shape, const float* cosine,
                    const float* sine) const {
    for (uint32_t i = 0; i < heads; ++i) {
      float* head = x + uint64_t{i} * shape.head_dim;
      if (shape.interleaved) set_pairs_apart(head, shape.head_dim / 2);
      isa_.rotate(head, cosine, sine, rotating(shape) / 2);
    }
  }
  /// Pair i from (2i, 2i+1) to (i, i + half).
  static void set_pairs_apart(float* head, uint32_t half) {
    float second[kMaxHalfHead];
    for (uint32_t i = 0; i < half; ++i) {
      second[i] = head[2 * i + 1];
      head[i] = head[2 * i];
    }
    std::memcpy(head + half, second, half * sizeof(float));
  }

  /// A norm weight or bias as f32, valid until the next call.
  float* vector_of(const WeightView& view) {
    vector_.resize(view.cols);
    to_f32(view.format, view.data, vector_.data(), view.cols);
    return vector_.data();
  }

  // Marked as packed at the end: a stop may end either halfway.
  void pack_for_prompts() {
    if (packed_for_prompts_) return;
    if (amx_) {
      const auto groups = static_cast<uint32_t>(ceil_div(input_rows_, kAmxGroupRows));
      parallel(groups, uint64_t{input_rows_} * input_cols_, [&](uint32_t group) {
        amx_pack_input(input_, input_rows_, input_cols_, group, packed_);
      });
    } else {
      for_rows(input_rows_, input_cols_,
               [&](uint32_t r) { isa_.f32_to_bf16(input_row(r), input_bf16(r), input_cols_); });
    }
    packed_for_prompts_ = true;
  }
  void pack_for_decode(const VnniKernels& vnni) {
    CHECK(input_rows_ * vnni_input_bytes(input_cols_) <= packed_bytes_);
    if (packed_with_ == vnni.pack) return;
    packed_with_ = nullptr;
    for_rows(input_rows_, input_cols_, [&](uint32_t r) {
      vnni.pack(input_row(r), input_cols_, packed_ + r * vnni_input_bytes(input_cols_));
    });
    packed_with_ = vnni.pack;
  }
  const float* input_row(uint32_t r) const { return input_ + uint64_t{r} * input_cols_; }
  uint16_t* input_bf16(uint32_t r) const {
    return reinterpret_cast<uint16_t*>(packed_) + uint64_t{r} * input_cols_;
  }

  static constexpr size_t index_of(WeightFormat format) { return static_cast<size_t>(format); }

  void multiply_panel(const WeightView& panel, bool bf16, uint32_t row, uint32_t rows,
                      float* target, uint32_t out_stride) {
    if (bf16) {
      gemm_.run(DType::kBF16, input_bf16(row), bf16_weights(panel), target, rows, panel.rows,
                panel.cols, out_stride, gemm_scratch());
    } else {
      gemm_.run(DType::kF32, input_row(row), f32_weights(panel), target, rows, panel.rows,
                panel.cols, out_stride, gemm_scratch());
    }
  }

  void gemv_tasks(const TiledRows& weight, float* out, uint32_t out_stride) {
    const VnniKernels* vnni = vnni_ ? vnni_kernels(weight.format()) : nullptr;
    if (vnni != nullptr) pack_for_decode(*vnni);
    const uint32_t slice_rows = gemv_slice_rows(weight.rows(), threads_);
    const auto slices = static_cast<uint32_t>(ceil_div(weight.rows(), slice_rows));
    const uint64_t work = uint64_t{weight.rows()} * weight.cols() * input_rows_;
    parallel(slices, work, [&](uint32_t slice) {
      weight.each(slice * slice_rows, slice_rows, [&](const WeightView& part, uint32_t first) {
        for (uint32_t r = 0; r < input_rows_; r += 4) {  // the slice stays in cache between these
          gemv_rows(vnni, part, r, out + uint64_t{r} * out_stride + first, out_stride);
        }
      });
    });
  }
  /// Up to four input rows, from row r on.
  void gemv_rows(const VnniKernels* vnni, const WeightView& part, uint32_t r, float* out,
                 uint32_t out_stride) const {
    const uint32_t rows = std::min(4u, input_rows_ - r);
    if (vnni != nullptr) {
      const uint64_t row_bytes = vnni_input_bytes(part.cols);
      vnni->gemv(packed_ + r * row_bytes, row_bytes, rows, part.data, part.rows, part.cols, out,
                 out_stride);
    } else {
      isa_.gemv[index_of(part.format)](input_row(r), input_cols_, rows, part.data, part.rows,
                                       part.cols, out, out_stride);
    }
  }

  void amx_tasks(const TiledRows& weight, float* out, uint32_t out_stride) {
    const auto groups = static_cast<uint32_t>(ceil_div(weight.rows(), kAmxGroupRows));
    const uint32_t slices = amx_slices(weight.rows(), threads_);
    const auto blocks = static_cast<uint32_t>(ceil_div(input_rows_, kAmxBlockRows));
    const auto first_row = [&](uint32_t slice) {
      return static_cast<uint32_t>(uint64_t{slice} * groups / slices) * kAmxGroupRows;
    };
    parallel(slices * blocks, UINT64_MAX, [&](uint32_t index) {
      const uint32_t slice = index / blocks;
      const uint32_t block = index % blocks;
      const uint32_t begin = first_row(slice);
      weight.each(begin, first_row(slice + 1) - begin, [&](const WeightView& part, uint32_t first) {
        const AmxWeights weights{part.data, isa_.to_bf16[index_of(part.format)],
                                 ::spillway::row_bytes(part.format, part.cols),
                                 ::spillway::row_bytes(part.format, kAmxPartCols), part.rows};
        amx_product(weights, packed_ + amx_block_offset(block, input_cols_),
                    std::min(kAmxBlockRows, input_rows_ - block * kAmxBlockRows), input_cols_,
                    out + uint64_t{block} * kAmxBlockRows * out_stride + first, out_stride,
                    thread_scratch());
      });
    });
  }

  /// The panel as f32: itself, or converted into this thread's scratch.
  const void* f32_weights(const WeightView& part) {
    if (part.format == WeightFormat::kF32) return part.data;
    auto* scratch = reinterpret_cast<float*>(thread_scratch());
    to_f32(part.format, part.data, scratch, uint64_t{part.rows} * part.cols);
    return scratch;
  }

  /// The same as bf16.
  const void* bf16_weights(const WeightView& part) {
    if (part.format == WeightFormat::kBF16) return part.data;
    auto* scratch = reinterpret_cast<uint16_t*>(thread_scratch());
    isa_.to_bf16[index_of(part.format)](part.data, scratch, uint64_t{part.rows} * part.cols,
                                        kPlainParts);
    return scratch;
  }

  std::byte* thread_scratch() const { return scratch_ + this_thread() * scratch_bytes_; }
  std::span<std::byte> gemm_scratch() const {
    return {thread_scratch() + panel_bytes_, scratch_bytes_ - panel_bytes_};
  }

  /// Index of the calling thread in the arena, below threads_.
  static size_t this_thread() {
    return static_cast<size_t>(tbb::this_task_arena::current_thread_index());
  }

  /// body(0..count-1) over the arena's threads; on this thread alone when the work is small. A long
  /// prompt takes seconds per operation on few cores, a tile of it takes milliseconds.
  template <typename Body>
  void parallel(uint32_t count, uint64_t work, const Body& body) {
    const auto tile = [&](uint32_t i) {
      if (stop_ != nullptr) stop_->check();
      body(i);
    };
    arena_.execute([&] {
      if (threads_ == 1 || count == 1 || work < kMinParallelWork) {
        for (uint32_t i = 0; i < count; ++i) tile(i);
      } else {
        tbb::parallel_for(0u, count, tile);
      }
    });
  }
  template <typename Body>
  void for_rows(uint32_t rows, uint32_t cols, const Body& body) {
    parallel(rows, uint64_t{rows} * cols, body);
  }
  template <typename Body>
  void for_blocks(uint64_t count, const Body& body) {
    parallel(static_cast<uint32_t>(ceil_div(count, kBlockValues)), count, [&](uint32_t i) {
      body(i * kBlockValues, std::min(kBlockValues, count - i * kBlockValues));
    });
  }

  const IsaKernels& isa_;
  const uint32_t threads_;
  const bool vnni_;
  const bool bf16_prompts_;
  const bool amx_;
  std::string description_;
  tbb::global_control allowed_;  ///< more threads than cores, where that was asked for
  tbb::task_arena arena_;
  const StopFlag* stop_ = nullptr;
  Gemm gemm_;
  OpsLimits limits_;
  const float* input_ = nullptr;
  uint32_t input_rows_ = 0;
  uint32_t input_cols_ = 0;
  std::byte* packed_ = nullptr;  // the input, as a product takes it
  uint64_t packed_bytes_ = 0;
  bool packed_for_prompts_ = false;
  decltype(VnniKernels::pack) packed_with_ = nullptr;
  std::byte* scratch_ = nullptr;  // per thread: a panel as f32, then what its product needs
  uint64_t panel_bytes_ = 0;
  uint64_t scratch_bytes_ = 0;
  std::vector<float> vector_;
  std::vector<uint32_t> sample_ids_;
};

}  // namespace

std::unique_ptr<Ops> make_host_ops(const DeviceOptions& options) {
  return make_host_ops(options, detect_isa());
}

std::unique_ptr<Ops> make_host_ops(const DeviceOptions& options, Isa isa) {
  return std::make_unique<HostOps>(options, isa);
}

}  // namespace spillway
