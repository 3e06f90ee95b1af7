// LayerNorm to codes against the same float32 operations in the same order, and against float64 within half a step.
#include "qvit/qvit.h"

#include <cuda_fp16.h>

#include "check.h"
#include "findings.h"

namespace {

int quantize(float x, const QvitGrid& g) {
  const int half = 1 << (g.bits - 1);
  const float code = std::nearbyint((x + g.shift) / g.scale);
  return static_cast<int>(std::fmin(std::fmax(code, static_cast<float>(-half)), static_cast<float>(half - 1)));
}

// The order layernorm_quantize.cuh documents: 32 partial sums, then a butterfly.
template <class F>
float ordered_sum(int c, F f) {
  float lanes[32] = {};
  for (int lane = 0; lane < 32; ++lane)
    for (int unit = lane; unit / 2 * 32 + unit % 2 * 8 < c; unit += 32)
      for (int run = 0; run < 2; ++run)
        for (int i = 0; i < 8; ++i)
          if (const int column = unit / 2 * 32 + unit % 2 * 8 + run * 16 + i; column < c) lanes[lane] += f(column);
  for (int distance = 16; distance > 0; distance /= 2) {
    float next[32];
    for (int lane = 0; lane < 32; ++lane) next[lane] = lanes[lane] + lanes[lane ^ distance];
    for (int lane = 0; lane < 32; ++lane) lanes[lane] = next[lane];
  }
  return lanes[0];
}

void run_case(Random& random, int x_type, int y_type, int bits) {
  QvitLayerNorm l{};
  l.m = random.between(1, 13), l.c = random.between(1, 900);
  const int unit = x_type == QVIT_FLOAT32 ? 4 : 8, out_unit = y_type == QVIT_CODES8 ? 16 : 32;
  l.x_stride = (l.c + unit - 1) / unit * unit + unit * random.below(3);
  l.y_stride = (l.c + out_unit - 1) / out_unit * out_unit + out_unit * random.below(3);
  l.x_type = x_type, l.y_type = y_type, l.epsilon = 1e-6f;
  l.grid = {4.0f / static_cast<float>(1 << bits) * (1 + random.unit()), random.below(2) ? random.normal() : 0, bits};

  const size_t count = static_cast<size_t>(l.m) * l.x_stride;
  Array<__half> halves(count);
  Array<float> floats(count);
  const float offset = 3 * random.normal(), spread = std::exp2(4 * random.normal());
  for (size_t i = 0; i < count; ++i) {
    const float value = offset + spread * random.normal();
    halves[i] = __float2half_rn(value);
    floats[i] = x_type == QVIT_FLOAT16 ? __half2float(halves[i]) : value;
  }
  Array<float> gamma(l.c), beta(l.c);
  for (int i = 0; i < l.c; ++i) gamma[i] = 1 + 0.3f * random.normal(), beta[i] = random.normal();
  Array<uint8_t> y(static_cast<size_t>(l.m) * l.y_stride / (y_type == QVIT_CODES4 ? 2 : 1));
  l.x = x_type == QVIT_FLOAT16 ? static_cast<void*>(halves.data()) : floats.data();
  l.gamma = gamma.data(), l.beta = beta.data(), l.y = y.data();

  emulated_forget();
  emulated_allow(l.x, count * (x_type == QVIT_FLOAT16 ? 2 : 4)), emulated_allow(y.data(), y.count);
  emulated_allow(l.gamma, gamma.size_bytes()), emulated_allow(l.beta, beta.size_bytes());
  const std::string where = "layernorm [" + std::to_string(l.m) + ", " + std::to_string(l.c) + "] types " +
                            std::to_string(x_type) + " " + std::to_string(y_type) + " a" + std::to_string(bits);
  const int status = qvit_layernorm_quantize(&l, nullptr);
  check(status == QVIT_OK, where + ": " + qvit_status_string(status));
  check_clean(where);
  check(y.guards_intact(), where + ": wrote beyond its array");

  int wrong = 0, far = 0;
  for (int m = 0; m < l.m; ++m) {
    const float* x = floats.data() + static_cast<size_t>(m) * l.x_stride;
    const float mean = ordered_sum(l.c, [&](int i) { return x[i]; }) / static_cast<float>(l.c);
    const float squares = ordered_sum(l.c, [&](int i) { return (x[i] - mean) * (x[i] - mean); });
    const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(l.c) + l.epsilon);
    double exact_mean = 0, exact_squares = 0;
    for (int i = 0; i < l.c; ++i) exact_mean += x[i];
    exact_mean /= l.c;
    for (int i = 0; i < l.c; ++i) exact_squares += (x[i] - exact_mean) * (x[i] - exact_mean);
    const double exact_inverse = 1 / std::sqrt(exact_squares / l.c + l.epsilon);
    for (int i = 0; i < l.y_stride; ++i) {
      const size_t row = static_cast<size_t>(m) * l.y_stride;
      const size_t byte = y_type == QVIT_CODES8 ? row + i : row / 2 + i / 32 * 16 + i % 16;
      const int code = y_type == QVIT_CODES8 ? static_cast<int8_t>(y[byte])
                                             : ((y[byte] >> (i % 32 / 16 * 4) & 15) ^ 8) - 8;
      if (i < l.c) {
        wrong += code != quantize((x[i] - mean) * inverse * gamma[i] + beta[i], l.grid);
        const double exact = ((x[i] - exact_mean) * exact_inverse * gamma[i] + beta[i] + l.grid.shift) / l.grid.scale;
        const int half = 1 << (bits - 1);
        far += std::abs(code - std::fmin(std::fmax(exact, -half), half - 1)) > 0.51;
      } else {
        const int padded = (l.c + 31) / 32 * 32;
        wrong += i < padded ? code != 0 : !y.poisoned(byte);
      }
    }
  }
  check(wrong == 0, where + ": " + std::to_string(wrong) + " codes differ");
  check(far == 0, where + ": " + std::to_string(far) + " codes are more than half a step off");
}

}  // namespace

int main(int argc, char** argv) {
  Random random{argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 5u};
  int cases = 0;
  for (int i = 0; i < 60; ++i)
    for (int x_type : {QVIT_FLOAT16, QVIT_FLOAT32})
      for (int bits : {4, 6, 8}) {
        run_case(random, x_type, QVIT_CODES8, bits), ++cases;
        if (bits == 4) run_case(random, x_type, QVIT_CODES4, bits), ++cases;
      }
  return finish("layernorm_quantize", cases);
}
