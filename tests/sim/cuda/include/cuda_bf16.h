// The bf16 conversions that kernels/cuda uses; see cuda_runtime_api.h.
#pragma once

#include <cuda_runtime.h>

#include "core/dtype.h"

struct __nv_bfloat16 {
  uint16_t raw;
};
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  return {spillway::bf16_from_f32(value)};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) {
  return value.raw;
}
