// Loads one step of K at a time from global to shared memory: weights and codes by asynchronous copies, floats through
// registers, where they are quantized.
#pragma once

#include "qvit/linear_params.h"
#include "qvit/tensor_core.cuh"
#include "qvit/tile_memory.cuh"
#include "qvit/vectors.cuh"

namespace qvit {

// Copies the weights of step `step` into the stage at `stage`. Panels beyond N and blocks beyond K become zeros.
template <int W_BITS, class Memory, class T>
QVIT_DEVICE void load_weights(const LinearParams& p, int first_column, int step, uint32_t stage) {
  constexpr int PANEL_UNITS = chunks(W_BITS) * kPanel;  // of 16 bytes, contiguous in both memories
  constexpr int UNITS = Memory::BLOCKS * (T::N / kPanel) * PANEL_UNITS;
  static_assert(UNITS % 32 == 0);
  const int blocks = static_cast<int>(padded_k(p.k)) / kBlock, panels = (p.n + kPanel - 1) / kPanel;
#pragma unroll
  for (int first = 0; first < UNITS; first += T::THREADS) {
    const int unit = first + static_cast<int>(threadIdx.x);
    if (UNITS % T::THREADS != 0 && unit >= UNITS) break;
    const int within = unit % PANEL_UNITS, panel = first_column / kPanel + unit / PANEL_UNITS % (T::N / kPanel);
    const int block = step * Memory::BLOCKS + unit / (PANEL_UNITS * (T::N / kPanel));
    const bool valid = panel < panels && block < blocks;
    const int64_t at = valid ? (static_cast<int64_t>(panel) * blocks + block) * PANEL_UNITS + within : 0;
    copy_16(stage + Memory::B_START + unit * kChunkBytes, p.weight + at * kChunkBytes, valid);
  }
}

// Which 16-byte chunk of the activation tile a thread fills in its `i`th turn.
template <int A_BITS, class T>
struct ActivationUnit {
  using Rows = ActivationMemory<A_BITS>;
  static constexpr int COUNT = T::K / Rows::CODES * T::M / T::THREADS;
  static_assert(COUNT > 0 && T::K / Rows::CODES * T::M % T::THREADS == 0);
  int block, row, chunk;

  QVIT_DEVICE explicit ActivationUnit(int i) {
    const int unit = i * T::THREADS + static_cast<int>(threadIdx.x);
    block = unit / (T::M * Rows::CHUNKS);
    row = unit / Rows::CHUNKS % T::M;
    chunk = unit % Rows::CHUNKS;
  }
  QVIT_DEVICE int column(int step) const { return (step * (T::K / kBlock) + block) * kBlock + chunk * Rows::CODES; }
  QVIT_DEVICE uint32_t address() const {
    return (block * T::M * Rows::CHUNKS + Rows::chunk(row, chunk)) * kChunkBytes;
  }
};

// Activations that are codes already.
template <int A_BITS, class T>
struct CodeLoader {
  QVIT_DEVICE void fetch(const LinearParams& p, int first_row, int step, uint32_t stage) {
    using Unit = ActivationUnit<A_BITS, T>;
#pragma unroll
    for (int i = 0; i < Unit::COUNT; ++i) {
      const Unit unit(i);
      const int row = first_row + unit.row, column = unit.column(step);
      const bool valid = row < p.m && column < p.x_stride;
      const int64_t at = valid ? (static_cast<int64_t>(row) * p.x_stride + column) * A_BITS / 8 : 0;
      copy_16(stage + unit.address(), static_cast<const uint8_t*>(p.x) + at, valid);
    }
  }
  QVIT_DEVICE void store(const LinearParams&, uint32_t) {}
};

// Activations that are `Element`s: fetched into registers before a step's products, quantized and stored behind them.
template <int A_BITS, class T, class Element>
struct FloatLoader {
  using Unit = ActivationUnit<A_BITS, T>;
  static constexpr int CODES = ActivationMemory<A_BITS>::CODES;
  static constexpr int EACH = 16 / static_cast<int>(sizeof(Element)), LOADS = CODES / EACH;
  uint4 raw[Unit::COUNT][LOADS];

  QVIT_DEVICE void fetch(const LinearParams& p, int first_row, int step, uint32_t) {
#pragma unroll
    for (int i = 0; i < Unit::COUNT; ++i) {
      const Unit unit(i);
      const int row = first_row + unit.row, column = unit.column(step);
      const Element* from = static_cast<const Element*>(p.x) + static_cast<int64_t>(row) * p.x_stride + column;
#pragma unroll
      for (int j = 0; j < LOADS; ++j) {
        const bool valid = row < p.m && column + j * EACH < p.x_stride;
        raw[i][j] = valid ? load_global_16(from + j * EACH) : uint4{0, 0, 0, 0};
      }
    }
  }

  QVIT_DEVICE void store(const LinearParams& p, uint32_t stage) {
#pragma unroll
    for (int i = 0; i < Unit::COUNT; ++i) {
      uint32_t bytes[CODES / 4];  // four codes each
#pragma unroll
      for (int j = 0; j < LOADS; ++j) {
        float values[EACH];
        to_floats(raw[i][j], values);
#pragma unroll
        for (int v = 0; v < EACH; v += 4)
          bytes[(j * EACH + v) / 4] =
              pack_bytes(quantize(values[v], p.x_quantizer), quantize(values[v + 1], p.x_quantizer),
                         quantize(values[v + 2], p.x_quantizer), quantize(values[v + 3], p.x_quantizer));
      }
      uint32_t chunk[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) chunk[w] = A_BITS == 8 ? bytes[w] : pack_halves(bytes[w], bytes[(w + 4) % (CODES / 4)]);
      store_shared_16(stage + Unit(i).address(), uint4{chunk[0], chunk[1], chunk[2], chunk[3]});
    }
  }
};

struct HalfSource {
  template <int A_BITS, class T>
  using Loader = FloatLoader<A_BITS, T, __half>;
};
struct FloatSource {
  template <int A_BITS, class T>
  using Loader = FloatLoader<A_BITS, T, float>;
};
struct CodeSource {
  template <int A_BITS, class T>
  using Loader = CodeLoader<A_BITS, T>;
};

}  // namespace qvit
