// Turns a warp's integer accumulators into outputs (scale, bias, GELU, type) and writes them straight from registers.
#pragma once

#include "qvit/linear_params.h"
#include "qvit/qvit.h"
#include "qvit/vectors.cuh"

namespace qvit {

// Of a 16 x 8 product a lane holds two neighbouring columns in each of four products. Exchanged within its quad, it
// holds the eight columns of product `lane % 4`: words[2 i], words[2 i + 1] go in as products' columns and come out as
// columns 2 i, 2 i + 1 of one product.
QVIT_DEVICE void gather_columns(int (&words)[8], int lane) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool upper = lane & step;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        int& keep_low = words[2 * i + w];
        int& keep_high = words[2 * (i + step) + w];
        const int received = __shfl_xor_sync(0xFFFFFFFFu, upper ? keep_low : keep_high, step);
        if (upper) keep_low = received;
        if (!upper) keep_high = received;
      }
    }
  }
}

QVIT_DEVICE float gelu(float y) {
  return __fmul_rn(__fmul_rn(0.5f, y), __fadd_rn(1.0f, erff(__fmul_rn(y, 0.70710678118654752f))));
}

// Writes one row of 32 columns from `group` on; each lane of a quad holds eight of them, from `column` on.
QVIT_DEVICE void write_row(const LinearParams& p, int row, int group, int column, const float (&y)[8], int lane) {
  const int count = row < p.m ? p.n - column : 0;
  const int64_t start = static_cast<int64_t>(row) * p.y_stride;
  if (p.y_type == QVIT_FLOAT16) {
    store_halves(static_cast<__half*>(p.y) + start + column, y, count, p.y_stride % 8 == 0);
  } else if (p.y_type == QVIT_FLOAT32) {
    store_floats(static_cast<float*>(p.y) + start + column, y, count, p.y_stride % 4 == 0);
  } else {
    const uint2 codes = quantize_columns(y, count, p.y_quantizer);
    if (p.y_type == QVIT_CODES8) {
      store_bytes(static_cast<uint8_t*>(p.y) + start + column, codes, count, p.y_stride % 8 == 0);
    } else {
      // Lanes 0 and 1 of the quad hold codes 0..15 of the group, lanes 2 and 3 codes 16..31: a byte takes one of each.
      const uint2 other{__shfl_xor_sync(0xFFFFFFFFu, codes.x, 2), __shfl_xor_sync(0xFFFFFFFFu, codes.y, 2)};
      const uint2 packed{pack_halves(codes.x, other.x), pack_halves(codes.y, other.y)};
      uint8_t* to = static_cast<uint8_t*>(p.y) + start / 2 + group / 2 + lane % 4 * 8;
      if (lane % 4 < 2 && row < p.m && group < p.n) store_global_8(to, packed);
    }
  }
}

// Writes the accumulators of WARP_M x WARP_N outputs whose first is (first_row, first_column).
template <int SHIFT, int WARP_M, int WARP_N>
QVIT_DEVICE void write_outputs(const LinearParams& p, int first_row, int first_column, int (&sums)[WARP_M / 16][WARP_N / 8][4],
                               int lane) {
#pragma unroll
  for (int group = 0; group < WARP_N; group += 32) {
    const int column = first_column + group + lane % 4 * 8;
    float scale[8], bias[8];
    load_columns(p.weight_scale, column, p.n, scale);
    if (p.bias != nullptr) load_columns(p.bias, column, p.n, bias);
#pragma unroll
    for (int i = 0; i < 8; ++i) scale[i] = __fmul_rn(p.x_scale, scale[i]);
#pragma unroll
    for (int m = 0; m < WARP_M / 16; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int words[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) words[i] = sums[m][group / 8 + i / 2][2 * half + i % 2];
        gather_columns(words, lane);
        float y[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          y[i] = __fmul_rn(__int2float_rn(words[i] >> SHIFT), scale[i]);
          if (p.bias != nullptr) y[i] = __fadd_rn(y[i], bias[i]);
          if (p.gelu) y[i] = gelu(y[i]);
        }
        write_row(p, first_row + m * 16 + half * 8 + lane / 4, first_column + group, column, y, lane);
      }
  }
}

}  // namespace qvit
