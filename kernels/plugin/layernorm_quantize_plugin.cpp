#include "layernorm_quantize_plugin.h"

#include <new>

namespace qvit {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

namespace {

enum Position { kX, kGamma, kBeta, kCodes, kTensors };

}  // namespace

LayerNormQuantizePlugin::LayerNormQuantizePlugin(int32_t container_bits)
    : Plugin("LayerNormQuantize" + std::to_string(container_bits), kCodes), container_bits_(container_bits) {}

std::vector<Attribute> LayerNormQuantizePlugin::attributes() {
  return {{"epsilon", &epsilon_}, {"y_scale", &grid_.scale}, {"y_shift", &grid_.shift}, {"y_bits", &grid_.bits}, {"c", &c_}};
}

std::string LayerNormQuantizePlugin::refused() {
  timing_id_ = name_ + "_" + std::to_string(c_) + "b" + std::to_string(grid_.bits);
  // Pointers are what the kernel looks at last.
  const QvitLayerNorm one = norm(1, DataType::kFLOAT);
  const int status = qvit_layernorm_quantize(&one, nullptr);
  return status == QVIT_MISALIGNED ? "" : qvit_status_string(status);
}

nvinfer1::IPluginV3* LayerNormQuantizePlugin::clone() noexcept {
  return new (std::nothrow) LayerNormQuantizePlugin(*this);
}

int32_t LayerNormQuantizePlugin::getOutputDataTypes(DataType* types, int32_t outputs, const DataType*,
                                                    int32_t inputs) const noexcept {
  if (outputs != 1 || inputs != inputs_) return -1;
  types[0] = DataType::kINT8;
  return 0;
}

int32_t LayerNormQuantizePlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count,
                                                 const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                                                 int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept {
  if (input_count != kCodes || output_count != 1 || inputs[kX].nbDims < 1) return -1;
  outputs[0] = inputs[kX];
  outputs[0].d[outputs[0].nbDims - 1] = builder.constant(c_ * container_bits_ / 8);
  return 0;
}

bool LayerNormQuantizePlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                                        int32_t inputs, int32_t outputs) noexcept {
  if (inputs != kCodes || outputs != 1 || position < 0 || position >= kTensors) return false;
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  if (position == kX) return tensor.type == DataType::kHALF || tensor.type == DataType::kFLOAT;
  return tensor.type == (position == kCodes ? DataType::kINT8 : DataType::kFLOAT);
}

int32_t LayerNormQuantizePlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs,
                                                 const DynamicPluginTensorDesc*, int32_t) noexcept {
  if (inputs != kCodes) return -1;
  const nvinfer1::Dims& x = in[kX].desc.dims;
  const bool fits = x.nbDims >= 1 && x.d[x.nbDims - 1] == c_ && elements(in[kGamma].desc.dims) == c_ &&
                    elements(in[kBeta].desc.dims) == c_;
  if (!fits) log_error(timing_id_ + ": the inputs' shapes do not fit the attribute c");
  return fits ? 0 : -1;
}

QvitLayerNorm LayerNormQuantizePlugin::norm(int32_t rows, DataType type) const {
  QvitLayerNorm l{};
  l.m = rows;
  l.c = l.x_stride = l.y_stride = c_;
  l.x_type = type_of(type);
  l.y_type = container_bits_ == 4 ? QVIT_CODES4 : QVIT_CODES8;
  l.epsilon = epsilon_;
  l.grid = grid_;
  return l;
}

int32_t LayerNormQuantizePlugin::onShapeChange(const PluginTensorDesc*, int32_t inputs, const PluginTensorDesc*,
                                               int32_t) noexcept {
  return inputs == kCodes ? 0 : -1;
}

int32_t LayerNormQuantizePlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                                         void* const* outputs, void*, cudaStream_t stream) noexcept {
  QvitLayerNorm l = norm(rows_of(in[kX].dims), in[kX].type);
  l.x = inputs[kX], l.y = outputs[0];
  l.gamma = static_cast<const float*>(inputs[kGamma]);
  l.beta = static_cast<const float*>(inputs[kBeta]);
  return report(qvit_layernorm_quantize(&l, stream));
}

}  // namespace qvit
