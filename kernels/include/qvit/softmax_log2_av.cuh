// Attention output from scores: softmax, logarithmic codes, product with the quantized values.
//
// A code q stands for 2^(-q / STEPS), the last one for 0 (qvit_deploy/formats/grids/probabilities.py, LogGrid). With i = q / STEPS the
// power 2^-i is an unsigned byte of one of two operands, 2^(7-i) for i < 8 and 2^(15-i) above, and the odd codes of
// STEPS = 2 have two operands of their own. So the tensor cores' 8-bit products give exact integers:
// sum of 2^-i v = (256 high + low) / 2^15.
//
// A block computes 64 queries x 64 / STEPS channels of one batch entry, 16 queries a warp, 64 keys a step.
#pragma once

#include "qvit/fragments.cuh"
#include "qvit/quantize.cuh"
#include "qvit/qvit.h"
#include "qvit/vectors.cuh"

namespace qvit {

struct LogAttentionParams {
  const void* scores;
  const void* values;
  void* out;
  int queries, keys, width;
  int score_stride, value_stride, out_stride;
  int channel_tiles;
  int zero_code;
  int by_row;
  float unit;         // largest / 65535, the step of u
  float output_scale;  // largest / 2^15 * scale of the values
  Quantizer value_quantizer;
  uint32_t first[32];  // smallest u of every code but the last
};

struct LogAttentionMemory {
  static constexpr int CODES = 0, VALUES = 64 * 64;  // [64 queries or channels][64 keys]
  static constexpr int FIRST = 2 * 64 * 64;          // LogAttentionParams::first
  static constexpr int LARGEST = FIRST + 32 * 4, TOTAL = LARGEST + 64 * 4;  // of the exponentials of every query
  static constexpr int BYTES = TOTAL + 64 * 4;
};

template <int STEPS>
constexpr int kChannels = 64 / STEPS;  // of a block: as many sums for each step's planes as registers hold

constexpr int kNoKey = 255;  // stands for 0, whatever the width

QVIT_DEVICE float to_float(float x) { return x; }
QVIT_DEVICE float to_float(__half x) { return __half2float(x); }
QVIT_DEVICE void from_float(float x, float* to) { *to = x; }
QVIT_DEVICE void from_float(float x, __half* to) { *to = __float2half_rn(x); }

// u in [2^e, 2^(e+1)) has a code from STEPS (15 - e) on, at most STEPS later. Lanes look up different entries, each in a
// bank of its own.
template <int STEPS>
QVIT_DEVICE int log_code(int u, int zero_code, uint32_t first) {
  int code = STEPS * (__clz(u) - 16);
#pragma unroll
  for (int i = 0; i < STEPS; ++i) {
    const uint32_t needed = load_shared_4(first + (code < 31 ? code : 31) * 4);
    if (static_cast<uint32_t>(u) < needed) ++code;
  }
  return u == 0 || code >= zero_code ? kNoKey : code;
}

// Four codes of a word as bytes of operand `plane`: bit 0 says which half of the exponents, bit 1 whether odd codes.
template <int STEPS>
QVIT_DEVICE uint32_t powers(uint32_t word, int plane) {
  uint32_t out = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = word >> (8 * i) & 255;
    const uint32_t exponent = code / STEPS - 8 * (plane & 1);
    const bool mine = exponent < 8 && (STEPS == 1 || (code & 1) == static_cast<uint32_t>(plane >> 1));
    out |= (mine ? 128u >> exponent : 0u) << (8 * i);
  }
  return out;
}

// Sixteen lanes serve a row; in turn `i` the warp's lanes are at rows 2 i and 2 i + 1.
template <class Element>
struct ScoreRows {
  const Element* scores;  // of the lane's row in turn 0
  int rows_left, keys, stride, lane;

  QVIT_DEVICE bool inside(int turn) const { return 2 * turn < rows_left; }
  QVIT_DEVICE float score(int turn, int key) const {
    return inside(turn) && key < keys ? to_float(scores[static_cast<int64_t>(2 * turn) * stride + key]) : -INFINITY;
  }
};

QVIT_DEVICE float row_maximum(float value) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, distance));
  return value;
}

QVIT_DEVICE float row_total(float value) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2)
    value = __fadd_rn(value, __shfl_xor_sync(0xFFFFFFFFu, value, distance));
  return value;
}

// 64 keys x CHANNELS channels as codes, channel by channel, in the layout of packed 8-bit weights. Lanes take 8 channels x 16 keys,
// so that their words lie in 32 different banks.
template <int CHANNELS, class Element>
QVIT_DEVICE void stage_values(const LogAttentionParams& p, const Element* values, int first_key, int first_channel) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int turn = 0; turn < CHANNELS / 8; ++turn) {
    const int chunk = turn % 4, panel = warp + turn / 4 * 4;
    const int channel = first_channel + panel * 8 + lane % 8, key = first_key + chunk * 16 + lane / 8 * 4;
    int codes[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool inside = channel < p.width && key + i < p.keys;
      const int64_t at = static_cast<int64_t>(key + i) * p.value_stride + channel;
      codes[i] = inside ? quantize(to_float(values[at]), p.value_quantizer) : 0;
    }
    store_shared_4(shared_base() + LogAttentionMemory::VALUES + panel * 512 + chunk * 128 + lane % 8 * 16 + lane / 8 * 4,
                   pack_bytes(codes[0], codes[1], codes[2], codes[3]));
  }
}

