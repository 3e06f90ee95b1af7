// Every bad argument gets its status and writes nothing.
#include "qvit/qvit.h"

#include <utility>

#include "check.h"
#include "findings.h"

namespace {

constexpr int M = 5, N = 16, K = 64;

struct Sound {
  Array<float> x{M * K}, scale{N}, bias{N};
  Array<uint8_t> weight{N * K}, y{M * N * 4}, workspace{1 << 20};
  QvitLinear linear{};
  Sound() {
    for (size_t i = 0; i < x.count; ++i) x[i] = 1;
    for (size_t i = 0; i < N; ++i) scale[i] = bias[i] = 1;
    for (size_t i = 0; i < weight.count; ++i) weight[i] = 1;
    QvitLinear& l = linear;
    l.x = x.data(), l.weight = weight.data(), l.weight_scale = scale.data(), l.bias = bias.data(), l.y = y.data();
    l.m = M, l.n = N, l.k = K, l.x_stride = K, l.y_stride = N;
    l.x_type = l.y_type = QVIT_FLOAT32, l.weight_bits = 8;
    l.x_grid = l.y_grid = {0.5f, 0, 8};
  }
};

int cases = 0;

template <class Change>
void refused(const char* what, int expected, int tactic, Change change) {
  Sound sound;
  int64_t workspace_bytes = static_cast<int64_t>(sound.workspace.count);
  change(sound.linear, workspace_bytes);
  const int status = qvit_linear(&sound.linear, tactic, sound.workspace.data(), workspace_bytes, nullptr);
  check(status == expected, std::string(what) + ": " + qvit_status_string(status));
  bool untouched = true;
  for (size_t i = 0; i < sound.y.count; ++i) untouched = untouched && sound.y.poisoned(i);
  check(untouched, std::string(what) + ": something was written");
  ++cases;
}

const void* off_by_4(const void* p) { return static_cast<const uint8_t*>(p) + 4; }

}  // namespace

