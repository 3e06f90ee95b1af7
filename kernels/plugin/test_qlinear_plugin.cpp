// The plugins of linear layers through TensorRT's interfaces, in the order TensorRT calls them, on the emulated GPU.
#include <cmath>
#include <cstring>

#include "as_tensorrt.h"
#include "qvit/packing.h"
#include "qvit/qvit.h"

using namespace nvinfer1;

int main() {
  Logger logger;
  setLoggerFinder(&logger);
  const std::vector<IPluginCreatorV3One*> creators = creators_of("QLinear");
  check(creators.size() == 6, "six creators");
  Random random{9};
  for (int which = 0; which < 6; ++which) {
    IPluginCreatorV3One* creator = creators[which];
    const int bits = 4 + 2 * (which % 3), n = 40, k = 100, batch = 2, tokens = 17;
    const bool gelu = which >= 3;
    check(creator->getPluginName() == "QLinearW" + std::to_string(bits) + (gelu ? "Gelu" : ""), "name");
    check(std::string(creator->getPluginNamespace()) == "qvit", "namespace");

    const float scale = 0.25f, shift = 0.5f * which;
    const int32_t a_bits = bits, n_field = n, k_field = k, bad = -1;
    std::vector<PluginField> fields = {{"x_scale", &scale, PluginFieldType::kFLOAT32, 1},
                                       {"x_shift", &shift, PluginFieldType::kFLOAT32, 1},
                                       {"x_bits", &a_bits, PluginFieldType::kINT32, 1},
                                       {"n", &n_field, PluginFieldType::kINT32, 1},
                                       {"k", &k_field, PluginFieldType::kINT32, 1}};
    check_fields(creator, fields, logger);
    const PluginFieldCollection complete{5, fields.data()};
    fields[3].data = &bad;
    check(creator->createPlugin("fc1", &complete, TensorRTPhase::kBUILD) == nullptr, "n < 0");
    check(logger.heard("n and k have to be positive"), "the logger hears why");
    fields[3].data = &n_field;

    const std::unique_ptr<IPluginV3> built(creator->createPlugin("fc1", &complete, TensorRTPhase::kBUILD));
    if (!check(built != nullptr, "createPlugin")) return 1;
    auto* build = static_cast<IPluginV3OneBuild*>(built->getCapabilityInterface(PluginCapabilityType::kBUILD));
    DynamicPluginTensorDesc tensors[] = {tensor(DataType::kFLOAT, {batch, tokens, k}),
                                         tensor(DataType::kINT8, {qvit::packed_bytes(n, k, bits)}),
                                         tensor(DataType::kFLOAT, {n}), tensor(DataType::kFLOAT, {n}),
                                         tensor(DataType::kFLOAT, {batch, tokens, n})};
    for (int i = 0; i < 5; ++i) check(build->supportsFormatCombination(i, tensors, 4, 1), "format " + std::to_string(i));
    check(!build->supportsFormatCombination(5, tensors, 4, 1) && !build->supportsFormatCombination(-1, tensors, 4, 1),
          "positions that are none");
    tensors[4].desc.type = DataType::kHALF;
    check(!build->supportsFormatCombination(4, tensors, 4, 1), "half from float");
    tensors[4].desc.type = DataType::kFLOAT;
    tensors[0].desc.type = DataType::kHALF;
    check(!build->supportsFormatCombination(0, tensors, 4, 1), "half rows of 200 bytes");
    tensors[0].desc.type = DataType::kFLOAT;
    check(build->configurePlugin(tensors, 4, tensors + 4, 1) == 0, "configure");
    tensors[2].desc.dims.d[0] = n + 1;
    check(build->configurePlugin(tensors, 4, tensors + 4, 1) != 0, "a scale too many");
    tensors[2].desc.dims.d[0] = n;
    std::vector<int32_t> tactics(build->getNbTactics());
    check(build->getValidTactics(tactics.data(), build->getNbTactics()) == 0 && tactics[0] > 0, "tactics");
    Array<uint8_t> workspace(build->getWorkspaceSize(tensors, 4, tensors + 4, 1));

    const Attached attached(creator, built.get());
    IPluginV3OneRuntime* runtime = attached.runtime;
    check(runtime->setTactic(1000) != 0 && logger.heard("unknown tactic"), "tactic 1000");

    const int rows = batch * tokens, half = 1 << (bits - 1);
    Array<float> x(rows * k), weight_scale(n), bias(n), y(rows * n);
    std::vector<int> codes(rows * k);
    for (int i = 0; i < rows * k; ++i) codes[i] = random.between(-half, half - 1), x[i] = codes[i] * scale - shift;
    std::vector<int8_t> weight(n * k);
    for (auto& w : weight) w = static_cast<int8_t>(random.between(-half, half - 1));
    for (int i = 0; i < n; ++i) weight_scale[i] = 0.5f, bias[i] = static_cast<float>(i);
    Array<uint8_t> packed(qvit::packed_bytes(n, k, bits));
    qvit::pack(weight.data(), n, k, bits, packed.data());
    const void* inputs[] = {x.data(), packed.data(), weight_scale.data(), bias.data()};
    void* outputs[] = {y.data()};
    PluginTensorDesc descs[5];
    for (int i = 0; i < 5; ++i) descs[i] = tensors[i].desc;
    check(runtime->onShapeChange(descs, 4, descs + 4, 1) == 0, "onShapeChange");
    for (int32_t tactic : tactics) {
      check(runtime->setTactic(tactic) == 0, "setTactic");
      std::memset(y.data(), 0xEB, y.size_bytes());
      check(runtime->enqueue(descs, descs + 4, inputs, outputs, workspace.data(), nullptr) == 0, "enqueue");
      int wrong = 0;
      for (int m = 0; m < rows; ++m)
        for (int j = 0; j < n; ++j) {
          int sum = 0;
          for (int i = 0; i < k; ++i) sum += codes[m * k + i] * weight[j * k + i];
          const float linear = static_cast<float>(sum) * 0.125f + bias[j];
          const double wanted = gelu ? 0.5 * linear * (1 + std::erf(linear / std::sqrt(2.0))) : linear;
          wrong += gelu ? std::fabs(y[m * n + j] - wanted) > 2e-6 * std::fabs(wanted) + 2e-7 : y[m * n + j] != linear;
        }
      check(wrong == 0, "w" + std::to_string(bits) + " tactic " + std::to_string(tactic) + ": " + std::to_string(wrong));
    }
    inputs[0] = x.data() + 1;
    check(runtime->enqueue(descs, descs + 4, inputs, outputs, workspace.data(), nullptr) == QVIT_MISALIGNED, "misaligned");
    check(logger.heard("not aligned"), "the logger hears of it");
    inputs[0] = x.data();
    emulated_fail(209);
    check(runtime->enqueue(descs, descs + 4, inputs, outputs, workspace.data(), nullptr) == QVIT_NO_KERNEL_FOR_DEVICE,
          "a GPU the library holds no code for");
    check(logger.heard("holds no kernel for this GPU"), "the logger hears of that");
    emulated_fail(0);
    check_clean("plugin");
  }
  return finish("qlinear_plugin", 6);
}
