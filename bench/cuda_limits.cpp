#include "bench/cuda_limits.h"

#include "core/error.h"

#ifdef SPILLWAY_HAS_CUDA

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "core/units.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/cublas_library.h"
#include "kernels/cuda/cuda_device.h"

namespace spillway::bench {
namespace {

/// Median seconds of work put on a stream, by events.
double median_seconds(cudaStream_t stream, uint32_t repeats, const std::function<void()>& work) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check_cuda(cudaEventCreate(&begin), "cudaEventCreate");
  check_cuda(cudaEventCreate(&end), "cudaEventCreate");
  work();  // warm up
  std::vector<double> seconds;
  for (uint32_t i = 0; i < repeats; ++i) {
    check_cuda(cudaEventRecord(begin, stream), "cudaEventRecord");
    work();
    check_cuda(cudaEventRecord(end, stream), "cudaEventRecord");
    check_cuda(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    seconds.push_back(static_cast<double>(milliseconds) / 1e3);
  }
  check_cuda(cudaEventDestroy(begin), "cudaEventDestroy");
  check_cuda(cudaEventDestroy(end), "cudaEventDestroy");
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

/// Normal bf16 values: products of zeros run faster than real ones.
void fill_random(Device& device, Stream& stream, const Memory& target) {
  const Memory host = device.allocate_pinned(target.bytes());
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(1 << 20);
  for (uint16_t& value : values) value = bf16_from_f32(normal(random));
  for (uint64_t at = 0; at < target.bytes(); at += values.size() * 2) {
    std::memcpy(host.data() + at, values.data(),
                std::min<uint64_t>(values.size() * 2, target.bytes() - at));
  }
  stream.copy(target.data(), host.data(), target.bytes());
  stream.sync();
}

}  // namespace

double cuda_matmul_rate(int ordinal, uint32_t repeats) {
  constexpr int kSize = 8192;
  constexpr uint64_t kBytes = uint64_t{2} * kSize * kSize;
  const auto device = make_cuda_device(ordinal, 0);
  const auto stream = device->make_stream(StreamKind::kCompute);
  const Memory a = device->allocate(kBytes);
  const Memory b = device->allocate(kBytes);
  const Memory c = device->allocate(kBytes);
  fill_random(*device, *stream, a);
  fill_random(*device, *stream, b);
  cublasHandle_t handle = nullptr;
  const auto blas = load_cublas();
  blas->check(blas->create(&handle), "cublasCreate");
  blas->check(blas->set_stream(handle, cuda_stream(*stream)), "cublasSetStream");
  const float one = 1;
  const float zero = 0;
  const double seconds = median_seconds(cuda_stream(*stream), repeats, [&] {
    blas->check(blas->gemm_ex(handle, CUBLAS_OP_T, CUBLAS_OP_N, kSize, kSize, kSize, &one, a.data(),
                              CUDA_R_16BF, kSize, b.data(), CUDA_R_16BF, kSize, &zero, c.data(),
                              CUDA_R_16BF, kSize, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                "cublasGemmEx");
  });
  blas->check(blas->destroy(handle), "cublasDestroy");
  return 2.0 * kSize * kSize * kSize / seconds;
}

double cuda_memory_rate(int ordinal, uint32_t repeats) {
  constexpr uint64_t kBytes = 2 * kGiB;
  const auto device = make_cuda_device(ordinal, 0);
  const auto stream = device->make_stream(StreamKind::kCompute);
  const Memory a = device->allocate(kBytes);
  const Memory b = device->allocate(kBytes);
  const double seconds = median_seconds(cuda_stream(*stream), repeats,
                                        [&] { stream->copy(b.data(), a.data(), kBytes); });
  return 2.0 * static_cast<double>(kBytes) / seconds;
}

double cuda_copy_rate(int ordinal, uint32_t repeats) {
  constexpr uint64_t kBytes = 64 * kMiB;
  constexpr int kCopies = 8;
  const auto device = make_cuda_device(ordinal, 0);
  const auto stream = device->make_stream(StreamKind::kCopy);
  const Memory target = device->allocate(kCopies * kBytes);
  const Memory source = device->allocate_pinned(kCopies * kBytes);
  const double seconds = median_seconds(cuda_stream(*stream), repeats, [&] {
    for (int i = 0; i < kCopies; ++i) {
      stream->copy(target.data() + i * kBytes, source.data() + i * kBytes, kBytes);
    }
  });
  return static_cast<double>(kCopies * kBytes) / seconds;
}

}  // namespace spillway::bench

#else

namespace spillway::bench {
namespace {
[[noreturn]] void not_built() {
  throw Error("CUDA is not built in; configure with -DSPILLWAY_CUDA=ON");
}
}  // namespace

double cuda_matmul_rate(int, uint32_t) {
  not_built();
}
double cuda_memory_rate(int, uint32_t) {
  not_built();
}
double cuda_copy_rate(int, uint32_t) {
  not_built();
}

}  // namespace spillway::bench

#endif
