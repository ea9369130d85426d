#include "kernels/cuda/cuda_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/units.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/cublas_library.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/kernels.h"

namespace spillway {
namespace {

/// What cuBLAS recommends for its fastest kernels on recent GPUs.
constexpr uint64_t kBlasWorkspaceBytes = 32 * kMiB;
/// Bound on the scratch of decode attention where one sequence does not need more.
constexpr uint64_t kSplitWorkspaceBytes = 32 * kMiB;
/// Values of weights in blocks that are made plain at a time for a prompt: few enough that they
/// often stay in the L2 cache until they are multiplied, enough for a matmul to fill the machine.
constexpr uint64_t kPanelValues = uint64_t{16} << 20;

/// Rows of a panel of a tile: pieces of nearly equal size, by the tile's shape alone, so that
/// cuBLAS sees the same shapes whatever else a run does.
uint32_t panel_rows(const WeightView& tile) {
  const auto most = static_cast<uint32_t>(
      std::max<uint64_t>(align_down(kPanelValues / tile.cols, kPanelRows), kPanelRows));
  const uint64_t panels = ceil_div(tile.rows, most);
  return static_cast<uint32_t>(align_up(ceil_div(tile.rows, panels), kPanelRows));
}

/// A cuBLAS handle. One thread.
class Blas {
 public:
  /// The default math mode: tensor cores for 16 bits, and f32 products stay f32, not TF32.
  Blas() { library_->check(library_->create(&handle_), "cublasCreate"); }
  Blas(const Blas&) = delete;
  ~Blas() { static_cast<void>(library_->destroy(handle_)); }

  /// A workspace of our own: results are then the same from run to run.
  void bind(std::span<std::byte> workspace) { workspace_ = workspace; }

  /// out[r, n] = x[r, :] · w[n, :], all row-major; cuBLAS reads them as their transposes.
  void run(cudaStream_t stream, const void* x, uint32_t rows, const WeightView& w, float* out,
           uint32_t out_stride) {
    const Cublas& blas = *library_;
    blas.check(blas.set_stream(handle_, stream), "cublasSetStream");  // resets the workspace
    blas.check(blas.set_workspace(handle_, workspace_.data(), workspace_.size()),
               "cublasSetWorkspace");
    const cudaDataType_t type = w.format == WeightFormat::kF32   ? CUDA_R_32F
                                : w.format == WeightFormat::kF16 ? CUDA_R_16F
                                                                 : CUDA_R_16BF;
    const float one = 1;
    const float zero = 0;
    const auto cols = static_cast<int>(w.cols);
    blas.check(blas.gemm_ex(handle_, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(w.rows),
                            static_cast<int>(rows), cols, &one, w.data, type, cols, x, type, cols,
                            &zero, out, CUDA_R_32F, static_cast<int>(out_stride),
                            CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
               "cublasGemmEx");
  }

 private:
  std::shared_ptr<const Cublas> library_ = load_cublas();
  cublasHandle_t handle_ = nullptr;
  std::span<std::byte> workspace_;
};

class CudaOps final : public Ops {
 public:
  explicit CudaOps(int ordinal)
      : description_(fmt::format("{}, prompts cuBLAS, own GEMV up to {} rows",
                                 cuda_device_text(ordinal), cuda::kMaxGemvRows)),
        early_(cuda::waits_by_itself()) {}

  std::string description() const override { return description_; }

  uint64_t workspace_bytes(const OpsLimits& limits) const override {
    return layout(limits).total_bytes;
  }

  void bind_workspace(std::span<std::byte> memory, const OpsLimits& limits) override {
    const Layout parts = layout(limits);
    CHECK(memory.size() >= parts.total_bytes);
    limits_ = limits;
    const auto take = [&](uint64_t bytes) {
      const auto taken = memory.first(bytes);
      memory = memory.subspan(bytes);
      return taken;
    };
    input_half_ = reinterpret_cast<uint16_t*>(take(parts.input_bytes).data());
    panel_ = take(parts.panel_bytes);
    split_ = take(parts.split_bytes);
    blas_.bind(take(parts.blas_bytes));
  }

  uint64_t kv_bytes(const AttentionShape& shape, uint32_t capacity) const override {
    return cuda::kv_cache_bytes(shape, capacity);
  }

  void zero(Stream& stream, std::byte* data, uint64_t bytes) override {
    if (bytes == 0) return;
    check_cuda(cudaMemsetAsync(data, 0, bytes, cuda_stream(stream)), "cudaMemsetAsync", bytes);
  }

  void embed(Stream& stream, const WeightView& table, const uint32_t* ids, const uint32_t* rows,
             uint32_t count, float* out) override {
    cuda::embed(launch_on(stream), table, ids, rows, count, out);
  }

  void rmsnorm(Stream& stream, const float* x, const NormWeight& norm, uint32_t rows,
               float* out) override {
    cuda::rmsnorm(launch_on(stream), x, norm, rows, out);
  }

