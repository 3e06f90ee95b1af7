// Packing and unpacking are inverse for every shape and width, at compile time too.
#include "qvit/packing.h"

#include "check.h"

namespace {

constexpr bool known_bytes() {
  int8_t codes[33] = {};
  codes[0] = -8, codes[1] = 7, codes[16] = 3, codes[32] = -1;
  uint8_t bytes[qvit::packed_bytes(1, 33, 4)] = {};
  return qvit::pack(codes, 1, 33, 4, bytes) && bytes[0] == 0x38 && bytes[1] == 0x07 && bytes[128] == 0x0F;
}
static_assert(known_bytes());

constexpr bool known_bytes_of_six() {
  int8_t codes[64] = {};
  codes[0] = 0b011101, codes[16] = -32, codes[63] = -1;
  uint8_t bytes[qvit::packed_bytes(1, 64, 6)] = {};
  return qvit::pack(codes, 1, 64, 6, bytes) && bytes[0] == 0x87 && bytes[128 + 15] == 0xF0 && bytes[256] == 0x01 &&
         bytes[256 + 15] == 0xC0;
}
static_assert(known_bytes_of_six());

}  // namespace

int main() {
  Random random{1};
  int cases = 0;
  for (int bits : {4, 6, 8})
    for (int i = 0; i < 300; ++i, ++cases) {
      const int n = random.between(1, 40), k = random.between(1, 200), half = 1 << (bits - 1);
      std::vector<int8_t> codes(n * k), back(n * k, 99);
      for (auto& c : codes) c = static_cast<int8_t>(random.between(-half, half - 1));
      std::vector<uint8_t> bytes(qvit::packed_bytes(n, k, bits), 0xEB);
      check(bytes.size() == static_cast<size_t>((n + 7) / 8 * 8 * ((k + 63) / 64 * 64 * bits / 8)), "size");
      check(qvit::pack(codes.data(), n, k, bits, bytes.data()), "pack");
      qvit::unpack(bytes.data(), n, k, bits, back.data());
      check(codes == back, "unpack(pack) at " + std::to_string(bits) + " bits");
      if (bits < 8) {
        codes[random.below(n * k)] = static_cast<int8_t>(half);
        check(!qvit::pack(codes.data(), n, k, bits, bytes.data()), "a code out of range was packed");
      }
    }
  return finish("packing", cases);
}
