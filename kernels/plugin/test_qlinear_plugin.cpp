// The plugins of linear layers through TensorRT's interfaces, in the order TensorRT calls them, on the emulated GPU.
#include <cmath>
#include <cstring>

#include "as_tensorrt.h"
#include "qvit/packing.h"
#include "qvit/qvit.h"

using namespace nvinfer1;

namespace {

constexpr int kBatch = 2, kTokens = 17, kRows = kBatch * kTokens, kOut = 40;
constexpr int32_t kOnnxFloat = 1, kOnnxFloat16 = 10;
constexpr float kScale = 0.25f;

// One of the 18 operators and what it is tried with.
struct Variant {
  int bits, container_bits;  // of weights, and of the codes that it reads: 0 where it quantizes
  bool gelu;
  int k, a_bits;
  float shift;
  int32_t to;

  Variant(int which)
      : bits(4 + 2 * (which % 3)), container_bits(which / 3 % 3 == 0 ? 0 : which / 3 % 3 == 1 ? 8 : 4), gelu(which >= 9) {
    k = container_bits == 0 ? 100 : container_bits == 8 ? 112 : 96;
    a_bits = container_bits == 4 ? 4 : bits;
    shift = container_bits == 0 ? 0.5f * static_cast<float>(which) : 0;
    to = kOnnxFloat;
  }
  std::string name() const {
    return "QLinearW" + std::to_string(bits) + (container_bits != 0 ? "Codes" + std::to_string(container_bits) : "") +
           (gelu ? "Gelu" : "");
  }
  int64_t row() const { return container_bits != 0 ? k * container_bits / 8 : k; }
  DataType x_type() const { return container_bits != 0 ? DataType::kINT8 : DataType::kFLOAT; }
  std::vector<PluginField> fields() const {
    static const int32_t n = kOut;
    std::vector<PluginField> all = {{"x_scale", &kScale, PluginFieldType::kFLOAT32, 1},
                                    {"x_bits", &a_bits, PluginFieldType::kINT32, 1},
                                    {"n", &n, PluginFieldType::kINT32, 1},
                                    {"k", &k, PluginFieldType::kINT32, 1}};
    if (container_bits == 0) all.push_back({"x_shift", &shift, PluginFieldType::kFLOAT32, 1});
    if (container_bits != 0) all.push_back({"to", &to, PluginFieldType::kINT32, 1});
    return all;
  }
  std::vector<DynamicPluginTensorDesc> tensors(DataType y) const {
    return {tensor(x_type(), {kBatch, kTokens, row()}), tensor(DataType::kINT8, {qvit::packed_bytes(kOut, k, bits)}),
            tensor(DataType::kFLOAT, {kOut}), tensor(DataType::kFLOAT, {kOut}), tensor(y, {kBatch, kTokens, kOut})};
  }
};

IPluginV3* make(IPluginCreatorV3One* creator, const std::vector<PluginField>& fields) {
  const PluginFieldCollection given{static_cast<int32_t>(fields.size()), fields.data()};
  return creator->createPlugin("fc1", &given, TensorRTPhase::kBUILD);
}

void check_attributes(IPluginCreatorV3One* creator, const Variant& v, const Logger& logger) {
  check_fields(creator, v.fields(), logger);
  std::vector<PluginField> fields = v.fields();
  const int32_t bad = -1;
  fields[2].data = &bad;
  check(make(creator, fields) == nullptr && logger.heard("n and k have to be positive"), "n < 0: " + logger.last);
  if (v.container_bits == 0) return;
  const auto refused = [&](Variant other, const char* words) {
    check(make(creator, other.fields()) == nullptr && logger.heard(words), std::string(words) + ": " + logger.last);
  };
  Variant other = v;
  other.to = 6, refused(other, "to is 1");
  other = v, other.k += 8, refused(other, "multiples of 16 bytes");
  other = v, other.a_bits = 2 * v.container_bits, refused(other, "x_bits");
}

void check_formats(IPluginV3OneBuild* build, const Variant& v) {
  std::vector<DynamicPluginTensorDesc> tensors = v.tensors(DataType::kFLOAT);
  const auto takes = [&](int position) { return build->supportsFormatCombination(position, tensors.data(), 4, 1); };
  for (int i = 0; i < 5; ++i) check(takes(i), "format " + std::to_string(i));
  check(!takes(5) && !takes(-1), "positions that are none");
  tensors[4].desc.type = DataType::kHALF;
  check(!takes(4), "half from an operator of float");
  tensors[4].desc.type = DataType::kFLOAT;
  tensors[0].desc.type = DataType::kHALF;
  check(!takes(0), v.container_bits != 0 ? "half codes" : "half rows of 200 bytes");
  tensors[0].desc.type = v.x_type();
  check(build->configurePlugin(tensors.data(), 4, tensors.data() + 4, 1) == 0, "configure");
  for (int i : {0, 2}) {
    ++tensors[i].desc.dims.d[tensors[i].desc.dims.nbDims - 1];
    check(build->configurePlugin(tensors.data(), 4, tensors.data() + 4, 1) != 0, "a column or a scale too many");
    --tensors[i].desc.dims.d[tensors[i].desc.dims.nbDims - 1];
  }
  DataType y = DataType::kINT8, in[] = {v.x_type(), DataType::kINT8, DataType::kFLOAT, DataType::kFLOAT};
  check(build->getOutputDataTypes(&y, 1, in, 4) == 0 && y == DataType::kFLOAT, "type of the output");
}

// x and weights, what TensorRT would hand over, and the products of their integers.
struct Problem {
  Array<float> values, weight_scale, bias;
  Array<int8_t> codes;
  Array<uint8_t> packed;
  std::vector<int> sums;