int main() {
  using L = QvitLinear;
  const auto sound = [](L&, int64_t&) {};
  for (int tactic : {-1, qvit_linear_tactics(), 1 << 30}) refused("tactic", QVIT_UNKNOWN_TACTIC, tactic, sound);
  refused("m = 0", QVIT_BAD_SHAPE, 0, [](L& l, int64_t&) { l.m = 0; });
  refused("n < 0", QVIT_BAD_SHAPE, 0, [](L& l, int64_t&) { l.n = -3; });
  refused("k = 0", QVIT_BAD_SHAPE, 0, [](L& l, int64_t&) { l.k = 0; });
  refused("k too large", QVIT_BAD_SHAPE, 0, [](L& l, int64_t&) { l.k = l.x_stride = 65600; });
  refused("w5", QVIT_BAD_BITS, 0, [](L& l, int64_t&) { l.weight_bits = 5; });
  refused("a7", QVIT_BAD_BITS, 0, [](L& l, int64_t&) { l.x_grid.bits = 7; });
  refused("6-bit codes packed as 4", QVIT_BAD_BITS, 0, [](L& l, int64_t&) { l.x_type = QVIT_CODES4, l.x_grid.bits = 6; });
  refused("x type", QVIT_BAD_TYPE, 0, [](L& l, int64_t&) { l.x_type = 4; });
  refused("y type", QVIT_BAD_TYPE, 0, [](L& l, int64_t&) { l.y_type = -1; });
  refused("x stride short", QVIT_BAD_STRIDE, 0, [](L& l, int64_t&) { l.x_stride = K - 4; });
  refused("x stride odd", QVIT_BAD_STRIDE, 0, [](L& l, int64_t&) { l.x_stride = K + 1; });
  refused("y stride short", QVIT_BAD_STRIDE, 0, [](L& l, int64_t&) { l.y_stride = N - 1; });
  refused("x scale 0", QVIT_BAD_SCALE, 0, [](L& l, int64_t&) { l.x_grid.scale = 0; });
  refused("x scale NaN", QVIT_BAD_SCALE, 0, [](L& l, int64_t&) { l.x_grid.scale = NAN; });
  refused("x shift infinite", QVIT_BAD_SCALE, 0, [](L& l, int64_t&) { l.x_grid.shift = INFINITY; });
  refused("y scale < 0", QVIT_BAD_SCALE, 0, [](L& l, int64_t&) { l.y_type = QVIT_CODES8, l.y_grid.scale = -1, l.y_stride = N; });
  refused("x misaligned", QVIT_MISALIGNED, 0, [](L& l, int64_t&) { l.x = off_by_4(l.x); });
  refused("weight misaligned", QVIT_MISALIGNED, 0, [](L& l, int64_t&) { l.weight = off_by_4(l.weight); });
  refused("scale null", QVIT_MISALIGNED, 0, [](L& l, int64_t&) { l.weight_scale = nullptr; });
  refused("bias misaligned", QVIT_MISALIGNED, 0,
          [](L& l, int64_t&) { l.bias = static_cast<const float*>(off_by_4(l.bias)); });
  refused("y null", QVIT_MISALIGNED, 0, [](L& l, int64_t&) { l.y = nullptr; });
  refused("workspace", QVIT_WORKSPACE_TOO_SMALL, 6, [](L& l, int64_t& bytes) { bytes = qvit_linear_workspace(&l, 6) - 1; });

  Sound fine;
  check(qvit_linear(&fine.linear, 0, nullptr, 0, nullptr) == QVIT_OK, "sound arguments");
  check(reinterpret_cast<float*>(fine.y.data())[0] == 2 * 0.5f * K + 1, "value of the sound arguments");

  QvitLayerNorm norm{fine.x.data(), fine.scale.data(), fine.bias.data(), fine.y.data(), M, N, K, N, QVIT_FLOAT32,
                     QVIT_CODES8, 1e-6f, {0.5f, 0, 8}};
  check(qvit_layernorm_quantize(&norm, nullptr) == QVIT_OK, "layernorm");
  const auto norm_refused = [&](const char* what, int expected, QvitLayerNorm n) {
    check(qvit_layernorm_quantize(&n, nullptr) == expected, what), ++cases;
  };
  QvitLayerNorm bad = norm;
  bad.y_type = QVIT_FLOAT32, norm_refused("layernorm to floats", QVIT_BAD_TYPE, bad), bad = norm;
  bad.epsilon = 0, norm_refused("epsilon", QVIT_BAD_SCALE, bad), bad = norm;
  bad.c = 0, norm_refused("channels", QVIT_BAD_SHAPE, bad), bad = norm;
  bad.y_stride = 24, norm_refused("stride of codes", QVIT_BAD_STRIDE, bad), bad = norm;
  bad.gamma = nullptr, norm_refused("gamma", QVIT_MISALIGNED, bad);

  QvitLogAttention attention{fine.x.data(), fine.x.data(), fine.y.data(), 1, 2, 3, 4, 4, 4, 4, QVIT_FLOAT32, 1, 4, 1.0f, 0,
                             {0.5f, 0, 8}};
  check(qvit_softmax_log2_av(&attention, nullptr) == QVIT_OK, "attention");
  const auto attention_refused = [&](const char* what, int expected, QvitLogAttention a) {
    check(qvit_softmax_log2_av(&a, nullptr) == expected, what), ++cases;
  };
  QvitLogAttention odd = attention;
  odd.bits = 5, attention_refused("5 bits of log2", QVIT_BAD_BITS, odd), odd = attention;
  odd.steps = 3, attention_refused("steps", QVIT_BAD_BITS, odd), odd = attention;
  odd.largest = 0, attention_refused("largest", QVIT_BAD_SCALE, odd), odd = attention;
  odd.score_stride = 2, attention_refused("score stride", QVIT_BAD_STRIDE, odd), odd = attention;
  odd.type = QVIT_CODES8, attention_refused("type", QVIT_BAD_TYPE, odd), odd = attention;
  odd.keys = 0, attention_refused("keys", QVIT_BAD_SHAPE, odd), odd = attention;
  odd.out = nullptr, attention_refused("out", QVIT_MISALIGNED, odd);

  // No code for the GPU, or a launch that fails: no kernel takes another way.
  for (const auto [error, expected] : {std::pair{209, QVIT_NO_KERNEL_FOR_DEVICE}, {98, QVIT_NO_KERNEL_FOR_DEVICE},
                                       {719, QVIT_CUDA_ERROR}}) {
    emulated_fail(error);
    for (int tactic = 0; tactic < qvit_linear_tactics(); ++tactic) refused("launch", expected, tactic, sound);
    Array<uint8_t> out(M * N * 4);
    norm.y = attention.out = out.data();
    check(qvit_layernorm_quantize(&norm, nullptr) == expected, "launch of layernorm"), ++cases;
    check(qvit_softmax_log2_av(&attention, nullptr) == expected, "launch of attention"), ++cases;
    check(qvit_last_cuda_error() == error, "which error");
    bool untouched = true;
    for (size_t i = 0; i < out.count; ++i) untouched = untouched && out.poisoned(i);
    check(untouched, "a failed launch wrote something");
    emulated_fail(0);
  }

  uint8_t bytes[1024];
  const int8_t code[1] = {8};
  check(qvit_pack(code, 1, 1, 4, bytes) == QVIT_BAD_BITS, "a code out of range"), ++cases;
  check(qvit_pack(code, 1, 1, 5, bytes) == QVIT_BAD_BITS, "packing at 5 bits"), ++cases;
  check(qvit_pack(code, 0, 1, 4, bytes) == QVIT_BAD_SHAPE, "packing nothing"), ++cases;
  check_clean("errors");
  return finish("errors", cases);
}
