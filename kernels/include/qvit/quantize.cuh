// Quantizes floats to codes bit for bit as ONNX's QuantizeLinear does: x / scale in float32, rounded half to even.
#pragma once

#include <cuda_runtime.h>

#include "qvit/ptx.cuh"

namespace qvit {

struct Quantizer {
  float scale, inverse, shift;  // inverse is 1 / scale, rounded
  float limit;                  // 256 * scale
  float low, high;
};

// The quotient is corrected twice by its exact remainder, which gives the rounded x / scale without a division (P.
// Markstein, IA-64 and Elementary Functions, chapter 8: a correctly rounded reciprocal and a quotient off by at most
// one unit give the correctly rounded quotient; the first correction makes it that good). Values beyond `limit` saturate
// anyway and cannot overflow on the way; NaN becomes the lowest code.
QVIT_DEVICE int quantize(float x, const Quantizer& q) {
  const float shifted = fminf(fmaxf(__fadd_rn(x, q.shift), -q.limit), q.limit);
  float quotient = __fmul_rn(shifted, q.inverse);
  quotient = __fmaf_rn(__fmaf_rn(-quotient, q.scale, shifted), q.inverse, quotient);
  quotient = __fmaf_rn(__fmaf_rn(-quotient, q.scale, shifted), q.inverse, quotient);
  return __float2int_rn(fminf(fmaxf(quotient, q.low), q.high));
}

QVIT_DEVICE uint32_t pack_bytes(int a, int b, int c, int d) {
  return (a & 255) | (b & 255) << 8 | (c & 255) << 16 | (static_cast<uint32_t>(d) & 255) << 24;
}

// Four codes a byte each, twice, to four bytes of two 4-bit codes.
QVIT_DEVICE uint32_t pack_halves(uint32_t low, uint32_t high) {
  return (low & 0x0F0F0F0Fu) | ((high & 0x0F0F0F0Fu) << 4);
}

// The codes of eight columns; zero codes beyond `count`.
QVIT_DEVICE uint2 quantize_columns(const float (&y)[8], int count, const Quantizer& q) {
  int codes[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) codes[i] = i < count ? quantize(y[i], q) : 0;
  return uint2{pack_bytes(codes[0], codes[1], codes[2], codes[3]), pack_bytes(codes[4], codes[5], codes[6], codes[7])};
}

}  // namespace qvit
