// The plugins of LayerNorms that write codes through TensorRT's interfaces, in the order TensorRT calls them, on the
// emulated GPU. Their codes have to be those of qvit_layernorm_quantize, which kernels/tests compares with plain loops.
#include <cmath>
#include <cstring>

#include "as_tensorrt.h"
#include "qvit/qvit.h"

using namespace nvinfer1;

namespace {

struct Attributes {
  float epsilon, y_scale, y_shift;
  int32_t y_bits, c;
  std::vector<PluginField> fields() const {
    return {{"epsilon", &epsilon, PluginFieldType::kFLOAT32, 1},
            {"y_scale", &y_scale, PluginFieldType::kFLOAT32, 1},
            {"y_shift", &y_shift, PluginFieldType::kFLOAT32, 1},
            {"y_bits", &y_bits, PluginFieldType::kINT32, 1},
            {"c", &c, PluginFieldType::kINT32, 1}};
  }
};

IPluginV3* make(IPluginCreatorV3One* creator, const Attributes& attributes) {
  const std::vector<PluginField> fields = attributes.fields();
  const PluginFieldCollection given{static_cast<int32_t>(fields.size()), fields.data()};
  return creator->createPlugin("norm1", &given, TensorRTPhase::kBUILD);
}

void check_attributes(IPluginCreatorV3One* creator, const Attributes& good, const Logger& logger) {
  check_fields(creator, good.fields(), logger);
  const auto refused = [&](Attributes bad, const char* what, const char* words) {
    check(make(creator, bad) == nullptr && logger.heard(words), std::string(what) + ": " + logger.last);
  };
  Attributes bad = good;
  bad.y_bits = 5, refused(bad, "5 bits", "width");
  bad = good, bad.c = 0, refused(bad, "no channels", "size");
  bad = good, bad.c = good.c + 8, refused(bad, "rows of codes that are not aligned", "stride");
  bad = good, bad.y_scale = 0, refused(bad, "scale 0", "scale");
  bad = good, bad.epsilon = NAN, refused(bad, "epsilon NaN", "scale");
}

void check_formats(IPluginV3OneBuild* build, int c, int bytes, const Logger& logger) {
  for (DataType type : {DataType::kHALF, DataType::kFLOAT}) {
    DynamicPluginTensorDesc tensors[] = {tensor(type, {2, 7, c}), tensor(DataType::kFLOAT, {c}),
                                         tensor(DataType::kFLOAT, {c}), tensor(DataType::kINT8, {2, 7, bytes})};
    for (int i = 0; i < 4; ++i) check(build->supportsFormatCombination(i, tensors, 3, 1), "format " + std::to_string(i));
    check(!build->supportsFormatCombination(4, tensors, 3, 1) && !build->supportsFormatCombination(-1, tensors, 3, 1) &&
              !build->supportsFormatCombination(0, tensors, 2, 1),
          "positions and inputs that are none");
    check(build->configurePlugin(tensors, 3, tensors + 3, 1) == 0, "configure: " + logger.last);
    for (int i = 1; i < 4; ++i) {
      const DataType right = tensors[i].desc.type;
      tensors[i].desc.type = DataType::kHALF;
      check(!build->supportsFormatCombination(i, tensors, 3, 1), "half at " + std::to_string(i));
      tensors[i].desc.type = right;
    }
    for (int i = 0; i < 3; ++i) {
      int64_t& size = tensors[i].desc.dims.d[tensors[i].desc.dims.nbDims - 1];
      ++size;
      check(build->configurePlugin(tensors, 3, tensors + 3, 1) != 0 && logger.heard("do not fit"), "another c");
      --size;
    }
    tensors[0].desc.type = DataType::kINT8;
    check(!build->supportsFormatCombination(0, tensors, 3, 1), "int8 x");
    tensors[0].desc.type = type, tensors[0].desc.format = TensorFormat::kCHW32;
    check(!build->supportsFormatCombination(0, tensors, 3, 1), "x that is not linear");
  }
  DataType out = DataType::kFLOAT, in[] = {DataType::kHALF, DataType::kFLOAT, DataType::kFLOAT};
  check(build->getOutputDataTypes(&out, 1, in, 3) == 0 && out == DataType::kINT8, "codes are int8");
  check(build->getOutputDataTypes(&out, 1, in, 2) != 0, "two inputs");
  check(build->getNbTactics() == 0, "no tactics");
}

void fill(Array<float>& a, Random& random) {
  for (size_t i = 0; i < a.count; ++i) a[i] = 2 * random.normal();
}
void fill(Array<uint16_t>& a, Random& random) {  // float16: magnitudes from 2^-4 to 8, of both signs
  for (size_t i = 0; i < a.count; ++i)
    a[i] = static_cast<uint16_t>(random.below(2) << 15 | random.between(11, 17) << 10 | random.below(1024));
}

// Random rows, once through the plugin and once through the kernel.
template <class Element>
void check_results(IPluginV3OneRuntime* runtime, const Attributes& a, int container_bits, int images, Random& random,
                   const Logger& logger) {
  const int tokens = 5, rows = images * tokens, bytes = a.c * container_bits / 8;
  const DataType type = sizeof(Element) == 2 ? DataType::kHALF : DataType::kFLOAT;
  const DynamicPluginTensorDesc tensors[] = {tensor(type, {images, tokens, a.c}), tensor(DataType::kFLOAT, {a.c}),
                                             tensor(DataType::kFLOAT, {a.c}),
                                             tensor(DataType::kINT8, {images, tokens, bytes})};
  const PluginTensorDesc descs[] = {tensors[0].desc, tensors[1].desc, tensors[2].desc, tensors[3].desc};
  Array<Element> x(static_cast<size_t>(rows) * a.c);
  Array<float> gamma(a.c), beta(a.c);
  Array<int8_t> codes(static_cast<size_t>(rows) * bytes), wanted(codes.count);
  fill(x, random), fill(gamma, random), fill(beta, random);
  const void* inputs[] = {x.data(), gamma.data(), beta.data()};
  void* outputs[] = {codes.data()};
  check(runtime->onShapeChange(descs, 3, descs + 3, 1) == 0, "onShapeChange");
  check(runtime->enqueue(descs, descs + 3, inputs, outputs, nullptr, nullptr) == 0, "enqueue: " + logger.last);

  const QvitLayerNorm direct{x.data(),  gamma.data(), beta.data(), wanted.data(), rows, a.c, a.c, a.c,
                             type == DataType::kHALF ? QVIT_FLOAT16 : QVIT_FLOAT32,
                             container_bits == 4 ? QVIT_CODES4 : QVIT_CODES8, a.epsilon,
                             {a.y_scale, a.y_shift, a.y_bits}};
  check(qvit_layernorm_quantize(&direct, nullptr) == QVIT_OK, "the kernel itself");
  check(std::memcmp(codes.data(), wanted.data(), codes.size_bytes()) == 0, "codes");
  int different = 0;
  for (size_t i = 1; i < codes.count; ++i) different += codes[i] != codes[0];
  check(different > static_cast<int>(codes.count) / 2, "codes that say something");
  check(codes.guards_intact(), "wrote beyond its array");

  inputs[2] = beta.data() + 1;
  check(runtime->enqueue(descs, descs + 3, inputs, outputs, nullptr, nullptr) == QVIT_MISALIGNED, "misaligned");
  check(logger.heard("not aligned"), "the logger hears of it");
  inputs[2] = beta.data();
  PluginTensorDesc many[] = {descs[0], descs[1], descs[2], descs[3]};
  many[0].dims.d[0] = many[0].dims.d[1] = 1LL << 20;
  check(runtime->enqueue(many, descs + 3, inputs, outputs, nullptr, nullptr) == QVIT_BAD_SHAPE, "rows beyond int32");
  emulated_fail(209);
  check(runtime->enqueue(descs, descs + 3, inputs, outputs, nullptr, nullptr) == QVIT_NO_KERNEL_FOR_DEVICE,
        "a GPU the library holds no code for");
  check(logger.heard("holds no kernel for this GPU"), "the logger hears of that");
  emulated_fail(0);
}

}  // namespace