  Problem(const Variant& v, Random& random)
      : values(kRows * v.k), weight_scale(kOut), bias(kOut), codes(v.container_bits != 0 ? kRows * v.row() : 16),
        packed(qvit::packed_bytes(kOut, v.k, v.bits)), sums(kRows * kOut) {
    const int half = 1 << (v.bits - 1), a_half = 1 << (v.a_bits - 1);
    std::vector<int> x(kRows * v.k);
    std::memset(codes.data(), 0, codes.size_bytes());
    for (int i = 0; i < kRows * v.k; ++i) {
      x[i] = random.between(-a_half, a_half - 1), values[i] = static_cast<float>(x[i]) * kScale - v.shift;
      const int row = i / v.k, column = i % v.k;
      if (v.container_bits == 8) codes[i] = static_cast<int8_t>(x[i]);
      if (v.container_bits == 4)
        codes[row * v.row() + column / 32 * 16 + column % 16] |=
            static_cast<int8_t>((x[i] & 15) << (column % 32 / 16 * 4));
    }
    std::vector<int8_t> weight(kOut * v.k);
    for (auto& w : weight) w = static_cast<int8_t>(random.between(-half, half - 1));
    for (int i = 0; i < kOut; ++i) weight_scale[i] = 0.5f, bias[i] = static_cast<float>(i);
    qvit::pack(weight.data(), kOut, v.k, v.bits, packed.data());
    for (int m = 0; m < kRows; ++m)
      for (int j = 0; j < kOut; ++j)
        for (int i = 0; i < v.k; ++i) sums[m * kOut + j] += x[m * v.k + i] * weight[j * v.k + i];
  }
  const void* x(const Variant& v) {
    return v.container_bits != 0 ? static_cast<const void*>(codes.data()) : values.data();
  }
  int wrong(const float* y, bool gelu) {
    int count = 0;
    for (int i = 0; i < kRows * kOut; ++i) {
      const float linear = static_cast<float>(sums[i]) * 0.125f + bias[i % kOut];
      const double wanted = gelu ? 0.5 * linear * (1 + std::erf(linear / std::sqrt(2.0))) : linear;
      count += gelu ? std::fabs(y[i] - wanted) > 2e-6 * std::fabs(wanted) + 2e-7 : y[i] != linear;
    }
    return count;
  }
};

void check_results(IPluginCreatorV3One* creator, const Variant& v, Random& random, Logger& logger) {
  const std::unique_ptr<IPluginV3> built(make(creator, v.fields()));
  if (!check(built != nullptr, "createPlugin: " + logger.last)) return;
  auto* build = static_cast<IPluginV3OneBuild*>(built->getCapabilityInterface(PluginCapabilityType::kBUILD));
  check_formats(build, v);
  const std::vector<DynamicPluginTensorDesc> tensors = v.tensors(DataType::kFLOAT);
  std::vector<int32_t> tactics(build->getNbTactics());
  check(build->getValidTactics(tactics.data(), build->getNbTactics()) == 0 && tactics[0] > 0, "tactics");
  Array<uint8_t> workspace(build->getWorkspaceSize(tensors.data(), 4, tensors.data() + 4, 1));
  const Attached attached(creator, built.get());
  IPluginV3OneRuntime* runtime = attached.runtime;
  check(runtime->setTactic(1000) != 0 && logger.heard("unknown tactic"), "tactic 1000");

  Problem problem(v, random);
  Array<float> y(kRows * kOut);
  const void* inputs[] = {problem.x(v), problem.packed.data(), problem.weight_scale.data(), problem.bias.data()};
  void* outputs[] = {y.data()};
  PluginTensorDesc descs[5];
  for (int i = 0; i < 5; ++i) descs[i] = tensors[i].desc;
  const auto run = [&] { return runtime->enqueue(descs, descs + 4, inputs, outputs, workspace.data(), nullptr); };
  check(runtime->onShapeChange(descs, 4, descs + 4, 1) == 0, "onShapeChange");
  for (int32_t tactic : tactics) {
    check(runtime->setTactic(tactic) == 0, "setTactic");
    std::memset(y.data(), 0xEB, y.size_bytes());
    check(run() == 0, "enqueue: " + logger.last);
    const int wrong = problem.wrong(y.data(), v.gelu);
    check(wrong == 0, v.name() + " tactic " + std::to_string(tactic) + ": " + std::to_string(wrong));
  }
  inputs[0] = static_cast<const char*>(problem.x(v)) + 4;
  check(run() == QVIT_MISALIGNED && logger.heard("not aligned"), "misaligned: " + logger.last);
  inputs[0] = problem.x(v);
  emulated_fail(209);
  check(run() == QVIT_NO_KERNEL_FOR_DEVICE && logger.heard("holds no kernel for this GPU"),
        "a GPU the library holds no code for: " + logger.last);
  emulated_fail(0);
}

// Of codes, the attribute says what the result is: float16 here, as qvit_linear rounds it.
void check_half(IPluginCreatorV3One* creator, Variant v, Random& random, Logger& logger) {
  v.to = kOnnxFloat16;
  const std::unique_ptr<IPluginV3> built(make(creator, v.fields()));
  if (!check(built != nullptr, "createPlugin: " + logger.last)) return;
  auto* build = static_cast<IPluginV3OneBuild*>(built->getCapabilityInterface(PluginCapabilityType::kBUILD));
  DataType type = DataType::kINT8, in[] = {DataType::kINT8, DataType::kINT8, DataType::kFLOAT, DataType::kFLOAT};
  check(build->getOutputDataTypes(&type, 1, in, 4) == 0 && type == DataType::kHALF, "float16 is asked for");
  const std::vector<DynamicPluginTensorDesc> tensors = v.tensors(DataType::kHALF);
  check(build->supportsFormatCombination(4, tensors.data(), 4, 1), "a float16 output");
  const Attached attached(creator, built.get());
  Array<uint8_t> workspace(build->getWorkspaceSize(tensors.data(), 4, tensors.data() + 4, 1));
  Problem problem(v, random);
  Array<uint16_t> y(kRows * kOut), wanted(kRows * kOut);
  const void* inputs[] = {problem.x(v), problem.packed.data(), problem.weight_scale.data(), problem.bias.data()};
  void* outputs[] = {y.data()};
  PluginTensorDesc descs[5];
  for (int i = 0; i < 5; ++i) descs[i] = tensors[i].desc;
  check(attached.runtime->enqueue(descs, descs + 4, inputs, outputs, workspace.data(), nullptr) == 0, "enqueue");
  QvitLinear direct{};
  direct.x = problem.x(v), direct.weight = problem.packed.data(), direct.y = wanted.data();
  direct.weight_scale = problem.weight_scale.data(), direct.bias = problem.bias.data();
  direct.m = kRows, direct.n = direct.y_stride = kOut, direct.k = direct.x_stride = v.k;
  direct.x_type = v.container_bits == 4 ? QVIT_CODES4 : QVIT_CODES8, direct.y_type = QVIT_FLOAT16;
  direct.weight_bits = v.bits, direct.x_grid = direct.y_grid = {kScale, 0, v.a_bits}, direct.gelu = v.gelu;
  check(qvit_linear(&direct, 0, workspace.data(), static_cast<int64_t>(workspace.count), nullptr) == QVIT_OK, "the kernel");
  check(std::memcmp(y.data(), wanted.data(), y.size_bytes()) == 0, v.name() + " in float16");
  check(y.guards_intact() && !y.poisoned(0), "wrote beyond its array, or nothing");
}

}  // namespace

int main() {
  Logger logger;
  setLoggerFinder(&logger);
  const std::vector<IPluginCreatorV3One*> creators = creators_of("QLinear");
  if (!check(creators.size() == 18, "eighteen creators")) return finish("qlinear_plugin", 0);
  Random random{9};
  for (int which = 0; which < 18; ++which) {
    const Variant variant(which);
    check(creators[which]->getPluginName() == variant.name(), "name");
    check(std::string(creators[which]->getPluginNamespace()) == "qvit", "namespace");
    check_attributes(creators[which], variant, logger);
    check_results(creators[which], variant, random, logger);
    if (variant.container_bits != 0 && !variant.gelu) check_half(creators[which], variant, random, logger);
    check_clean("plugin");
  }
  return finish("qlinear_plugin", 18);
}
