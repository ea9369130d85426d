// kernels/cuda/ptx.cuh as plain C++: what the instructions do, by the layouts that the PTX ISA
// gives.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace spillway::cuda {

namespace sim = ::spillway::sim_cuda;

inline void load_matrices(uint32_t (&out)[4], const void* row) {
  sim::require(reinterpret_cast<uintptr_t>(row) % 16 == 0, "misaligned ldmatrix row");
  const auto rows = sim::exchange(static_cast<const uint16_t*>(row));
  for (unsigned m = 0; m < 4; ++m) {
    std::memcpy(&out[m], rows[m * 8 + sim::lane() / 4] + sim::lane() % 4 * 2, 4);
  }
}

inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  sim::require(reinterpret_cast<uintptr_t>(row) % 16 == 0, "misaligned ldmatrix row");
  const auto rows = sim::exchange(static_cast<const uint16_t*>(row));
  const unsigned column = sim::lane() / 4;
  const unsigned first = sim::lane() % 4 * 2;
  for (unsigned m = 0; m < 4; ++m) {
    out[m] = static_cast<uint32_t>(rows[m * 8 + first][column]) |
             static_cast<uint32_t>(rows[m * 8 + first + 1][column]) << 16;
  }
}

template <typename T>
void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments {
    uint32_t a[4];
    uint32_t b[2];
  };
  const auto all = sim::exchange(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const auto half = [](uint32_t pair, unsigned which) {
    return T::to_f32(static_cast<uint16_t>(pair >> (16 * which)));
  };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = sim::lane() / 4 + i / 2 * 8;
    const unsigned column = sim::lane() % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      const uint32_t left = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
      const uint32_t right = all[column * 4 + k % 8 / 2].b[k / 8];
      c[i] += half(left, k % 2) * half(right, k % 2);
    }
  }
}

inline float exp2_fast(float x) {
  return std::exp2(x);
}
inline void copy16_async(void* shared, const void* global, bool exists) {
  sim::require(reinterpret_cast<uintptr_t>(shared) % 16 == 0 &&
                   reinterpret_cast<uintptr_t>(global) % 16 == 0,
               "misaligned asynchronous copy");
  sim::start_copy16(shared, exists ? global : nullptr);
}
inline void commit_copies() {
  sim::commit_copies();
}
template <int kGroups>
void wait_copies() {
  sim::wait_copies(kGroups);
}

}  // namespace spillway::cuda
