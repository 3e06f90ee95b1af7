// Loads the operands of one warp's products from shared memory and unpacks them in registers.
#pragma once

#include "qvit/tensor_core.cuh"
#include "qvit/tile_memory.cuh"

namespace qvit {

constexpr uint32_t kHighHalves = 0xF0F0F0F0u;

// The codes of a word's low and high halves, times 16.
QVIT_DEVICE uint32_t low_halves(uint32_t word) { return (word << 4) & kHighHalves; }
QVIT_DEVICE uint32_t high_halves(uint32_t word) { return word & kHighHalves; }

// Operand codes reach the tensor core times 2^(8 - bits) where they are unpacked, as they are where they are not.
template <int W_BITS, int A_BITS>
struct Product {
  static constexpr bool NATIVE_S4 = QVIT_NATIVE_S4 && W_BITS == 4 && A_BITS == 4;
  static constexpr int SHIFT = NATIVE_S4 ? 0 : (8 - W_BITS) + (8 - A_BITS);
};

// 16 rows x 64 codes of activations: what ldmatrix returned.
template <int A_BITS>
struct ActivationFragment {
  uint32_t words[A_BITS / 4][4];

  // Lanes 0..15 name the rows of the first chunk of a pair, lanes 16..31 those of the second.
  QVIT_DEVICE void load(uint32_t block, int row, int lane) {
    using Memory = ActivationMemory<A_BITS>;
#pragma unroll
    for (int pair = 0; pair < A_BITS / 4; ++pair)
      ldmatrix_x4(words[pair], block + Memory::chunk(row + lane % 16, 2 * pair + lane / 16) * kChunkBytes);
  }

  // Operand of 32 codes, `half` 0 or 1 of the block.
  QVIT_DEVICE void operand(int half, uint32_t (&a)[4]) const {
    if constexpr (A_BITS == 8) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = words[half][i];
    } else {
      const uint32_t upper = words[0][2 * half], lower = words[0][2 * half + 1];
      a[0] = low_halves(upper), a[1] = low_halves(lower);
      a[2] = high_halves(upper), a[3] = high_halves(lower);
    }
  }
};

// COLUMNS (a multiple of 32) output channels x 64 codes of weights.
template <int W_BITS, int COLUMNS>
struct WeightFragment {
  static constexpr int CHUNKS = chunks(W_BITS);
  static constexpr int LOADS = COLUMNS / 8 * CHUNKS / 4;
  uint32_t words[LOADS][4];

  QVIT_DEVICE void load(uint32_t first_panel, int lane) {
#pragma unroll
    for (int i = 0; i < LOADS; ++i) ldmatrix_x4(words[i], first_panel + (i * 32 + lane) * kChunkBytes);
  }

  QVIT_DEVICE uint32_t word(int panel, int chunk) const {
    const int i = panel * CHUNKS + chunk;
    return words[i / 4][i % 4];
  }

  // Operand of 32 codes of 8 channels.
  QVIT_DEVICE void operand(int panel, int half, uint32_t (&b)[2]) const {
    if constexpr (W_BITS == 8) {
      b[0] = word(panel, 2 * half), b[1] = word(panel, 2 * half + 1);
    } else {
      const uint32_t upper = word(panel, half);
      b[0] = low_halves(upper), b[1] = high_halves(upper);
      if constexpr (W_BITS == 6) {
        const uint32_t pairs = word(panel, 2);
        b[0] |= (half ? pairs >> 2 : pairs << 2) & 0x0C0C0C0Cu;
        b[1] |= (half ? pairs >> 4 : pairs) & 0x0C0C0C0Cu;
      }
    }
  }

  // Operand of 64 4-bit codes.
  QVIT_DEVICE void packed_operand(int panel, uint32_t (&b)[2]) const { b[0] = word(panel, 0), b[1] = word(panel, 1); }
};

}  // namespace qvit