  void set_input(Stream&, const float* x, uint32_t rows, uint32_t cols) override {
    open_input(rows, cols);
    input_ = x;
  }

  void norm_input(Stream& stream, float* x, const float* y, const NormWeight& norm, uint32_t rows,
                  float* scratch) override {
    open_input(rows, norm.weight.cols);
    cuda::add_rmsnorm(launch_on(stream), x, y, norm, rows, target_of(scratch));
  }

  void gated_input(Stream& stream, Activation activation, float* gate, const float* up,
                   uint32_t rows, uint32_t cols) override {
    open_input(rows, cols);
    cuda::gate_mul(launch_on(stream), activation, gate, up, uint64_t{rows} * cols, target_of(gate));
  }

  void matmul_tiles(Stream& stream, std::span<const WeightView> tiles, float* out,
                    uint32_t out_stride) override {
    for (const WeightView& tile : tiles) {  // one fills the machine
      multiply(stream, tile, out, out_stride);
      out += tile.rows;
    }
  }

  void add_bias(Stream& stream, float* x, uint32_t rows, const WeightView& bias) override {
    cuda::add_bias(launch_on(stream), x, rows, bias);
  }

  void add(Stream& stream, float* x, const float* y, uint64_t count) override {
    cuda::add(launch_on(stream), x, y, count);
  }
  void scale(Stream& stream, float* x, float factor, uint64_t count) override {
    cuda::scale(launch_on(stream), x, factor, count);
  }
  void soft_cap(Stream& stream, float* x, float cap, uint32_t rows, uint32_t cols,
                uint32_t stride) override {
    CHECK(cap > 0);
    cuda::soft_cap(launch_on(stream), x, cap, rows, cols, stride);
  }

  void rope_append(Stream& stream, float* q, float* k, const float* v, const AttentionShape& shape,
                   const float* inverse_frequencies,
                   std::span<const SequenceRows> sequences) override {
    CHECK(shape.head_dim <= cuda::kMaxHeadDim);
    CHECK(shape.rotary_dim == 0 || shape.rotary_dim == shape.head_dim || !shape.interleaved);
    for (size_t first = 0; first < sequences.size(); first += cuda::SequenceBatch::kMax) {
      cuda::SequenceBatch batch;
      const auto part = sequences.subspan(
          first, std::min<size_t>(cuda::SequenceBatch::kMax, sequences.size() - first));
      for (const SequenceRows& sequence : part) {
        CHECK(sequence.first_position + sequence.rows <= sequence.kv_capacity);
        batch.items[batch.count++] = sequence;
      }
      cuda::rope_append(launch_on(stream), q, k, v, shape, inverse_frequencies, batch);
    }
  }

  void attention(Stream& stream, const float* q, const AttentionShape& shape,
                 std::span<const SequenceRows> sequences, float* out) override {
    CHECK(shape.heads % shape.kv_heads == 0 && shape.head_dim <= cuda::kMaxHeadDim);
    const cuda::LaunchOn on = launch_on(stream);
    for (size_t first = 0; first < sequences.size();) {
      size_t end = first;
      while (end < sequences.size() && sequences[end].rows == 1) ++end;
      if (end > first) {
        cuda::attention_decode(on, q, shape, sequences.subspan(first, end - first), out, split_);
        first = end;
      } else {
        cuda::attention_prefill(on, q, shape, sequences[first++], out);
      }
    }
  }

  void fold_log_softmax(Stream& stream, const float* logits, uint32_t rows, uint32_t cols,
                        uint32_t stride, uint32_t first_id, const uint32_t* targets,
                        float* running_max, float* running_sum, float* target_logit) override {
    cuda::fold_log_softmax(launch_on(stream), logits, rows, cols, stride, first_id, targets,
                           running_max, running_sum, target_logit);
  }

  void fold_top_k(Stream& stream, const float* logits, uint32_t rows, uint32_t cols,
                  uint32_t stride, uint32_t first_id, uint32_t k, float* values,
                  uint32_t* ids) override {
    CHECK(k > 0 && k <= kMaxTopK);
    cuda::fold_top_k(launch_on(stream), logits, rows, cols, stride, first_id, k, values, ids);
  }

  void sample(Stream& stream, const float* logits, uint32_t cols, std::span<const SampleRow> rows,
              uint32_t* ids) override {
    for (size_t first = 0; first < rows.size(); first += cuda::SampleBatch::kMax) {
      const size_t count = std::min<size_t>(cuda::SampleBatch::kMax, rows.size() - first);
      cuda::SampleBatch batch;
      std::copy_n(rows.begin() + static_cast<ptrdiff_t>(first), count, batch.rows);
      cuda::sample(launch_on(stream), logits + first * cols, cols, batch,
                   static_cast<uint32_t>(count), ids + first);
    }
  }

