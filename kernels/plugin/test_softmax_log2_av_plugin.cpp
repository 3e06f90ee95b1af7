// The plugin of logarithmic attention through TensorRT's interfaces, in the order TensorRT calls them, on the emulated GPU.
// Its results have to be those of qvit_softmax_log2_av, which kernels/tests compares with plain loops, bit for bit.
#include <cmath>
#include <cstring>

#include "as_tensorrt.h"
#include "qvit/qvit.h"

using namespace nvinfer1;

namespace {

struct Attributes {
  int32_t steps, bits, by_row, v_bits;
  float largest, v_scale;
  std::vector<PluginField> fields() const {
    return {{"steps", &steps, PluginFieldType::kINT32, 1},       {"bits", &bits, PluginFieldType::kINT32, 1},
            {"largest", &largest, PluginFieldType::kFLOAT32, 1}, {"by_row", &by_row, PluginFieldType::kINT32, 1},
            {"v_scale", &v_scale, PluginFieldType::kFLOAT32, 1}, {"v_bits", &v_bits, PluginFieldType::kINT32, 1}};
  }
};

IPluginV3* make(IPluginCreatorV3One* creator, const Attributes& attributes) {
  const std::vector<PluginField> fields = attributes.fields();
  const PluginFieldCollection given{static_cast<int32_t>(fields.size()), fields.data()};
  return creator->createPlugin("attn.av", &given, TensorRTPhase::kBUILD);
}

void check_attributes(IPluginCreatorV3One* creator, const Logger& logger) {
  const Attributes good{2, 5, 1, 8, 1.0f, 0.05f};
  check_fields(creator, good.fields(), logger);
  const auto refused = [&](Attributes bad, const char* what, const char* words) {
    check(make(creator, bad) == nullptr && logger.heard(words), std::string(what) + ": " + logger.last);
  };
  Attributes bad = good;
  bad.bits = 6, refused(bad, "6 bits", "width");
  bad = good, bad.steps = 1, refused(bad, "5 bits of one step", "width");
  bad = good, bad.steps = 3, refused(bad, "3 steps", "width");
  bad = good, bad.v_bits = 5, refused(bad, "5-bit values", "width");
  bad = good, bad.v_scale = 0, refused(bad, "scale 0", "scale");
  bad = good, bad.largest = NAN, refused(bad, "largest NaN", "scale");
  bad = good, bad.by_row = 2, refused(bad, "by_row 2", "by_row");
}

void check_formats(IPluginV3OneBuild* build, const Logger& logger) {
  for (DataType type : {DataType::kHALF, DataType::kFLOAT}) {
    DynamicPluginTensorDesc tensors[] = {tensor(type, {2, 3, 7, 50}), tensor(type, {2, 3, 50, 9}),
                                         tensor(type, {2, 3, 7, 9})};
    for (int i = 0; i < 3; ++i) check(build->supportsFormatCombination(i, tensors, 2, 1), "format " + std::to_string(i));
    check(!build->supportsFormatCombination(3, tensors, 2, 1) && !build->supportsFormatCombination(-1, tensors, 2, 1) &&
              !build->supportsFormatCombination(0, tensors, 3, 1),
          "positions and inputs that are none");
    tensors[1].desc.type = DataType::kINT8;
    check(!build->supportsFormatCombination(1, tensors, 2, 1), "int8 values");
    tensors[0].desc.type = DataType::kINT8;
    check(!build->supportsFormatCombination(0, tensors, 2, 1), "int8 scores");
    tensors[0].desc.type = type, tensors[0].desc.format = TensorFormat::kCHW32;
    check(!build->supportsFormatCombination(0, tensors, 2, 1), "scores that are not linear");
  }
  const auto refused = [&](std::vector<int64_t> scores, std::vector<int64_t> values, const char* what) {
    const DynamicPluginTensorDesc in[] = {tensor(DataType::kHALF, scores), tensor(DataType::kHALF, values)};
    check(build->configurePlugin(in, 2, in, 1) == QVIT_BAD_SHAPE && logger.heard("size"), what);
  };
  refused({2, 3, 7, 50}, {2, 3, 51, 9}, "another number of keys");
  refused({2, 3, 7, 50}, {2, 4, 50, 9}, "another number of heads");
  refused({6, 7, 50}, {2, 3, 50, 9}, "another rank");
  refused({50}, {50}, "no rows");
  refused({1 << 13, 9, 7, 50}, {1 << 13, 9, 50, 9}, "more products than a grid of blocks has rows");
  refused({1LL << 31, 1LL << 31, 7, 50}, {1LL << 31, 1LL << 31, 50, 9}, "sizes beyond int32");
}

void fill(Array<float>& a, Random& random) {
  for (size_t i = 0; i < a.count; ++i) a[i] = 2 * random.normal();
}
void fill(Array<uint16_t>& a, Random& random) {  // float16: magnitudes from 2^-4 to 8, of both signs
  for (size_t i = 0; i < a.count; ++i)
    a[i] = static_cast<uint16_t>(random.below(2) << 15 | random.between(11, 17) << 10 | random.below(1024));
}

// Random scores and values of a batch, once through the plugin and once through the kernel.
template <class Element>
void check_results(IPluginV3OneRuntime* runtime, const Attributes& a, int images, Random& random, const Logger& logger) {
  const int heads = 3, queries = 37, keys = 70, width = 21, batch = images * heads;
  const DataType type = sizeof(Element) == 2 ? DataType::kHALF : DataType::kFLOAT;
  const DynamicPluginTensorDesc tensors[] = {tensor(type, {images, heads, queries, keys}),
                                             tensor(type, {images, heads, keys, width}),
                                             tensor(type, {images, heads, queries, width})};
  const PluginTensorDesc descs[] = {tensors[0].desc, tensors[1].desc, tensors[2].desc};
  Array<Element> scores(static_cast<size_t>(batch) * queries * keys), values(static_cast<size_t>(batch) * keys * width);
  Array<Element> out(static_cast<size_t>(batch) * queries * width), wanted(out.count);
  fill(scores, random), fill(values, random);
  const void* inputs[] = {scores.data(), values.data()};
  void* outputs[] = {out.data()};
  check(runtime->onShapeChange(descs, 2, descs + 2, 1) == 0, "onShapeChange");
  check(runtime->enqueue(descs, descs + 2, inputs, outputs, nullptr, nullptr) == 0, "enqueue");

  QvitLogAttention direct{scores.data(), values.data(), wanted.data(), batch, queries, keys, width, keys, width, width,
                          type == DataType::kHALF ? QVIT_FLOAT16 : QVIT_FLOAT32, a.steps, a.bits, a.largest, a.by_row,
                          {a.v_scale, 0, a.v_bits}};
  check(qvit_softmax_log2_av(&direct, nullptr) == QVIT_OK, "the kernel itself");
  check(std::memcmp(out.data(), wanted.data(), out.size_bytes()) == 0 && !out.poisoned(0), "results");
  check(out.guards_intact(), "wrote beyond its array");

  inputs[1] = reinterpret_cast<const char*>(values.data()) + 4;
  check(runtime->enqueue(descs, descs + 2, inputs, outputs, nullptr, nullptr) == QVIT_MISALIGNED, "misaligned");
  check(logger.heard("not aligned"), "the logger hears of it");
  inputs[1] = nullptr;
  check(runtime->enqueue(descs, descs + 2, inputs, outputs, nullptr, nullptr) == QVIT_MISALIGNED, "null");
  inputs[1] = values.data();
  PluginTensorDesc other[] = {descs[0], descs[2], descs[2]};
  check(runtime->onShapeChange(other, 2, descs + 2, 1) == QVIT_BAD_SHAPE, "shapes that do not go together");
  check(runtime->enqueue(other, descs + 2, inputs, outputs, nullptr, nullptr) == QVIT_BAD_SHAPE, "the same, run");
  emulated_fail(209);
  check(runtime->enqueue(descs, descs + 2, inputs, outputs, nullptr, nullptr) == QVIT_NO_KERNEL_FOR_DEVICE,
        "a GPU the library holds no code for");
  check(logger.heard("holds no kernel for this GPU"), "the logger hears of that");
  emulated_fail(0);
}

}  // namespace

