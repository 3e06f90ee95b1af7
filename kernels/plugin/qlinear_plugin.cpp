#include "qlinear_plugin.h"

#include <new>

namespace qvit {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

namespace {

enum Position { kX, kPacked, kScale, kBias, kY, kTensors };

QvitType type_of(DataType type) { return type == DataType::kHALF ? QVIT_FLOAT16 : QVIT_FLOAT32; }

// TensorRT keeps 0 for "no tactic": its ids are ours plus one.
constexpr int32_t kFirstTactic = 1;

}  // namespace

std::string operator_name(int32_t weight_bits, bool gelu) {
  return "QLinearW" + std::to_string(weight_bits) + (gelu ? "Gelu" : "");
}

QLinearPlugin::QLinearPlugin(const LinearAttributes& attributes)
    : attributes_(attributes),
      name_(operator_name(attributes.weight_bits, attributes.gelu)),
      timing_id_(name_ + "A" + std::to_string(attributes.x_grid.bits) + "_" + std::to_string(attributes.n) + "x" +
                 std::to_string(attributes.k)) {}

nvinfer1::IPluginCapability* QLinearPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* QLinearPlugin::clone() noexcept { return new (std::nothrow) QLinearPlugin(*this); }

const char* QLinearPlugin::getPluginName() const noexcept { return name_.c_str(); }
const char* QLinearPlugin::getPluginVersion() const noexcept { return "1"; }
const char* QLinearPlugin::getPluginNamespace() const noexcept { return "qvit"; }
int32_t QLinearPlugin::getNbOutputs() const noexcept { return 1; }

int32_t QLinearPlugin::getOutputDataTypes(DataType* types, int32_t outputs, const DataType* input_types,
                                          int32_t inputs) const noexcept {
  if (outputs != 1 || inputs != kY) return -1;
  types[0] = input_types[kX];
  return 0;
}

int32_t QLinearPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*,
                                       int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                                       nvinfer1::IExprBuilder& builder) noexcept {
  if (input_count != kY || output_count != 1 || inputs[kX].nbDims < 1) return -1;
  outputs[0] = inputs[kX];
  outputs[0].d[outputs[0].nbDims - 1] = builder.constant(attributes_.n);
  return 0;
}

bool QLinearPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t inputs,
                                              int32_t outputs) noexcept {
  if (inputs != kY || outputs != 1 || position >= kTensors) return false;
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  switch (position) {
    case kX:  // rows have to start at multiples of 16 bytes
      return (tensor.type == DataType::kHALF && attributes_.k % 8 == 0) ||
             (tensor.type == DataType::kFLOAT && attributes_.k % 4 == 0);
    case kPacked:
      return tensor.type == DataType::kINT8;
    case kY:
      return tensor.type == tensors[kX].desc.type;
    default:
      return tensor.type == DataType::kFLOAT;
  }
}

int32_t QLinearPlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc*,
                                       int32_t) noexcept {
  if (inputs != kY) return -1;
  const auto elements = [](const nvinfer1::Dims& dims) {
    int64_t count = 1;
    for (int32_t i = 0; i < dims.nbDims; ++i) count *= dims.d[i];
    return count;
  };
  const nvinfer1::Dims& x = in[kX].desc.dims;
  const bool fits = x.nbDims >= 1 && x.d[x.nbDims - 1] == attributes_.k &&
                    elements(in[kPacked].desc.dims) ==
                        qvit_packed_bytes(attributes_.n, attributes_.k, attributes_.weight_bits) &&
                    elements(in[kScale].desc.dims) == attributes_.n && elements(in[kBias].desc.dims) == attributes_.n;
  if (!fits) log_error(timing_id_ + ": the inputs' shapes do not fit the attributes n and k");
  return fits ? 0 : -1;
}

