// Every operation of a device: bytes/s and FLOP/s at the sizes of an 8B model. --device=NAME picks
// the device (default host); shares of its ceilings, which are measured first in the same run.
//
//   bench_kernels --device=cuda --benchmark_filter=matmul
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bench/cuda_limits.h"
#include "bench/limits.h"
#include "core/error.h"
#include "core/units.h"
#include "kernels/host/cpu_features.h"
#include "kernels/registry.h"
#include "probe/compute_rates.h"
#include "probe/read_rate.h"

namespace spillway {
namespace {

constexpr uint32_t kHidden = 4096;
constexpr uint32_t kInner = 14336;
constexpr uint32_t kVocab = 128256;
constexpr AttentionShape kShape{32, 8, 128, DType::kBF16};

/// The device under test, its operations and its ceilings (0 = not known).
struct Bench {
  std::unique_ptr<Device> device;
  std::unique_ptr<Ops> ops;
  std::unique_ptr<Stream> stream;
  double memory_rate = 0;
  double matmul_rate = 0;
  const char* matmul_name = "bf16";

  explicit Bench(const std::string& name) {
    device = open_device(name, {});
    ops = make_ops(*device, {});
    stream = device->make_stream(StreamKind::kCompute);
    if (device->name().rfind("cuda:", 0) == 0) {
      const int ordinal = std::stoi(device->name().substr(5));
      memory_rate = ceiling("memory", [&] { return bench::cuda_memory_rate(ordinal, 10); });
      matmul_rate = ceiling("matmul", [&] { return bench::cuda_matmul_rate(ordinal, 10); });
    } else if (device->unified()) {
      measure_host();
    } else {
      return;
    }
    fmt::print("{}: memory {:.3g} GB/s, {} matmul {:.3g} TFLOP/s\n", ops->description(),
               memory_rate / 1e9, matmul_name, matmul_rate / 1e12);
  }

  void measure_host() {
    const uint32_t threads = usable_cores();
    memory_rate =
        ceiling("memory", [&] { return memory_read_rate(threads, 1, SteadyClock(), StopFlag()); });
    const bool bf16 = bf16_matmul_is_fast();
    matmul_name = bf16 ? "bf16" : "f32";
    matmul_rate = ceiling("matmul", [&] { return bench::onednn_rate(bf16, threads, 2); });
  }