int main() {
  Logger logger;
  setLoggerFinder(&logger);
  const std::vector<IPluginCreatorV3One*> creators = creators_of("SoftmaxLog2AV");
  if (!check(creators.size() == 1, "one creator")) return finish("softmax_log2_av_plugin", 0);
  check(std::string(creators[0]->getPluginNamespace()) == "qvit", "namespace");
  check_attributes(creators[0], logger);
  Random random{12};
  int cases = 0;
  for (int steps : {1, 2})
    for (int bits = 2; bits <= 3 + steps; ++bits)
      for (int by_row : {0, 1}) {
        const Attributes attributes{steps, bits, by_row, 4 + 2 * (bits % 3), by_row != 0 ? 1.0f : 0.4f, 0.1f};
        const std::unique_ptr<IPluginV3> built(make(creators[0], attributes));
        if (!check(built != nullptr, "createPlugin: " + logger.last)) continue;
        auto* build = static_cast<IPluginV3OneBuild*>(built->getCapabilityInterface(PluginCapabilityType::kBUILD));
        check_formats(build, logger);
        DynamicPluginTensorDesc varying[] = {tensor(DataType::kHALF, {-1, 3, 37, 70}),
                                             tensor(DataType::kHALF, {-1, 3, 70, 21})};
        for (DynamicPluginTensorDesc& t : varying) t.min.d[0] = 1, t.max.d[0] = 2;
        check(build->configurePlugin(varying, 2, varying, 1) == 0, "a batch of 1 to 2: " + logger.last);
        check(build->getNbTactics() == 0, "no tactics");
        check(build->getWorkspaceSize(varying, 2, varying, 1) == 0, "no workspace");
        DataType out = DataType::kINT8, in[] = {DataType::kHALF, DataType::kHALF};
        check(build->getOutputDataTypes(&out, 1, in, 2) == 0 && out == DataType::kHALF, "type of the output");

        const Attached attached(creators[0], built.get());
        check(attached.runtime->setTactic(0) == 0, "tactic 0");
        check(attached.runtime->setTactic(1) != 0 && logger.heard("unknown tactic"), "tactic 1");
        for (int images : {1, 2}) {
          check_results<uint16_t>(attached.runtime, attributes, images, random, logger);
          check_results<float>(attached.runtime, attributes, images, random, logger);
          cases += 2;
        }
        check_clean("softmax_log2_av_plugin");
      }
  return finish("softmax_log2_av_plugin", cases);
}
