// The C interface. Every function checks its arguments before it launches anything and returns a status; a status other
// than QVIT_OK means that nothing was written. Work is queued on `stream`; the functions do not wait for it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum QvitStatus {
  QVIT_OK = 0,
  QVIT_BAD_SHAPE = 1,         // a size is not positive, or beyond what int32 accumulators hold (K <= 65536)
  QVIT_BAD_BITS = 2,          // a width other than 4, 6, 8
  QVIT_BAD_STRIDE = 3,        // a row stride shorter than the row, or rows that do not start at multiples of 16 bytes
  QVIT_MISALIGNED = 4,        // a pointer that is not a multiple of 16, or null where data is needed
  QVIT_UNKNOWN_TACTIC = 5,    // no such id, or the id does not serve these arguments
  QVIT_BAD_SCALE = 6,         // a scale that is not finite and positive
  QVIT_BAD_TYPE = 7,          // an enum value out of range
  QVIT_WORKSPACE_TOO_SMALL = 8,
  QVIT_NO_KERNEL_FOR_DEVICE = 9,  // the library holds no code for this GPU
  QVIT_CUDA_ERROR = 10,           // qvit_last_cuda_error() says which
} QvitStatus;

const char* qvit_status_string(int status);
int qvit_last_cuda_error(void);  // of the calling thread

typedef enum QvitType {
  QVIT_FLOAT16 = 0,
  QVIT_FLOAT32 = 1,
  QVIT_CODES8 = 2,  // int8, one code a byte: 6-bit and 8-bit activations
  QVIT_CODES4 = 3,  // 32 codes in 16 bytes: byte i holds code i (low half) and code 16 + i
} QvitType;

// A per-tensor grid: code = clamp(round_half_even((x + shift) / scale), -2^(bits-1), 2^(bits-1)-1).
typedef struct QvitGrid {
  float scale;
  float shift;
  int32_t bits;
} QvitGrid;

// y [M, N] = act(x_codes [M, K] x w_codes [N, K]^T * (x_grid.scale * weight_scale[n]) + bias[n]), integers exact,
// the rest float32 in this order, without fused operations.
typedef struct QvitLinear {
  const void* x;              // [M, x_stride] of x_type; columns K.. may hold anything
  const void* weight;         // packed as qvit/packing.h says
  const float* weight_scale;  // [N]
  const float* bias;          // [N] or null
  void* y;                    // [M, y_stride] of y_type
  int32_t m, n, k;
  int32_t x_stride, y_stride;  // elements; rows of x start at multiples of 16 bytes
  int32_t x_type, y_type;      // QvitType
  int32_t weight_bits;
  QvitGrid x_grid;  // shift is not used when x already holds codes
  QvitGrid y_grid;  // used when y_type is codes
  int32_t gelu;     // 1: y = 0.5 y (1 + erf(y / sqrt 2)) before it is written
} QvitLinear;

typedef struct QvitTactic {
  int32_t tile_m, tile_n, tile_k, warps, stages, split_k;
} QvitTactic;

int qvit_linear_tactics(void);                           // ids are 0 .. this - 1
int qvit_linear_tactic(int tactic, QvitTactic* what);    // QVIT_OK or QVIT_UNKNOWN_TACTIC
int64_t qvit_linear_workspace(const QvitLinear* linear, int tactic);  // bytes, or minus a status
int qvit_linear(const QvitLinear* linear, int tactic, void* workspace, int64_t workspace_bytes, void* stream);

int64_t qvit_packed_bytes(int64_t n, int64_t k, int bits);
int qvit_pack(const int8_t* codes, int64_t n, int64_t k, int bits, uint8_t* out);  // host memory
int qvit_unpack(const uint8_t* bytes, int64_t n, int64_t k, int bits, int8_t* codes);

// codes [M, C] = quantize(LayerNorm(x) * gamma + beta), one row per warp.
typedef struct QvitLayerNorm {
  const void* x;  // [M, x_stride] float16 or float32
  const float* gamma;
  const float* beta;
  void* y;  // [M, y_stride] QVIT_CODES8 or QVIT_CODES4; columns C up to the next multiple of 32 become zero codes
  int32_t m, c;
  int32_t x_stride, y_stride;
  int32_t x_type, y_type;
  float epsilon;
  QvitGrid grid;
} QvitLayerNorm;

int qvit_layernorm_quantize(const QvitLayerNorm* norm, void* stream);

// out [B, T, D] = log-quantized softmax(scores [B, T, S]) x quantized values [B, S, D], per batch entry (image and head).
// A probability is rounded to u = round_half_even(p / (largest / 65535)) and then to the nearest power of
// 2^(-1/steps) (qvit_deploy/formats/grids/probabilities.py, LogGrid); the products with the value codes are exact integers.
typedef struct QvitLogAttention {
  const void* scores;  // [B, T, score_stride]
  const void* values;  // [B, S, value_stride]
  void* out;           // [B, T, out_stride]
  int32_t batch, queries, keys, width;
  int32_t score_stride, value_stride, out_stride;
  int32_t type;        // QVIT_FLOAT16 or QVIT_FLOAT32, of all three
  int32_t steps;       // 1: powers of 2, at most 4 bits; 2: powers of sqrt 2, at most 5 bits
  int32_t bits;
  float largest;
  int32_t by_row;      // 1: every row is divided by its largest probability and the product multiplied back
  QvitGrid value_grid;
} QvitLogAttention;

int qvit_softmax_log2_av(const QvitLogAttention* attention, void* stream);

#ifdef __cplusplus
}
#endif
