// Moves eight neighbouring numbers between memory and registers, 16 bytes at a time where all eight exist.
#pragma once

#include <cuda_fp16.h>

#include "qvit/ptx.cuh"

namespace qvit {

QVIT_DEVICE void to_floats(uint4 v, float (&out)[8]) {  // of eight halves
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] & 0xFFFF)));
    out[2 * i + 1] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] >> 16)));
  }
}

QVIT_DEVICE void to_floats(uint4 v, float (&out)[4]) {
  out[0] = __uint_as_float(v.x), out[1] = __uint_as_float(v.y);
  out[2] = __uint_as_float(v.z), out[3] = __uint_as_float(v.w);
}

QVIT_DEVICE uint32_t two_halves(float a, float b) {
  return __half_as_ushort(__float2half_rn(a)) | static_cast<uint32_t>(__half_as_ushort(__float2half_rn(b))) << 16;
}

// `COUNT` floats from memory, aligned to 16 bytes.
template <int COUNT>
QVIT_DEVICE void load_floats(const float* p, float (&out)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i += 4) {
    float part[4];
    to_floats(load_global_16(p + i), part);
#pragma unroll
    for (int j = 0; j < 4; ++j) out[i + j] = part[j];
  }
}

template <int COUNT>
QVIT_DEVICE void load_floats(const __half* p, float (&out)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i += 8) {
    float part[8];
    to_floats(load_global_16(p + i), part);
#pragma unroll
    for (int j = 0; j < 8; ++j) out[i + j] = part[j];
  }
}

// a[0..7] of a float array that need not have all of them.
QVIT_DEVICE void load_columns(const float* a, int column, int columns, float (&out)[8]) {
  if (column + 8 <= columns) {
    load_floats(a + column, out);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = column + i < columns ? a[column + i] : 0.0f;
  }
}

QVIT_DEVICE void store_floats(float* to, const float (&values)[8], int count, bool aligned) {
  if (count >= 8 && aligned) {
#pragma unroll
    for (int i = 0; i < 8; i += 4)
      store_global_16(to + i, uint4{__float_as_uint(values[i]), __float_as_uint(values[i + 1]),
                                    __float_as_uint(values[i + 2]), __float_as_uint(values[i + 3])});
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) to[i] = values[i];
  }
}

QVIT_DEVICE void store_halves(__half* to, const float (&values)[8], int count, bool aligned) {
  if (count >= 8 && aligned) {
    store_global_16(to, uint4{two_halves(values[0], values[1]), two_halves(values[2], values[3]),
                              two_halves(values[4], values[5]), two_halves(values[6], values[7])});
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) to[i] = __float2half_rn(values[i]);
  }
}

QVIT_DEVICE void store_bytes(uint8_t* to, uint2 bytes, int count, bool aligned) {
  if (count >= 8 && aligned) {
    store_global_8(to, bytes);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) to[i] = static_cast<uint8_t>((i < 4 ? bytes.x : bytes.y) >> (i % 4 * 8));
  }
}

}  // namespace qvit
