// Quantized linear layers on the emulated GPU against plain loops: every pair of widths, source, output and tactic, on
// sizes that are no multiples of anything, with poisoned outputs.
#include "qvit/qvit.h"

#include <cuda_fp16.h>

#include "check.h"
#include "findings.h"
#include "qvit/packing.h"

namespace {

int quantize(float x, const QvitGrid& g) {
  const int half = 1 << (g.bits - 1);
  const float code = std::nearbyint((x + g.shift) / g.scale);
  return static_cast<int>(std::fmin(std::fmax(code, static_cast<float>(-half)), static_cast<float>(half - 1)));
}

QvitGrid random_grid(Random& random, int bits) {
  const float spread = 6.0f / static_cast<float>(1 << bits);
  return {spread * (0.5f + random.unit()), random.below(2) ? random.normal() * 0.3f : 0.0f, bits};
}

// Byte and shift of code `i` of a row of packed 4-bit codes.
size_t byte_of(int i) { return static_cast<size_t>(i / 32 * 16 + i % 16); }
int shift_of(int i) { return i % 32 / 16 * 4; }

struct Case {
  QvitLinear linear{};
  std::vector<int> x_codes, w_codes;
  std::vector<float> expected;

  Case(Random& random, int weight_bits, int a_bits, int x_type, int y_type, int tactic) {
    QvitTactic t;
    check(qvit_linear_tactic(tactic, &t) == QVIT_OK, "tactic");
    QvitLinear& l = linear;
    l.m = random.between(1, t.tile_m + 40), l.n = random.between(1, t.tile_n + 40), l.k = random.between(1, 450);
    if (random.below(4) == 0) l.n = (l.n + 31) / 32 * 32;
    if (random.below(12) == 0) l.m = t.tile_m * random.between(8, 12) + 3, l.k = random.between(1, 70);  // bands of tiles
    l.weight_bits = weight_bits;
    l.x_type = x_type, l.y_type = y_type, l.gelu = random.below(3) == 0;
    const int unit = x_type == QVIT_FLOAT32 ? 4 : x_type == QVIT_FLOAT16 ? 8 : x_type == QVIT_CODES8 ? 16 : 32;
    l.x_stride = (l.k + unit - 1) / unit * unit + unit * random.below(6);
    l.y_stride = l.n + (random.below(2) ? random.below(9) : (8 - l.n % 8) % 8);
    if (y_type == QVIT_CODES4) l.y_stride = (l.n + 31) / 32 * 32 + 32 * random.below(2);
    l.x_grid = random_grid(random, a_bits);
    l.y_grid = random_grid(random, y_type == QVIT_CODES4 ? 4 : 4 + 2 * random.below(3));
    run(random, tactic);
  }

  template <class Element>
  void fill_floats(Random& random, Array<Element>& x) {
    const QvitLinear& l = linear;
    for (int i = 0; i < l.m * l.x_stride; ++i) {
      if constexpr (sizeof(Element) == 2) {
        x[i] = __float2half_rn(random.normal());
        if (i % l.x_stride < l.k) x_codes.push_back(quantize(__half2float(x[i]), l.x_grid));
      } else {
        x[i] = random.normal();
        if (i % l.x_stride < l.k) x_codes.push_back(quantize(x[i], l.x_grid));
      }
    }
  }