QvitLinear QLinearPlugin::linear(const nvinfer1::Dims& x, DataType type) const {
  QvitLinear l{};
  int64_t rows = 1;
  for (int32_t i = 0; i + 1 < x.nbDims; ++i) rows *= x.d[i];
  l.m = rows <= INT32_MAX ? static_cast<int32_t>(rows) : 0;
  l.n = l.y_stride = attributes_.n;
  l.k = l.x_stride = attributes_.k;
  l.x_type = l.y_type = type_of(type);
  l.weight_bits = attributes_.weight_bits;
  l.x_grid = l.y_grid = attributes_.x_grid;
  l.gelu = attributes_.gelu;
  return l;
}

size_t QLinearPlugin::getWorkspaceSize(const DynamicPluginTensorDesc* in, int32_t, const DynamicPluginTensorDesc*,
                                       int32_t) const noexcept {
  const QvitLinear largest = linear(in[kX].max, in[kX].desc.type);
  int64_t bytes = 0;
  for (int tactic = 0; tactic < qvit_linear_tactics(); ++tactic) {
    const int64_t needed = qvit_linear_workspace(&largest, tactic);
    if (needed > bytes) bytes = needed;
  }
  return static_cast<size_t>(bytes);
}

int32_t QLinearPlugin::getNbTactics() noexcept { return qvit_linear_tactics(); }

int32_t QLinearPlugin::getValidTactics(int32_t* tactics, int32_t count) noexcept {
  for (int32_t i = 0; i < count; ++i) tactics[i] = kFirstTactic + i;
  return 0;
}

const char* QLinearPlugin::getTimingCacheID() noexcept { return timing_id_.c_str(); }

int32_t QLinearPlugin::setTactic(int32_t tactic) noexcept {
  if (tactic == 0) return 0;  // TensorRT leaves the choice to the plugin
  QvitTactic known;
  if (qvit_linear_tactic(tactic - kFirstTactic, &known) != QVIT_OK) {
    log_error(timing_id_ + ": unknown tactic " + std::to_string(tactic) + "; the engine is of another version");
    return -1;
  }
  tactic_ = tactic - kFirstTactic;
  return 0;
}

int32_t QLinearPlugin::onShapeChange(const PluginTensorDesc*, int32_t inputs, const PluginTensorDesc*, int32_t) noexcept {
  return inputs == kY ? 0 : -1;
}

int32_t QLinearPlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                               void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  QvitLinear l = linear(in[kX].dims, in[kX].type);
  l.x = inputs[kX], l.weight = inputs[kPacked], l.y = outputs[0];
  l.weight_scale = static_cast<const float*>(inputs[kScale]);
  l.bias = static_cast<const float*>(inputs[kBias]);
  const int64_t bytes = qvit_linear_workspace(&l, tactic_);
  const int status = bytes < 0 ? static_cast<int>(-bytes) : qvit_linear(&l, tactic_, workspace, bytes, stream);
  if (status != QVIT_OK) {
    std::string message = timing_id_ + ": " + qvit_status_string(status);
    if (status == QVIT_CUDA_ERROR) message += " (" + std::to_string(qvit_last_cuda_error()) + ")";
    log_error(message);
  }
  return status;
}

nvinfer1::IPluginV3* QLinearPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

const nvinfer1::PluginFieldCollection* QLinearPlugin::getFieldsToSerialize() noexcept {
  using nvinfer1::PluginFieldType;
  fields_[0] = {"x_scale", &attributes_.x_grid.scale, PluginFieldType::kFLOAT32, 1};
  fields_[1] = {"x_shift", &attributes_.x_grid.shift, PluginFieldType::kFLOAT32, 1};
  fields_[2] = {"x_bits", &attributes_.x_grid.bits, PluginFieldType::kINT32, 1};
  fields_[3] = {"n", &attributes_.n, PluginFieldType::kINT32, 1};
  fields_[4] = {"k", &attributes_.k, PluginFieldType::kINT32, 1};
  collection_ = {5, fields_};
  return &collection_;
}

}  // namespace qvit
