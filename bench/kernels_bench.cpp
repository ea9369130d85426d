// Kernels of the host: GEMV bytes/s by dtype and rows, prompt matmul FLOP/s, attention.
#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "core/units.h"
#include "kernels/host/host_device.h"
#include "kernels/host/host_ops.h"

namespace spillway {
namespace {

struct Setup {
  explicit Setup(uint32_t rows, uint32_t cols) : limits{rows, cols, 4096, {32, 8, 128}, {}} {
    memory = device->allocate(ops->workspace_bytes(limits));
    ops->bind_workspace({memory.data(), memory.bytes()}, limits);
  }
  OpsLimits limits;
  std::unique_ptr<Ops> ops = make_host_ops(DeviceOptions{});
  std::unique_ptr<Device> device = make_host_device();
  std::unique_ptr<Stream> stream = device->make_stream(StreamKind::kCompute);
  Memory memory;
};

/// A matrix larger than the caches, as a decode pass meets it: every byte comes from memory.
void matmul(benchmark::State& state, DType dtype) {
  const auto rows = static_cast<uint32_t>(state.range(0));
  constexpr uint32_t kCols = 4096;
  constexpr uint32_t kOutputs = 2048;
  Setup setup(rows, kCols);
  const uint64_t tile_bytes = uint64_t{kOutputs} * kCols * dtype_bytes(dtype);
  const uint64_t tiles = rows == 1 ? kGiB / tile_bytes : 8;
  HugeBuffer weights(tiles * tile_bytes);
  std::memset(weights.data(), 0x2c, weights.bytes());
  const std::vector<float> x(uint64_t{rows} * kCols, 0.01f);
  std::vector<float> out(uint64_t{rows} * kOutputs);
  uint64_t tile = 0;
  for (auto _ : state) {
    setup.ops->set_input(*setup.stream, x.data(), rows, kCols);
    setup.ops->matmul(*setup.stream,
                      {weights.data() + (tile++ % tiles) * tile_bytes, dtype, kOutputs, kCols},
                      out.data(), kOutputs);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * tile_bytes));
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * rows * kOutputs * kCols * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate);
}

void matmul_bf16(benchmark::State& state) {
  matmul(state, DType::kBF16);
}
void matmul_f16(benchmark::State& state) {
  matmul(state, DType::kF16);
}
void matmul_f32(benchmark::State& state) {
  matmul(state, DType::kF32);
}
BENCHMARK(matmul_bf16)->Arg(1)->Arg(4)->Arg(8)->Arg(16)->Arg(64)->Arg(512)->UseRealTime();
BENCHMARK(matmul_f16)->Arg(1)->Arg(512)->UseRealTime();
BENCHMARK(matmul_f32)->Arg(1)->Arg(512)->UseRealTime();

void attention(benchmark::State& state) {
  const auto rows = static_cast<uint32_t>(state.range(0));
  const auto past = static_cast<uint32_t>(state.range(1));
  const AttentionShape shape{32, 8, 128};
  Setup setup(rows, 4096);
  const auto capacity = static_cast<uint32_t>(align_up(past + rows, kKvBlockPositions));
  const Memory kv = setup.device->allocate(setup.ops->kv_bytes(shape, capacity));
  std::memset(kv.data(), 0, kv.bytes());
  const std::vector<float> q(uint64_t{rows} * 4096, 0.01f);
  std::vector<float> out(q.size());
  const SequenceRows sequence{0, rows, past, kv.data(), capacity};
  for (auto _ : state) {
    setup.ops->attention(*setup.stream, q.data(), shape, {&sequence, 1}, out.data());
  }
}
BENCHMARK(attention)->Args({1, 2000})->Args({512, 0})->UseRealTime();

}  // namespace
}  // namespace spillway
