// LayerNorm, quantization and packing in one pass: one warp per row.
//
// All arithmetic is float32 in a fixed order without fused operations. Lane l adds up the columns of units l, l + 32, ..
// in the order of `run_column`, then the lanes' sums are added along a butterfly of distances 16, 8, 4, 2, 1.
#pragma once

#include "qvit/quantize.cuh"
#include "qvit/qvit.h"
#include "qvit/vectors.cuh"

namespace qvit {

struct LayerNormParams {
  const void* x;
  const float* gamma;
  const float* beta;
  void* y;
  int m, c, x_stride, y_stride, y_type;
  float epsilon;
  Quantizer quantizer;
};

constexpr int kLayerNormWarps = 4;

// Of 32 columns two lanes take two runs of eight each, 16 columns apart: what shares bytes in packed 4-bit codes.
QVIT_DEVICE int run_column(int unit, int run) { return unit / 2 * 32 + unit % 2 * 8 + run * 16; }

QVIT_DEVICE float add_lanes(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value = __fadd_rn(value, __shfl_xor_sync(0xFFFFFFFFu, value, distance));
  return value;
}

// Eight elements of a row from `column` on; those beyond the row's `stride` are 0.
template <class Element>
QVIT_DEVICE void load_run(const Element* row, int column, int stride, float (&out)[8]) {
  constexpr int EACH = 16 / static_cast<int>(sizeof(Element));
#pragma unroll
  for (int i = 0; i < 8; i += EACH) {
    float part[EACH];
    to_floats(column + i < stride ? load_global_16(row + column + i) : uint4{0, 0, 0, 0}, part);
#pragma unroll
    for (int j = 0; j < EACH; ++j) out[i + j] = part[j];
  }
}

// The sum over the row of f(x[column]), the same in all lanes.
template <class Element, class Function>
QVIT_DEVICE float row_sum(const LayerNormParams& p, const Element* row, int lane, Function f) {
  float sum = 0;
  for (int unit = lane; run_column(unit, 0) < p.c; unit += 32)
#pragma unroll
    for (int run = 0; run < 2; ++run) {
      const int column = run_column(unit, run);
      float x[8];
      load_run(row, column, p.x_stride, x);
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (column + i < p.c) sum = __fadd_rn(sum, f(x[i]));
    }
  return add_lanes(sum);
}

template <class Element>
__global__ void __launch_bounds__(kLayerNormWarps * 32) layernorm_quantize(LayerNormParams p) {
  const int lane = threadIdx.x % 32, index = blockIdx.x * kLayerNormWarps + threadIdx.x / 32;
  if (index >= p.m) return;
  const Element* row = static_cast<const Element*>(p.x) + static_cast<int64_t>(index) * p.x_stride;
  const float count = __int2float_rn(p.c);
  const float mean = __fdiv_rn(row_sum(p, row, lane, [](float x) { return x; }), count);
  const float squares = row_sum(p, row, lane, [mean](float x) {
    const float centred = __fsub_rn(x, mean);
    return __fmul_rn(centred, centred);
  });
  const float deviation = __fsqrt_rn(__fadd_rn(__fdiv_rn(squares, count), p.epsilon));
  const float inverse = __fdiv_rn(1.0f, deviation);

  const int padded = (p.c + 31) / 32 * 32 < p.y_stride ? (p.c + 31) / 32 * 32 : p.y_stride;
  for (int unit = lane; run_column(unit, 0) < padded; unit += 32) {
    uint2 codes[2];
#pragma unroll
    for (int run = 0; run < 2; ++run) {
      const int column = run_column(unit, run);
      float x[8], gamma[8], beta[8];
      load_run(row, column, p.x_stride, x);
      load_columns(p.gamma, column, p.c, gamma);
      load_columns(p.beta, column, p.c, beta);
#pragma unroll
      for (int i = 0; i < 8; ++i)
        x[i] = __fadd_rn(__fmul_rn(__fmul_rn(__fsub_rn(x[i], mean), inverse), gamma[i]), beta[i]);
      codes[run] = quantize_columns(x, p.c - column, p.quantizer);
    }
    uint8_t* y = static_cast<uint8_t*>(p.y);
    const int64_t at = static_cast<int64_t>(index) * p.y_stride + run_column(unit, 0);
    if (p.y_type == QVIT_CODES8) {
      store_global_8(y + at, codes[0]);
      if (run_column(unit, 1) < p.y_stride) store_global_8(y + at + 16, codes[1]);
    } else {
      const int64_t packed = static_cast<int64_t>(index) * p.y_stride / 2 + unit * 8;
      store_global_8(y + packed, uint2{pack_halves(codes[0].x, codes[1].x), pack_halves(codes[0].y, codes[1].y)});
    }
  }
}

}  // namespace qvit
