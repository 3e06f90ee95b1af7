// The quantized linear layer: one block computes one tile of outputs (tiles.cuh).
//
// Steps of K pass through a ring of STAGES buffers. In every step the block waits for the oldest buffer, starts loading
// the step STAGES - 1 later, multiplies, and stores the quantized activations of that later step.
#pragma once

#include "qvit/epilogue.cuh"
#include "qvit/fragments.cuh"
#include "qvit/load_tiles.cuh"
#include "qvit/tiles.cuh"

namespace qvit {

template <int W_BITS, int A_BITS, class T>
struct WarpProducts {
  using Memory = StageMemory<W_BITS, A_BITS, T>;
  using Multiply = Product<W_BITS, A_BITS>;
  using X = ActivationFragment<A_BITS>;
  using W = WeightFragment<W_BITS, T::WN>;
  int sums[T::WM / 16][T::WN / 8][4] = {};

  // Adds the products of the step that lies at `stage`; the warp's outputs start at (row, column) of the tile.
  QVIT_DEVICE void add(uint32_t stage, int row, int column, int lane) {
#pragma unroll
    for (int block = 0; block < Memory::BLOCKS; ++block) {
      X x[T::WM / 16];
      W w;
#pragma unroll
      for (int m = 0; m < T::WM / 16; ++m) x[m].load(stage + block * Memory::A_BLOCK, row + m * 16, lane);
      const int panel = column / kPanel * chunks(W_BITS) * kPanel * kChunkBytes;
      w.load(stage + Memory::B_START + block * Memory::B_BLOCK + panel, lane);
      multiply(x, w);
    }
  }

  QVIT_DEVICE void multiply(const X (&x)[T::WM / 16], const W& w) {
    if constexpr (Multiply::NATIVE_S4) {
      multiply_4_bit(x, w);
    } else {
      multiply_8_bit(x, w);
    }
  }

#if QVIT_NATIVE_S4
  QVIT_DEVICE void multiply_4_bit(const X (&x)[T::WM / 16], const W& w) {
#pragma unroll
    for (int n = 0; n < T::WN / 8; ++n) {
      uint32_t b[2];
      w.packed_operand(n, b);
#pragma unroll
      for (int m = 0; m < T::WM / 16; ++m) mma_m16n8k64_s4(sums[m][n], x[m].words[0], b);
    }
  }
#endif

  QVIT_DEVICE void multiply_8_bit(const X (&x)[T::WM / 16], const W& w) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[T::WM / 16][4];
#pragma unroll
      for (int m = 0; m < T::WM / 16; ++m) x[m].operand(half, a[m]);
#pragma unroll
      for (int n = 0; n < T::WN / 8; ++n) {
        uint32_t b[2];
        w.operand(n, half, b);
#pragma unroll
        for (int m = 0; m < T::WM / 16; ++m) mma_s8(sums[m][n], a[m], b);
      }
    }
  }
};

struct TilePosition {
  int m, n;
};

// Tiles are visited in bands of eight rows, column by column, so that blocks in flight share weights and activations in
// the L2 cache.
QVIT_DEVICE TilePosition tile_position(int index, int tiles_m, int tiles_n) {
  constexpr int BAND = 8;
  const int band = index / (BAND * tiles_n), first = band * BAND;
  const int height = tiles_m - first < BAND ? tiles_m - first : BAND;
  const int within = index - band * BAND * tiles_n;
  return {first + within % height, within / height};
}

// Adds this block's sums to those of the other parts of K. True in the block that comes last, which then holds the total.
template <class T, class Sums>
QVIT_DEVICE bool add_parts(const LinearParams& p, int tile, Sums& sums) {
  constexpr int COUNT = sizeof(Sums) / sizeof(int);
  int* values = &sums[0][0][0];
  int32_t* shared_sums = p.partial + static_cast<int64_t>(tile) * T::M * T::N + threadIdx.x;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) atomicAdd(shared_sums + i * T::THREADS, values[i]);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) store_shared_4(shared_base(), atomicAdd(p.arrived + tile, 1u));
  __syncthreads();
  if (load_shared_4(shared_base()) != static_cast<uint32_t>(p.split_k - 1)) return false;
  __threadfence();
#pragma unroll
  for (int i = 0; i < COUNT; ++i) values[i] = __ldcg(shared_sums + i * T::THREADS);
  return true;
}

template <int W_BITS, int A_BITS, class Source, class T>
__global__ void __launch_bounds__(T::THREADS, 1) qlinear(LinearParams p) {
  using Memory = StageMemory<W_BITS, A_BITS, T>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / (T::N / T::WN) * T::WM, column = warp % (T::N / T::WN) * T::WN;
  const TilePosition tile = tile_position(blockIdx.x, p.tiles_m, p.tiles_n);
  const int first_row = tile.m * T::M, first_column = tile.n * T::N;

  const int all_steps = (static_cast<int>(padded_k(p.k)) + T::K - 1) / T::K;
  const int part = (all_steps + p.split_k - 1) / p.split_k;
  const int first_step = part * static_cast<int>(blockIdx.y);
  const int steps = all_steps - first_step < part ? all_steps - first_step : part;

  const uint32_t ring = shared_base();
  typename Source::template Loader<A_BITS, T> activations;
  WarpProducts<W_BITS, A_BITS, T> products;

#pragma unroll
  for (int s = 0; s < T::STAGES - 1; ++s) {
    if (s < steps) {
      load_weights<W_BITS, Memory, T>(p, first_column, first_step + s, ring + s * Memory::BYTES);
      activations.fetch(p, first_row, first_step + s, ring + s * Memory::BYTES);
      activations.store(p, ring + s * Memory::BYTES);
    }
    copies_commit();
  }
  int stage = 0, ahead = T::STAGES - 1;
  for (int step = 0; step < steps; ++step) {
    copies_wait<T::STAGES - 2>();
    __syncthreads();
    const bool more = step + T::STAGES - 1 < steps;
    const uint32_t later = ring + ahead * Memory::BYTES;
    if (more) {
      load_weights<W_BITS, Memory, T>(p, first_column, first_step + step + T::STAGES - 1, later);
      activations.fetch(p, first_row, first_step + step + T::STAGES - 1, later);
    }
    copies_commit();
    products.add(ring + stage * Memory::BYTES, row, column, lane);
    if (more) activations.store(p, later);
    stage = stage + 1 == T::STAGES ? 0 : stage + 1;
    ahead = ahead + 1 == T::STAGES ? 0 : ahead + 1;
  }
  copies_wait<0>();

  if (p.split_k > 1) {
    __syncthreads();
    if (!add_parts<T>(p, blockIdx.x, products.sums)) return;
  }
  write_outputs<Product<W_BITS, A_BITS>::SHIFT, T::WM, T::WN>(p, first_row + row, first_column + column, products.sums,
                                                              lane);
}

}  // namespace qvit