  void run(Random& random, int tactic) {
    QvitLinear& l = linear;
    Array<__half> halves(static_cast<size_t>(l.m) * l.x_stride);
    Array<float> floats(static_cast<size_t>(l.m) * l.x_stride);
    Array<uint8_t> codes(static_cast<size_t>(l.m) * l.x_stride);
    size_t x_bytes = codes.count;
    if (l.x_type == QVIT_FLOAT16) {
      fill_floats(random, halves), l.x = halves.data(), x_bytes = halves.size_bytes();
    } else if (l.x_type == QVIT_FLOAT32) {
      fill_floats(random, floats), l.x = floats.data(), x_bytes = floats.size_bytes();
    } else {
      const int half = 1 << (l.x_grid.bits - 1);
      for (int i = 0; i < l.m * l.x_stride; ++i) {
        const int row = i / l.x_stride, column = i % l.x_stride, code = random.between(-half, half - 1);
        if (column < l.k) x_codes.push_back(code);
        if (l.x_type == QVIT_CODES8) {
          codes[i] = static_cast<uint8_t>(code);
        } else {
          uint8_t& byte = codes[static_cast<size_t>(row) * l.x_stride / 2 + byte_of(column)];
          byte = static_cast<uint8_t>((byte & (0xF0 >> shift_of(column))) | (code & 15) << shift_of(column));
        }
      }
      l.x = codes.data();
      if (l.x_type == QVIT_CODES4) x_bytes /= 2;
    }

    std::vector<int8_t> weight(static_cast<size_t>(l.n) * l.k);
    const int half = 1 << (l.weight_bits - 1);
    for (auto& w : weight) w = static_cast<int8_t>(random.between(-half, half - 1));
    Array<uint8_t> packed(qvit::packed_bytes(l.n, l.k, l.weight_bits));
    check(qvit_pack(weight.data(), l.n, l.k, l.weight_bits, packed.data()) == QVIT_OK, "pack");
    Array<float> scale(l.n), bias(l.n);
    for (int i = 0; i < l.n; ++i) scale[i] = 0.01f * (0.5f + random.unit()), bias[i] = random.normal();
    l.weight = packed.data(), l.weight_scale = scale.data();
    const bool with_bias = random.below(2);
    l.bias = with_bias ? bias.data() : nullptr;

    for (int m = 0; m < l.m; ++m)
      for (int n = 0; n < l.n; ++n) {
        int sum = 0;
        for (int k = 0; k < l.k; ++k) sum += x_codes[m * l.k + k] * weight[n * l.k + k];
        float y = static_cast<float>(sum) * (l.x_grid.scale * scale[n]);
        if (with_bias) y = y + bias[n];
        if (l.gelu) y = 0.5f * y * (1.0f + erff(y * 0.70710678118654752f));
        expected.push_back(y);
      }

    const size_t element = l.y_type == QVIT_FLOAT32 ? 4 : l.y_type == QVIT_FLOAT16 ? 2 : 1;
    const size_t y_elements = static_cast<size_t>(l.m) * l.y_stride / (l.y_type == QVIT_CODES4 ? 2 : 1);
    Array<uint8_t> y(y_elements * element);
    l.y = y.data();
    const int64_t needed = qvit_linear_workspace(&l, tactic);
    check(needed >= 0, "workspace");
    Array<uint8_t> workspace(static_cast<size_t>(needed));

    emulated_forget();
    emulated_allow(l.x, x_bytes), emulated_allow(packed.data(), packed.count);
    emulated_allow(scale.data(), scale.size_bytes()), emulated_allow(bias.data(), bias.size_bytes());
    emulated_allow(y.data(), y.count);
    if (needed > 0) emulated_allow(workspace.data(), workspace.count);
    const std::string where = "w" + std::to_string(l.weight_bits) + "a" + std::to_string(l.x_grid.bits) + " types " +
                              std::to_string(l.x_type) + " " + std::to_string(l.y_type) + " tactic " +
                              std::to_string(tactic) + " [" + std::to_string(l.m) + ", " + std::to_string(l.n) + ", " +
                              std::to_string(l.k) + "]";
    const int status = qvit_linear(&l, tactic, workspace.data(), needed, nullptr);
    check(status == QVIT_OK, where + ": " + qvit_status_string(status));
    check_clean(where);
    compare(y, where);
    check(y.guards_intact() && workspace.guards_intact(), where + ": wrote beyond its arrays");
  }

  void compare(Array<uint8_t>& y, const std::string& where) {
    const QvitLinear& l = linear;
    int wrong = 0;
    for (int m = 0; m < l.m; ++m)
      for (int n = 0; n < l.y_stride; ++n) {
        const size_t at = static_cast<size_t>(m) * l.y_stride + n;
        const bool inside = n < l.n;
        const float e = inside ? expected[m * l.n + n] : 0;
        if (l.y_type == QVIT_FLOAT32) {
          const float got = reinterpret_cast<float*>(y.data())[at];
          wrong += inside ? got != e : !y.poisoned(4 * at);
        } else if (l.y_type == QVIT_FLOAT16) {
          const uint16_t got = reinterpret_cast<uint16_t*>(y.data())[at];
          wrong += inside ? got != __float2half_rn(e).bits : !y.poisoned(2 * at);
        } else if (l.y_type == QVIT_CODES8) {
          wrong += inside ? static_cast<int8_t>(y[at]) != quantize(e, l.y_grid) : !y.poisoned(at);
        } else {
          const size_t byte = static_cast<size_t>(m) * l.y_stride / 2 + byte_of(n);
          const int code = ((y[byte] >> shift_of(n) & 15) ^ 8) - 8;
          if (inside) wrong += code != quantize(e, l.y_grid);
          if (!inside) wrong += n < (l.n + 31) / 32 * 32 ? code != 0 : !y.poisoned(byte);
        }
      }
    check(wrong == 0, where + ": " + std::to_string(wrong) + " of " + std::to_string(l.m * l.y_stride) + " wrong");
  }
};

}  // namespace

int main(int argc, char** argv) {
  Random random{argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 20260u};
  int cases = 0;
  for (int weight_bits : {4, 6, 8})
    for (int a_bits : {4, 6, 8})
      for (int x_type = QVIT_FLOAT16; x_type <= QVIT_CODES4; ++x_type) {
        if (x_type == QVIT_CODES4 && a_bits != 4) continue;
        for (int tactic = 0; tactic < qvit_linear_tactics(); ++tactic)
          for (int round = 0; round < 2; ++round, ++cases)
            Case(random, weight_bits, a_bits, x_type, random.below(4), tactic);
      }
  return finish("qlinear", cases);
}
