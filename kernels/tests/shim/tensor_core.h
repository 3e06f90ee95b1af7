// Warp instructions, from the fragment layouts in the PTX ISA.
#pragma once

#include <cstdint>

namespace machine {

void ldmatrix(uint32_t (&registers)[4], uint32_t address);

// d += a x b with a [rows, depth], b [depth, 8]; `bits` wide elements, packed from bit 0 upwards.
struct Shape {
  int rows, depth, bits;
  bool unsigned_a;
};
constexpr Shape m16n8k32_s8{16, 32, 8, false}, m16n8k32_u8s8{16, 32, 8, true};
constexpr Shape m8n8k16_s8{8, 16, 8, false}, m8n8k16_u8s8{8, 16, 8, true};
constexpr Shape m16n8k64_s4{16, 64, 4, false};
void mma(const Shape& shape, int* d, const uint32_t* a, const uint32_t* b);

}  // namespace machine