template <int STEPS, class Element>
__global__ void __launch_bounds__(128, 1) softmax_log2_av(LogAttentionParams p) {
  constexpr int PLANES = 2 * STEPS, CHANNELS = kChannels<STEPS>;
  using Memory = LogAttentionMemory;
  const uint32_t shared = shared_base();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_query = static_cast<int>(blockIdx.x) / p.channel_tiles * 64 + warp * 16;
  const int first_channel = static_cast<int>(blockIdx.x) % p.channel_tiles * CHANNELS;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * p.queries + first_query;
  const Element* values = static_cast<const Element*>(p.values) + static_cast<int64_t>(blockIdx.y) * p.keys * p.value_stride;
  const ScoreRows<Element> rows{
      static_cast<const Element*>(p.scores) + (first_row + lane / 16) * p.score_stride,
      p.queries - first_query - lane / 16, p.keys, p.score_stride, lane};

  if (warp == 0) store_shared_4(shared + Memory::FIRST + lane * 4, p.first[lane]);
#pragma unroll 1
  for (int turn = 0; turn < 8; ++turn) {
    float top = -INFINITY, sum = 0;
    for (int first = lane % 16 * 4; first < p.keys; first += 64)
      for (int i = 0; i < 4; ++i) top = fmaxf(top, rows.score(turn, first + i));
    const float largest = row_maximum(top);
    for (int first = lane % 16 * 4; first < p.keys; first += 64)
      for (int i = 0; i < 4; ++i)
        if (rows.inside(turn) && first + i < p.keys)
          sum = __fadd_rn(sum, expf(__fsub_rn(rows.score(turn, first + i), largest)));
    const float total = row_total(sum);
    if (lane % 16 == 0) {
      const uint32_t row = (warp * 16 + 2 * turn + lane / 16) * 4;
      store_shared_4(shared + Memory::LARGEST + row, __float_as_uint(largest));
      store_shared_4(shared + Memory::TOTAL + row, __float_as_uint(total));
    }
  }

  int sums[PLANES][CHANNELS / 8][4] = {};
  for (int first_key = 0; first_key < p.keys; first_key += 64) {
    __syncthreads();
    stage_values<CHANNELS>(p, values, first_key, first_channel);
    __syncthreads();
#pragma unroll 1
    for (int turn = 0; turn < 8; ++turn) {
      const int row = warp * 16 + 2 * turn + lane / 16;
      const float largest = __uint_as_float(load_shared_4(shared + Memory::LARGEST + row * 4));
      const float total = __uint_as_float(load_shared_4(shared + Memory::TOTAL + row * 4));
      const float peak = __fdiv_rn(1.0f, total);
      int codes[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = first_key + lane % 16 * 4 + i;
        float share = 0;
        if (rows.inside(turn) && key < p.keys)
          share = __fdiv_rn(expf(__fsub_rn(rows.score(turn, key), largest)), total);
        if (p.by_row) share = __fdiv_rn(share, peak);
        const int u = __float2int_rn(fminf(__fdiv_rn(share, p.unit), 65535.0f));
        codes[i] = log_code<STEPS>(u, p.zero_code, shared + Memory::FIRST);
      }
      store_shared_4(shared + Memory::CODES + ActivationMemory<8>::chunk(row, lane % 16 / 4) * kChunkBytes + lane % 4 * 4,
                     pack_bytes(codes[0], codes[1], codes[2], codes[3]));
    }
    __syncthreads();
    ActivationFragment<8> probabilities;
    WeightFragment<8, CHANNELS> channels;
    probabilities.load(shared + Memory::CODES, warp * 16, lane);
    channels.load(shared + Memory::VALUES, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int plane = 0; plane < PLANES; ++plane) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = powers<STEPS>(probabilities.words[half][i], plane);
#pragma unroll
        for (int n = 0; n < CHANNELS / 8; ++n) {
          uint32_t b[2];
          channels.operand(n, half, b);
          mma_u8s8(sums[plane][n], a, b);
        }
      }
  }

  // Lanes 4 g .. 4 g + 3 hold rows g and g + 8.
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int in_warp = lane / 4 + 8 * half;
    const float peak =
        __fdiv_rn(1.0f, __uint_as_float(load_shared_4(shared + Memory::TOTAL + (warp * 16 + in_warp) * 4)));
    Element* out = static_cast<Element*>(p.out) + (first_row + in_warp) * p.out_stride;
#pragma unroll
    for (int n = 0; n < CHANNELS / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float y = __ll2float_rn(256LL * sums[0][n][2 * half + i] + sums[1][n][2 * half + i]);
        if constexpr (STEPS == 2) {
          const float odd = __ll2float_rn(256LL * sums[2][n][2 * half + i] + sums[3][n][2 * half + i]);
          y = __fadd_rn(y, __fmul_rn(odd, 0.70710678118654752f));
        }
        y = __fmul_rn(y, p.output_scale);
        if (p.by_row) y = __fmul_rn(y, peak);
        const int channel = first_channel + n * 8 + lane % 4 * 2 + i;
        if (first_query + in_warp < p.queries && channel < p.width) from_float(y, out + channel);
      }
  }
}

}  // namespace qvit
