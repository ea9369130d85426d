// Read rates of both readers into huge pages, by chunk and depth, on a file made for it.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/buffer.h"
#include "core/error.h"
#include "core/units.h"
#include "io/open_reader.h"
#include "io/read_pump.h"

namespace spillway {
namespace {

/// 256 MiB in the working directory (not /tmp, which may be memory), removed at the end.
class TestFile {
 public:
  TestFile() : path_("spillway-bench-file.tmp") {
    const HugeBuffer block(kBytes / 16);
    std::memset(block.data(), 0x5a, block.bytes());
    const int fd = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < 16; ++i) CHECK(write(fd, block.data(), kBytes / 16) == kBytes / 16);
    fsync(fd);
    close(fd);
  }
  TestFile(const TestFile&) = delete;
  ~TestFile() { std::filesystem::remove(path_); }
  static constexpr int64_t kBytes = 256 * 1024 * 1024;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

void read_file(benchmark::State& state, EngineChoice engine) {
  static const TestFile test_file;
  const DirectFile file(test_file.path(), DirectChoice::kAuto);
  const auto chunk = static_cast<uint64_t>(state.range(0)) * kKiB;
  const auto depth = static_cast<uint32_t>(state.range(1));
  const auto reader = choose_reader(engine, [](const std::string&) {}).make(depth);
  const HugeBuffer buffers(depth * chunk);
  buffers.touch();
  const SteadyClock clock;
  ReadPump pump(*reader, clock);
  for (auto _ : state) {
    uint64_t next = 0;
    uint64_t done = 0;
    std::vector<uint64_t> free;
    for (uint64_t i = 0; i < depth; ++i) free.push_back(i);
    while (done < file.info().bytes / chunk) {
      while (!free.empty() && next < file.info().bytes) {
        const auto bytes = static_cast<uint32_t>(chunk);
        if (!pump.start({&file.info(), next, buffers.data() + free.back() * chunk, bytes, bytes,
                         free.back()})) {
          break;
        }
        free.pop_back();
        next += chunk;
      }
      const auto finished = pump.poll();
      for (const uint64_t slot : finished) free.push_back(slot);
      done += finished.size();
      if (finished.empty()) pump.wait();
    }
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * file.info().bytes));
}

void uring(benchmark::State& state) {
  read_file(state, EngineChoice::kAuto);
}
void pread_threads(benchmark::State& state) {
  read_file(state, EngineChoice::kPread);
}
BENCHMARK(uring)->ArgsProduct({{256, 1024, 4096}, {4, 16}})->UseRealTime();
BENCHMARK(pread_threads)->Args({1024, 8})->UseRealTime();

}  // namespace
}  // namespace spillway