  /// 0, and a line that says why, where it cannot be measured: the benchmarks run without.
  static double ceiling(const char* name, const std::function<double()>& measure) {
    try {
      return measure();
    } catch (const Error& error) {
      fmt::print(stderr, "bench_kernels: ceiling of {}: {}\n", name, error.what());
      return 0;
    }
  }
};

Memory filled(Bench& bench, uint64_t bytes) {
  return filled_memory(*bench.device, *bench.stream, bytes);
}

/// An operation ready to run: what it holds, what it moves and computes.
struct Work {
  std::vector<Memory> memory;
  std::function<void()> run;
  double bytes = 0;
  double flops = 0;
};

float* floats(const Memory& memory) {
  return reinterpret_cast<float*>(memory.data());
}

Memory bind(Bench& bench, uint32_t rows, uint32_t positions, uint64_t block_values = 0) {
  const OpsLimits limits{rows, kInner, positions, kShape, DType::kBF16, block_values};
  Memory workspace =
      bench.device->allocate(std::max<uint64_t>(1, bench.ops->workspace_bytes(limits)));
  bench.ops->bind_workspace({workspace.data(), workspace.bytes()}, limits);
  return workspace;
}

/// Weights larger than any cache are walked, as a pass does.
Work matmul(Bench& bench, WeightFormat format, uint32_t rows) {
  constexpr uint32_t kOutputs = 2048;
  const uint64_t tile_bytes = kOutputs * row_bytes(format, kHidden);
  const uint64_t tiles = kGiB / tile_bytes;
  Work work;
  work.memory.push_back(bind(bench, rows, 16, uint64_t{kOutputs} * kHidden));
  work.memory.push_back(filled_memory(*bench.device, *bench.stream, tiles * tile_bytes, format));
  work.memory.push_back(filled(bench, uint64_t{rows} * kHidden * 4));
  work.memory.push_back(bench.device->allocate(uint64_t{rows} * kOutputs * 4));
  work.run = [&bench, format, rows, tile_bytes, tiles, tile = uint64_t{0},
              w = work.memory[1].data(), x = floats(work.memory[2]),
              out = floats(work.memory[3])]() mutable {
    bench.ops->set_input(*bench.stream, x, rows, kHidden);
    bench.ops->matmul(*bench.stream, {w + tile++ % tiles * tile_bytes, format, kOutputs, kHidden},
                      out, kOutputs);
  };
  work.bytes = static_cast<double>(tile_bytes);
  work.flops = 2.0 * rows * kOutputs * kHidden;
  return work;
}

Work norm_input(Bench& bench, uint32_t rows) {
  Work work;
  work.memory.push_back(bind(bench, rows, 16));
  for (int i = 0; i < 2; ++i) work.memory.push_back(filled(bench, uint64_t{rows} * kHidden * 4));
  work.memory.push_back(filled(bench, kHidden * 2));
  work.run = [&bench, rows, x = floats(work.memory[1]), y = floats(work.memory[2]),
              w = work.memory[3].data()] {
    const NormWeight norm{{w, WeightFormat::kBF16, 1, kHidden}, 1e-5f};
    bench.ops->norm_input(*bench.stream, x, y, norm, rows, y);
  };
  work.bytes = rows * kHidden * 14.0;
  return work;
}

Work gated_input(Bench& bench, uint32_t rows) {
  Work work;
  work.memory.push_back(bind(bench, rows, 16));
  for (int i = 0; i < 2; ++i) work.memory.push_back(filled(bench, uint64_t{rows} * kInner * 4));
  work.run = [&bench, rows, gate = floats(work.memory[1]), up = floats(work.memory[2])] {
    bench.ops->gated_input(*bench.stream, Activation::kSilu, gate, up, rows, kInner);
  };
  work.bytes = rows * kInner * 10.0;
  return work;
}

/// `rows` of one sequence after `past` positions.
Work attention(Bench& bench, uint32_t rows, uint32_t past, bool append) {
  const auto capacity = static_cast<uint32_t>(align_up(past + rows, kKvBlockPositions));
  const uint64_t kv_bytes = bench.ops->kv_bytes(kShape, capacity);
  Work work;
  work.memory.push_back(bind(bench, rows, past + rows));
  work.memory.push_back(bench.device->allocate(kv_bytes));
  bench.ops->zero(*bench.stream, work.memory[1].data(), kv_bytes);
  for (int i = 0; i < 4; ++i) work.memory.push_back(filled(bench, uint64_t{rows} * kHidden * 4));
  work.memory.push_back(filled(bench, 256));
  const SequenceRows sequence{0, rows, past, work.memory[1].data(), capacity};
  work.run = [&bench, sequence, append, q = floats(work.memory[2]), k = floats(work.memory[3]),
              v = floats(work.memory[4]), out = floats(work.memory[5]),
              speeds = floats(work.memory[6])] {
    if (append) {
      bench.ops->rope_append(*bench.stream, q, k, v, kShape, speeds, {&sequence, 1});
    } else {
      bench.ops->attention(*bench.stream, q, kShape, {&sequence, 1}, out);
    }
  };
  const double positions = rows * (past + (rows + 1) / 2.0);
  if (append) {
    work.bytes = rows * (kHidden * 8.0 + 2048 * 6.0);
  } else {
    work.bytes = static_cast<double>(kv_bytes);
    work.flops = 4.0 * positions * kHidden;
  }
  return work;
}

Work head(Bench& bench, uint32_t rows, bool sampling) {
  Work work;
  work.memory.push_back(bind(bench, rows, 16));
  work.memory.push_back(filled(bench, uint64_t{rows} * kVocab * 4));
  work.memory.push_back(filled(bench, rows * 16));
  work.run = [&bench, rows, sampling, logits = floats(work.memory[1]),
              results = floats(work.memory[2])] {
    auto* ids = reinterpret_cast<uint32_t*>(results + 3 * rows);
    if (sampling) {
      const std::vector<SampleRow> how(rows, {0.8f, 50, 0.95f, 0.5f});
      bench.ops->sample(*bench.stream, logits, kVocab, how, ids);
    } else {
      bench.ops->fold_log_softmax(*bench.stream, logits, rows, kVocab, kVocab, 0, ids, results,
                                  results + rows, results + 2 * rows);
    }
  };
  work.bytes = rows * 4.0 * kVocab;
  return work;
}

/// Into lists as they are after much: few logits rank higher.
Work top_k(Bench& bench, uint32_t rows) {
  constexpr uint32_t kKept = 64;
  Work work;
  work.memory.push_back(bind(bench, rows, 16));
  work.memory.push_back(filled(bench, uint64_t{rows} * kVocab * 4));
  work.memory.push_back(filled(bench, uint64_t{rows} * kKept * 8));
  work.run = [&bench, rows, logits = floats(work.memory[1]), values = floats(work.memory[2])] {
    auto* ids = reinterpret_cast<uint32_t*>(values + uint64_t{rows} * kKept);
    bench.ops->fold_top_k(*bench.stream, logits, rows, kVocab, kVocab, 0, kKept, values, ids);
  };
  work.bytes = rows * 4.0 * kVocab;
  return work;
}

enum class Copy { kPinnedToDevice, kPageableToDevice, kDeviceToPinned, kOnDevice };

Work copy(Bench& bench, Copy kind) {
  constexpr uint64_t kBytes = 64 * kMiB;
  Work work;
  work.memory.push_back(filled(bench, kBytes));
  work.memory.push_back(kind == Copy::kOnDevice ? bench.device->allocate(kBytes)
                                                : bench.device->allocate_pinned(kBytes));
  auto pageable = std::make_shared<std::vector<std::byte>>(kBytes, std::byte{1});
  std::byte* there = work.memory[0].data();
  std::byte* here = kind == Copy::kPageableToDevice ? pageable->data() : work.memory[1].data();
  const bool back = kind == Copy::kDeviceToPinned;
  work.run = [&bench, pageable, back, there, here] {
    bench.stream->copy(back ? here : there, back ? there : here, kBytes);
  };
  work.bytes = static_cast<double>(kBytes) * (kind == Copy::kOnDevice ? 2 : 1);
  return work;
}

void measure(benchmark::State& state, Bench& bench, const std::function<Work()>& make) {
  constexpr int kBatch = 20;  // launches per wait: what a pass does, too
  const Work work = make();
  const bool inline_work = bench.device->unified();
  const int batch = inline_work ? 1 : kBatch;
  work.run();
  bench.stream->sync();
  for (auto _ : state) {
    for (int i = 0; i < batch; ++i) work.run();
    bench.stream->sync();
  }
  const double runs = static_cast<double>(state.iterations()) * batch;
  const auto rate = [&](const char* name, double amount) {
    state.counters[name] = benchmark::Counter(amount * runs, benchmark::Counter::kIsRate,
                                              benchmark::Counter::OneK::kIs1000);
  };
  rate("bytes/s", work.bytes);
  if (work.flops > 0) rate("FLOP/s", work.flops);
  if (bench.memory_rate > 0) rate("of memory", work.bytes / bench.memory_rate);
  if (bench.matmul_rate > 0 && work.flops > 0) rate("of matmul", work.flops / bench.matmul_rate);
}

void add(Bench& bench, const std::string& name, std::function<Work()> make) {
  benchmark::RegisterBenchmark(name.c_str(), [&bench,
                                              make = std::move(make)](benchmark::State& state) {
    try {  // one that fails is a row that says so, not the end of the table
      measure(state, bench, make);
    } catch (const Error& error) {
      state.SkipWithError(error.what());
    }
  })->UseRealTime();
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

void add_matmul(Bench& bench, WeightFormat format, uint32_t rows) {
  add(bench, fmt::format("matmul_{}/{}", lower_case(format_name(format)), rows),
      [&bench, format, rows] { return matmul(bench, format, rows); });
}

void add_all(Bench& bench) {
  const bool host = bench.device->unified();
  for (const auto& [name, kind] : {std::pair{"copy/pinned_to_device", Copy::kPinnedToDevice},
                                   std::pair{"copy/pageable_to_device", Copy::kPageableToDevice},
                                   std::pair{"copy/device_to_pinned", Copy::kDeviceToPinned},
                                   std::pair{"copy/on_device", Copy::kOnDevice}}) {
    add(bench, name, [&bench, kind = kind] { return copy(bench, kind); });
  }
  for (const uint32_t rows : {1u, 2u, 4u, 8u, 16u, 64u, 512u, 2048u}) {
    if (host && rows == 2048) continue;
    add_matmul(bench, WeightFormat::kBF16, rows);
  }
  for (const uint32_t rows : {1u, 512u}) {
    for (const FormatTraits& traits : kFormats) {
      if (traits.format != WeightFormat::kBF16) add_matmul(bench, traits.format, rows);
    }
  }
  for (const uint32_t rows : {4u, 8u, 16u}) {
    for (const WeightFormat format :
         {WeightFormat::kQ8_0, WeightFormat::kQ4_K, WeightFormat::kQ6_K}) {
      add_matmul(bench, format, rows);
    }
  }
  const uint32_t prompt = host ? 512 : 2048;
  for (const uint32_t rows : {1u, prompt}) {
    add(bench, fmt::format("norm_input/{}", rows),
        [&bench, rows] { return norm_input(bench, rows); });
    if (!host) {  // in place: run again and again, the host's values would become denormal
      add(bench, fmt::format("gated_input/{}", rows),
          [&bench, rows] { return gated_input(bench, rows); });
    }
    add(bench, fmt::format("rope_append/{}", rows),
        [&bench, rows] { return attention(bench, rows, 0, true); });
    add(bench, fmt::format("fold_log_softmax/{}", rows / 8 + 1),
        [&bench, rows] { return head(bench, rows / 8 + 1, false); });
    add(bench, fmt::format("fold_top_k/{}", rows / 8 + 1),
        [&bench, rows] { return top_k(bench, rows / 8 + 1); });
  }
  add(bench, "attention/1_after_2000", [&bench] { return attention(bench, 1, 2000, false); });
  add(bench, "attention/1_after_32000", [&bench] { return attention(bench, 1, 32000, false); });
  add(bench, fmt::format("attention/{}", prompt),
      [&bench, prompt] { return attention(bench, prompt, 0, false); });
  add(bench, "sample/1", [&bench] { return head(bench, 1, true); });
  add(bench, "sample/16", [&bench] { return head(bench, 16, true); });
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) {
  std::string device = "host";
  std::vector<char*> rest;
  for (int i = 0; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--device=", 0) == 0) {
      device = argument.substr(9);
    } else {
      rest.push_back(argv[i]);
    }
  }
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;
  try {
    spillway::Bench bench(device);
    spillway::add_all(bench);
    benchmark::RunSpecifiedBenchmarks();
  } catch (const spillway::Error& error) {
    fmt::print(stderr, "bench_kernels: {}\n", error.what());
    return 1;
  }
  return 0;
}
