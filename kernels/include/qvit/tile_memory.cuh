// Lays out one step of a tile in shared memory. All addresses are bytes from the start of a stage.
//
// Activations: [TILE_K / 64][TILE_M][chunks of 16 bytes], chunks swizzled within their row so that both the rows that
// `ldmatrix` reads (8 rows, one chunk) and the order global memory is read in (rows, chunk by chunk) touch all 32 banks.
// Weights: [TILE_K / 64][TILE_N / 8][chunk][8][16], the packed layout itself: reading and writing is linear.
#pragma once

#include "qvit/packing.h"
#include "qvit/ptx.cuh"

namespace qvit {

// A_BITS is 4 (32 codes a chunk) or 8 (16 codes).
template <int A_BITS>
struct ActivationMemory {
  static constexpr int CHUNKS = chunks(A_BITS);  // of a row in a block of 64
  static constexpr int CODES = 64 / CHUNKS;      // of a chunk

  // Rows that start at the same bank repeat every 8 / CHUNKS rows.
  static QVIT_DEVICE int chunk(int row, int c) { return row * CHUNKS + (c ^ (row / (8 / CHUNKS) % CHUNKS)); }
};

template <int W_BITS, int A_BITS, class T>
struct StageMemory {
  static constexpr int BLOCKS = T::K / kBlock;
  static constexpr int A_BLOCK = T::M * chunks(A_BITS) * kChunkBytes;
  static constexpr int B_BLOCK = T::N * chunks(W_BITS) * kChunkBytes;
  static constexpr int B_START = BLOCKS * A_BLOCK;
  static constexpr int BYTES = BLOCKS * (A_BLOCK + B_BLOCK);
};

}  // namespace qvit
