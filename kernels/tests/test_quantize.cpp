// `quantize` against a division: on values around every rounding boundary, on random ones and on extreme ones.
#include "qvit/quantize.cuh"

#include "check.h"

namespace {

int reference(float x, float scale, float shift, int bits) {
  const int half = 1 << (bits - 1);
  const float quotient = std::nearbyint((x + shift) / scale);
  return static_cast<int>(std::fmin(std::fmax(quotient, static_cast<float>(-half)), static_cast<float>(half - 1)));
}

}  // namespace

int main() {
  Random random{7};
  int cases = 0;
  const auto compare = [&](float x, float scale, float shift, int bits) {
    const float half = static_cast<float>(1 << (bits - 1));
    const qvit::Quantizer q{scale, 1.0f / scale, shift, 256 * scale, -half, half - 1};
    const int expected = reference(x, scale, shift, bits), got = qvit::quantize(x, q);
    check(expected == got, "quantize(" + std::to_string(x) + " / " + std::to_string(scale) + ") is " +
                               std::to_string(got) + ", not " + std::to_string(expected));
    ++cases;
  };
  for (int i = 0; i < 20000; ++i) {
    const float scale = std::exp2(static_cast<float>(random.between(-40, 20)) + random.unit());
    const int bits = 4 + 2 * random.below(3);
    float x = (static_cast<float>(random.between(-130, 130)) + 0.5f) * scale;
    for (int step = 0; step < 3; ++step) x = std::nextafter(x, -INFINITY);
    for (int step = 0; step < 7; ++step, x = std::nextafter(x, INFINITY)) compare(x, scale, 0, bits);
    compare(random.normal() * scale * 60, scale, random.normal() * scale * 9, bits);
  }
  for (float x : {0.0f, -0.0f, 1e38f, -1e38f, INFINITY, -INFINITY, 1e-45f, 3.4e38f})
    for (float scale : {1e-30f, 1e-12f, 1.0f, 3e7f, 1e30f})
      for (int bits : {4, 6, 8}) compare(x, scale, 0, bits);
  check(qvit::quantize(NAN, {1, 1, 0, 256, -8, 7}) == -8, "NaN becomes the lowest code");
  return finish("quantize", cases);
}