 private:
  void multiply(Stream& stream, const WeightView& weight, float* out, uint32_t out_stride) {
    CHECK(weight.cols == input_cols_);
    const cuda::LaunchOn on = launch_on(stream);
    if (input_rows_ <= cuda::kMaxGemvRows) {
      return cuda::gemv(on, weight, input_, input_rows_, out, out_stride);
    }
    if (weight.format == WeightFormat::kF32)
      return blas_.run(on.stream, input_, input_rows_, weight, out, out_stride);
    if (half_dtype_ != compute_dtype(weight.format)) {
      CHECK(input_ != nullptr);
      const uint64_t count = uint64_t{input_rows_} * input_cols_;
      cuda::convert(on, input_, count, {nullptr, input_half_, compute_dtype(weight.format)});
      half_dtype_ = compute_dtype(weight.format);
    }
    if (has_blocks(weight.format)) return matmul_panels(on, weight, out, out_stride);
    blas_.run(on.stream, input_half_, input_rows_, weight, out, out_stride);
  }

  struct Layout {
    uint64_t input_bytes = 0;
    uint64_t panel_bytes = 0;
    uint64_t split_bytes = 0;
    uint64_t blas_bytes = 0;
    uint64_t total_bytes = 0;
  };

  static Layout layout(const OpsLimits& limits) {
    Layout parts;
    const uint64_t one = cuda::split_workspace_bytes(limits.attention, limits.max_positions);
    const uint64_t most = std::min<uint64_t>(limits.max_rows, cuda::SequenceBatch::kMax) * one;
    parts.split_bytes = align_up(std::clamp(most, one, std::max(one, kSplitWorkspaceBytes)), 256);
    if (limits.max_rows > cuda::kMaxGemvRows) {
      if (limits.matrix_dtype != DType::kF32) {
        parts.input_bytes = align_up(uint64_t{limits.max_rows} * limits.max_cols * 2, 256);
      }
      parts.blas_bytes = kBlasWorkspaceBytes;
      const uint64_t panel = std::max(kPanelValues, uint64_t{kPanelRows} * limits.max_cols);
      parts.panel_bytes = align_up(std::min(limits.block_values, panel) * 2, 256);
    }
    parts.total_bytes =
        parts.input_bytes + parts.panel_bytes + parts.split_bytes + parts.blas_bytes;
    return parts;
  }

  /// Of weights in blocks, panel by panel: made plain, then multiplied. Input is bf16.
  void matmul_panels(const cuda::LaunchOn& on, const WeightView& weight, float* out,
                     uint32_t out_stride) {
    auto* plain = reinterpret_cast<uint16_t*>(panel_.data());
    const uint32_t step = panel_rows(weight);
    WeightView panel = weight;
    for (uint32_t row = 0; row < weight.rows; row += step) {
      panel.rows = std::min(step, weight.rows - row);
      CHECK(uint64_t{panel.rows} * panel.cols * 2 <= panel_.size());
      cuda::decode_blocks(on, panel, plain);
      blas_.run(on.stream, input_half_, input_rows_,
                {panel_.data(), WeightFormat::kBF16, panel.rows, panel.cols}, out + row,
                out_stride);
      panel.data += panel.rows * row_bytes(panel.format, panel.cols);
    }
  }

  cuda::LaunchOn launch_on(Stream& stream) const { return {cuda_stream(stream), early_}; }

  void open_input(uint32_t rows, uint32_t cols) {
    CHECK(rows <= limits_.max_rows && cols <= limits_.max_cols);
    input_ = nullptr;
    input_rows_ = rows;
    input_cols_ = cols;
    half_dtype_.reset();
  }

  /// Where an operation that computes the input leaves it: in 16 bits at once, when every matmul of
  /// it will want it so.
  cuda::InputTarget target_of(float* scratch) {
    const bool half = input_rows_ > cuda::kMaxGemvRows && limits_.matrix_dtype &&
                      *limits_.matrix_dtype != DType::kF32;
    if (!half) {
      input_ = scratch;
      return {scratch, nullptr, DType::kF32};
    }
    half_dtype_ = limits_.matrix_dtype;
    return {nullptr, input_half_, *half_dtype_};
  }

  std::string description_;
  bool early_;
  Blas blas_;
  OpsLimits limits_;
  const float* input_ = nullptr;  // null: the input is in input_half_ alone
  uint32_t input_rows_ = 0;
  uint32_t input_cols_ = 0;
  std::optional<DType> half_dtype_;  // of what input_half_ holds
  uint16_t* input_half_ = nullptr;
  std::span<std::byte> panel_;  // of a weight in blocks, as bf16
  std::span<std::byte> split_;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(int ordinal) {
  check_cuda(cudaSetDevice(ordinal), "cudaSetDevice");
  if (!cuda::has_code()) {
    throw Error(fmt::format(
        "this build has no code for {}; configure with -DSPILLWAY_CUDA_ARCHITECTURES=native on the "
        "machine itself",
        cuda_device_text(ordinal)));
  }
  return std::make_unique<CudaOps>(ordinal);
}

}  // namespace spillway
