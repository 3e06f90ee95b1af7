// Log-quantized attention against plain loops with the table of probabilities.py's `log_table`.
#include "qvit/qvit.h"

#include <cuda_fp16.h>

#include "check.h"
#include "findings.h"

namespace {

// qvit_deploy/formats/grids/probabilities.py, log_table: the code of u, in double.
int log_code(int u, int bits, int steps) {
  const int zero = (1 << bits) - 1;
  const double share = u / 65535.0;
  if (share < 0.5 * std::exp2(-static_cast<double>(zero - 1) / steps)) return zero;
  const double code = std::nearbyint(-steps * std::log2(std::fmax(share, 1 / 65535.0)));
  return static_cast<int>(std::fmin(code, zero - 1));
}

float load(const Array<__half>& a, size_t i) { return __half2float(const_cast<Array<__half>&>(a)[i]); }
float load(const Array<float>& a, size_t i) { return const_cast<Array<float>&>(a)[i]; }
void store(Array<__half>& a, size_t i, float v) { a[i] = __float2half_rn(v); }
void store(Array<float>& a, size_t i, float v) { a[i] = v; }
bool same(float got, float expected) { return got == expected || (std::isnan(got) && std::isnan(expected)); }

template <class Element>
void run_case(Random& random, int steps, int bits) {
  QvitLogAttention a{};
  a.batch = random.between(1, 2), a.queries = random.between(1, 80), a.keys = random.between(1, 150);
  a.width = random.between(1, 70);
  a.score_stride = a.keys + random.below(5), a.value_stride = a.width + random.below(5);
  a.out_stride = a.width + random.below(5);
  a.type = sizeof(Element) == 2 ? QVIT_FLOAT16 : QVIT_FLOAT32;
  a.steps = steps, a.bits = bits, a.by_row = random.below(2);
  a.largest = a.by_row ? 1.0f : 0.2f + 0.8f * random.unit();
  const int value_bits = 4 + 2 * random.below(3), half = 1 << (value_bits - 1);
  a.value_grid = {6.0f / static_cast<float>(1 << value_bits) * (0.5f + random.unit()), 0, value_bits};

  Array<Element> scores(static_cast<size_t>(a.batch) * a.queries * a.score_stride);
  Array<Element> values(static_cast<size_t>(a.batch) * a.keys * a.value_stride);
  Array<Element> out(static_cast<size_t>(a.batch) * a.queries * a.out_stride);
  const float sharp = 4 * random.unit();
  for (size_t i = 0; i < scores.count; ++i) store(scores, i, sharp * random.normal());
  for (size_t i = 0; i < values.count; ++i) store(values, i, random.normal());
  a.scores = scores.data(), a.values = values.data(), a.out = out.data();
  emulated_forget();
  const std::string where = "attention [" + std::to_string(a.batch) + ", " + std::to_string(a.queries) + ", " +
                            std::to_string(a.keys) + ", " + std::to_string(a.width) + "] type " +
                            std::to_string(a.type) + " steps " + std::to_string(steps) + " bits " + std::to_string(bits);
  const int status = qvit_softmax_log2_av(&a, nullptr);
  check(status == QVIT_OK, where + ": " + qvit_status_string(status));
  check_clean(where);
  check(out.guards_intact(), where + ": wrote beyond its array");

  const float unit = a.largest / 65535.0f, scale = a.largest * 0x1p-15f * a.value_grid.scale;
  int wrong = 0;
  for (int b = 0; b < a.batch; ++b)
    for (int t = 0; t < a.queries; ++t) {
      const size_t row = (static_cast<size_t>(b) * a.queries + t) * a.score_stride;
      float top = -INFINITY, partial[16] = {};
      for (int s = 0; s < a.keys; ++s) top = std::fmax(top, load(scores, row + s));
      for (int s = 0; s < a.keys; ++s) partial[s % 64 / 4] += expf(load(scores, row + s) - top);
      for (int distance = 8; distance > 0; distance /= 2)
        for (int i = 0; i < distance; ++i) partial[i] += partial[i + distance];
      const float total = partial[0], peak = 1.0f / total;
      std::vector<int> codes(a.keys);
      for (int s = 0; s < a.keys; ++s) {
        float share = expf(load(scores, row + s) - top) / total;
        if (a.by_row) share = share / peak;
        codes[s] = log_code(static_cast<int>(std::fmin(std::nearbyint(share / unit), 65535.0f)), bits, steps);
      }
      for (int d = 0; d < a.out_stride; ++d) {
        const size_t at = (static_cast<size_t>(b) * a.queries + t) * a.out_stride + d;
        if (d >= a.width) {
          wrong += !out.poisoned(at);
          continue;
        }
        long long even = 0, odd = 0;  // sums of 2^(15 - q / steps) v
        for (int s = 0; s < a.keys; ++s) {
          const float v = load(values, (static_cast<size_t>(b) * a.keys + s) * a.value_stride + d);
          const int code = static_cast<int>(std::fmin(std::fmax(std::nearbyint(v / a.value_grid.scale), -half), half - 1));
          if (codes[s] == (1 << bits) - 1) continue;
          (codes[s] % steps ? odd : even) += (1LL << (15 - codes[s] / steps)) * code;
        }
        float y = static_cast<float>(even);
        if (steps == 2) y += static_cast<float>(odd) * 0.70710678118654752f;
        y *= scale;
        if (a.by_row) y *= peak;
        Array<Element> one(1);
        store(one, 0, y);
        wrong += !same(load(out, at), load(one, 0));
      }
    }
  check(wrong == 0, where + ": " + std::to_string(wrong) + " of " + std::to_string(out.count) + " wrong");
}

}  // namespace

int main(int argc, char** argv) {
  Random random{argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 11u};
  int cases = 0;
  for (int i = 0; i < 12; ++i)
    for (int steps : {1, 2})
      for (int bits = 2; bits <= 3 + steps; ++bits, cases += 2)
        run_case<__half>(random, steps, bits), run_case<float>(random, steps, bits);
  return finish("softmax_log2_av", cases);
}
