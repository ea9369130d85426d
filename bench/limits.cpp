#include "bench/limits.h"

#include <chrono>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>

// From <omp.h>, which not every compiler that reads this file has.
extern "C" void omp_set_num_threads(int threads);

namespace spillway::bench {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

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
