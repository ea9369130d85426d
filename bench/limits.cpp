#include "bench/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <thread>
#include <vector>

#include "core/buffer.h"
#include "core/error.h"
#include "core/units.h"
#include "io/direct_file.h"
#include "io/uring_reader.h"

// From <omp.h>, which not every compiler that reads this file has.
extern "C" void omp_set_num_threads(int threads);

namespace spillway::bench {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Four streams a quarter apart, so that many cache lines are on their way at once. Compiled for
/// each instruction set; the loader picks.
__attribute__((target_clones("default", "avx2", "arch=skylake-avx512"))) uint64_t sum_words(
    const std::byte* data, uint64_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  const uint64_t quarter = bytes / 32;
  uint64_t sums[4][16] = {};
  for (uint64_t i = 0; i < quarter; i += 16) {
    for (uint64_t stream = 0; stream < 4; ++stream) {
      for (uint64_t lane = 0; lane < 16; ++lane) {
        sums[stream][lane] += words[stream * quarter + i + lane];
      }
    }
  }
  uint64_t total = 0;
  for (const auto& stream : sums) {
    for (const uint64_t sum : stream) total += sum;
  }
  return total;
}

}  // namespace

double raw_read_rate(const std::filesystem::path& path, uint64_t read_bytes, uint64_t chunk_bytes,
                     uint32_t depth) {
  const DirectFile file(path, DirectChoice::kOn);
  const uint64_t chunks = file.info().bytes / chunk_bytes;
  if (chunks == 0) throw Error(path.string() + ": too small to measure a read rate");
  const HugeBuffer buffers(depth * chunk_bytes);
  buffers.touch();
  UringReader reader(depth);
  const std::span<std::byte> all(buffers.data(), buffers.bytes());
  const bool registered = reader.register_buffers({&all, 1});
  std::vector<ReadOp> ops(depth);
  std::vector<ReadCompletion> completions(depth);
  const uint64_t wanted = std::max<uint64_t>(1, read_bytes / chunk_bytes);
  uint64_t next = 0;
  const auto submit = [&](ReadOp& op) {
    const auto index = static_cast<uint64_t>(&op - ops.data());
    op.file = &file.info();
    op.offset = (next++ % chunks) * chunk_bytes;
    op.target = buffers.data() + index * chunk_bytes;
    op.bytes = static_cast<uint32_t>(chunk_bytes);
    op.buffer_index = registered ? 0 : -1;
    CHECK(reader.submit(op));
  };
  const auto begin = Clock::now();
  for (ReadOp& op : ops) submit(op);
  for (uint64_t done = 0; done < wanted;) {
    const size_t count = reader.poll(completions);
    for (size_t i = 0; i < count; ++i) {
      if (completions[i].result != static_cast<int32_t>(chunk_bytes)) {
        throw Error("the raw read loop got a short read");
      }
      ++done;
      submit(*completions[i].op);
    }
    if (count == 0) reader.wait();
  }
  return static_cast<double>(wanted * chunk_bytes) / since(begin);
}

double memory_read_rate(uint32_t threads, double seconds) {
  constexpr uint64_t kBytesPerThread = kGiB;
  std::vector<HugeBuffer> buffers;
  for (uint32_t i = 0; i < threads; ++i) {
    buffers.emplace_back(kBytesPerThread);
    std::memset(buffers.back().data(), 1, kBytesPerThread);
  }
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint64_t> sink{0};
  const auto begin = Clock::now();
  {
    std::vector<std::jthread> workers;
    for (uint32_t i = 0; i < threads; ++i) {
      workers.emplace_back([&, i] {
        uint64_t total = 0;
        while (since(begin) < seconds) {
          total += sum_words(buffers[i].data(), kBytesPerThread);
          bytes += kBytesPerThread;
        }
        sink += total;
      });
    }
  }
  CHECK(sink.load() != 0);
  return static_cast<double>(bytes.load()) / since(begin);
}

double onednn_rate(bool bf16, uint32_t threads, double seconds) {
  constexpr int64_t kRows = 512;
  constexpr int64_t kWidth = 4096;
  using dnnl::memory;
  omp_set_num_threads(static_cast<int>(threads));
  const auto type = bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  const memory::desc x(memory::dims{kRows, kWidth}, type, memory::dims{kWidth, 1});
  const memory::desc w(memory::dims{kWidth, kWidth}, type, memory::dims{1, kWidth});
  const memory::desc y(memory::dims{kRows, kWidth}, memory::data_type::f32,
                       memory::dims{kWidth, 1});
  try {
    const dnnl::matmul matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(x, w, y), engine));
    dnnl::stream stream(engine);
    const memory mx(x, engine);
    const memory mw(w, engine);
    const memory my(y, engine);
    std::memset(mx.get_data_handle(), 0x3c, x.get_size());
    std::memset(mw.get_data_handle(), 0x3c, w.get_size());
    uint64_t runs = 0;
    const auto begin = Clock::now();
    while (since(begin) < seconds) {
      matmul.execute(stream, {{DNNL_ARG_SRC, mx}, {DNNL_ARG_WEIGHTS, mw}, {DNNL_ARG_DST, my}});
      stream.wait();
      ++runs;
    }
    return 2.0 * kRows * kWidth * kWidth * static_cast<double>(runs) / since(begin);
  } catch (const dnnl::error&) {
    return 0;
  }
}

}  // namespace spillway::bench