int main() {
  Logger logger;
  setLoggerFinder(&logger);
  const std::vector<IPluginCreatorV3One*> creators = creators_of("LayerNormQuantize");
  if (!check(creators.size() == 2, "two creators")) return finish("layernorm_quantize_plugin", 0);
  Random random{14};
  int cases = 0;
  for (int which = 0; which < 2; ++which) {
    IPluginCreatorV3One* creator = creators[which];
    const int container_bits = which == 0 ? 8 : 4;
    check(creator->getPluginName() == "LayerNormQuantize" + std::to_string(container_bits), "name");
    check(std::string(creator->getPluginNamespace()) == "qvit", "namespace");
    for (int bits : {4, 6, 8}) {
      const Attributes attributes{1e-6f, 6.0f / static_cast<float>(1 << bits), 0.25f, bits, container_bits == 4 ? 96 : 112};
      if (bits > container_bits) {
        check(make(creator, attributes) == nullptr && logger.heard("width"), "codes too wide: " + logger.last);
        continue;
      }
      check_attributes(creator, attributes, logger);
      const std::unique_ptr<IPluginV3> built(make(creator, attributes));
      if (!check(built != nullptr, "createPlugin: " + logger.last)) continue;
      auto* build = static_cast<IPluginV3OneBuild*>(built->getCapabilityInterface(PluginCapabilityType::kBUILD));
      check_formats(build, attributes.c, attributes.c * container_bits / 8, logger);
      const Attached attached(creator, built.get());
      for (int images : {1, 2}) {
        check_results<uint16_t>(attached.runtime, attributes, container_bits, images, random, logger);
        check_results<float>(attached.runtime, attributes, container_bits, images, random, logger);
        cases += 2;
      }
      check_clean("layernorm_quantize_plugin");
    }
  }
  return finish("layernorm_quantize_plugin", cases);
}
