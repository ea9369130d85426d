// The f16 conversions that kernels/cuda uses; see cuda_runtime_api.h.
#pragma once

#include <cuda_runtime.h>

#include "core/dtype.h"

struct __half {
  uint16_t raw;
};
inline __half __float2half_rn(float value) {
  return {spillway::f16_from_f32(value)};
}
inline __half __ushort_as_half(unsigned short raw) {
  return {raw};
}
inline unsigned short __half_as_ushort(__half value) {
  return value.raw;
}
inline float __half2float(__half value) {
  return spillway::f32_from_f16(value.raw);
}
