#include "tensor_core.h"

#include <cstring>

#include "machine.h"

namespace machine {
namespace {

struct Load {
  uint32_t* registers;
  uint32_t address;
};

void load_matrices(void* arguments[32]) {
  for (int matrix = 0; matrix < 4; ++matrix)
    for (int row = 0; row < 8; ++row) {
      uint32_t words[4];
      const int from = matrix * 8 + row;
      read_shared_row(from, static_cast<Load*>(arguments[from])->address, words);
      // "each thread receives ... row r: threads 4 r .. 4 r + 3", two 16-bit elements each
      for (int t = 0; t < 4; ++t) static_cast<Load*>(arguments[row * 4 + t])->registers[matrix] = words[t];
    }
}

struct Multiply {
  const Shape* shape;
  int* d;
  const uint32_t* a;
  const uint32_t* b;
};

int element(uint32_t word, int i, int bits, bool is_unsigned) {
  const int code = static_cast<int>(word >> (i * bits)) & ((1 << bits) - 1), sign = 1 << (bits - 1);
  return is_unsigned ? code : (code ^ sign) - sign;
}

// PTX ISA, "Warp-level matrix fragment" of .s8/.u8/.s4/.u4: with g = lane / 4, t = lane % 4 and e elements a register,
//   a: row = g (+ 8 in every second register where there are 16 rows), k = t e + i (+ 4 e in the second half)
//   b: column = g, k = t e + i (+ 4 e in the second register)
//   d: row = g (+ 8 for the last two), column = 2 t + i % 2
void multiply(void* arguments[32]) {
  const Shape& shape = *static_cast<Multiply*>(arguments[0])->shape;
  const int each = 32 / shape.bits, tall = shape.rows / 8, halves = shape.depth / (4 * each);
  int a[16][64], b[8][64];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* from = static_cast<Multiply*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < halves; ++half)
      for (int i = 0; i < each; ++i) {
        const int k = half * 4 * each + t * each + i;
        for (int part = 0; part < tall; ++part)
          a[g + 8 * part][k] = element(from->a[half * tall + part], i, shape.bits, shape.unsigned_a);
        b[g][k] = element(from->b[half], i, shape.bits, false);
      }
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 2 * tall; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      int sum = 0;
      for (int k = 0; k < shape.depth; ++k) sum += a[row][k] * b[column][k];
      static_cast<Multiply*>(arguments[lane])->d[i] += sum;
    }
}

}  // namespace

void ldmatrix(uint32_t (&registers)[4], uint32_t address) {
  Load mine{registers, address};
  collective("ldmatrix", &mine, load_matrices);
}

void mma(const Shape& shape, int* d, const uint32_t* a, const uint32_t* b) {
  Multiply mine{&shape, d, a, b};
  collective("mma", &mine, multiply);
}

}  // namespace machine
