// The packed weight layout: the one place that defines it. `qvit_deploy/targets/tensorrt/packed/packing.py` writes the same bytes.
//
// Weights are signed codes [N, K], output channels first, of b = 4, 6 or 8 bits: -2^(b-1) .. 2^(b-1)-1.
// K is padded with zero codes to a multiple of 64 (`kBlock`), N with zero rows to a multiple of 8 (`kPanel`).
//
//   panel   8 consecutive output channels
//   block   64 consecutive codes of one channel: `chunks(b)` pieces of 16 bytes, 2, 3 or 4 of them
//   bytes   [panel][block][chunk][channel of the panel][16]
//
// so that one chunk of a panel is 128 contiguous bytes, which `ldmatrix` reads without bank conflicts as they lie, and
// a row costs exactly K_padded * b / 8 bytes. With c[i] the codes of one block:
//
//   8 bits  chunk j, byte i   c[16 j + i]
//   4 bits  chunk j, byte i   low half c[32 j + i], high half c[32 j + 16 + i]
//   6 bits  chunks 0 and 1    the upper four bits of the codes, placed as at 4 bits
//           chunk 2, byte i   the lower two bits of c[i], c[16 + i], c[32 + i], c[48 + i], from bit 0 upwards
//
// A 32-bit word of a chunk thus holds, byte for byte, what one thread feeds to `mma.m16n8k32`: shifting a half into the
// upper bits of every byte yields four codes times 2^(8-b) with their sign, and the accumulator is shifted back at the
// end (exact: it is a multiple). 4-bit activation codes in memory are packed likewise, row by row without panels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qvit {

constexpr int kBlock = 64;
constexpr int kPanel = 8;
constexpr int kChunkBytes = 16;

constexpr bool valid_weight_bits(int bits) { return bits == 4 || bits == 6 || bits == 8; }
constexpr int chunks(int bits) { return bits / 2; }
constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int64_t padded_k(int64_t k) { return round_up(k, kBlock); }
constexpr int64_t packed_bytes(int64_t n, int64_t k, int bits) {
  return round_up(n, kPanel) * padded_k(k) * bits / 8;
}

// Byte offset of chunk `chunk` of channel `n` in block `block`.
constexpr int64_t chunk_offset(int64_t n, int64_t block, int chunk, int64_t blocks, int bits) {
  return (((n / kPanel * blocks + block) * chunks(bits) + chunk) * kPanel + n % kPanel) * kChunkBytes;
}

struct CodeBits {
  int chunk, byte, shift, width, from;  // `width` bits of the code, from bit `from` on, go to bit `shift` of the byte
};

// Where the parts of code `i` (0..63) of a block lie: one part, two at 6 bits.
constexpr CodeBits code_bits(int i, int bits, int part) {
  if (bits == 8) return {i / 16, i % 16, 0, 8, 0};
  if (part == 1) return {2, i % 16, i / 16 * 2, 2, 0};
  return {i / 32, i % 16, i % 32 / 16 * 4, 4, bits - 4};
}
constexpr int code_parts(int bits) { return bits == 6 ? 2 : 1; }

// False, with nothing promised about `out`, when a code does not fit. `out` has packed_bytes(n, k, bits).
constexpr bool pack(const int8_t* codes, int64_t n, int64_t k, int bits, uint8_t* out) {
  const int64_t blocks = padded_k(k) / kBlock;
  const int low = -(1 << (bits - 1)), high = (1 << (bits - 1)) - 1;
  for (int64_t i = 0; i < packed_bytes(n, k, bits); ++i) out[i] = 0;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t column = 0; column < k; ++column) {
      const int code = codes[row * k + column];
      if (code < low || code > high) return false;
      for (int part = 0; part < code_parts(bits); ++part) {
        const CodeBits at = code_bits(static_cast<int>(column % kBlock), bits, part);
        const int field = (code >> at.from) & ((1 << at.width) - 1);
        uint8_t& byte = out[chunk_offset(row, column / kBlock, at.chunk, blocks, bits) + at.byte];
        byte = static_cast<uint8_t>(byte | field << at.shift);
      }
    }
  return true;
}

constexpr void unpack(const uint8_t* bytes, int64_t n, int64_t k, int bits, int8_t* codes) {
  const int64_t blocks = padded_k(k) / kBlock;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t column = 0; column < k; ++column) {
      int code = 0;
      for (int part = 0; part < code_parts(bits); ++part) {
        const CodeBits at = code_bits(static_cast<int>(column % kBlock), bits, part);
        const int byte = bytes[chunk_offset(row, column / kBlock, at.chunk, blocks, bits) + at.byte];
        code |= ((byte >> at.shift) & ((1 << at.width) - 1)) << at.from;
      }
      const int sign = 1 << (bits - 1);
      codes[row * k + column] = static_cast<int8_t>((code ^ sign) - sign);
    }
}

}  // namespace qvit
