#include "qlinear_plugin.h"

#include <new>

namespace qvit {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

namespace {

enum Position { kX, kPacked, kScale, kBias, kY, kTensors };

// TensorRT keeps 0 for "no tactic": its ids are ours plus one.
constexpr int32_t kFirstTactic = 1;

// onnx.TensorProto.DataType
constexpr int32_t kOnnxFloat = 1, kOnnxFloat16 = 10;

std::string name_of(int32_t weight_bits, int32_t container_bits, bool gelu) {
  const std::string codes = container_bits != 0 ? "Codes" + std::to_string(container_bits) : "";
  return "QLinearW" + std::to_string(weight_bits) + codes + (gelu ? "Gelu" : "");
}

}  // namespace

QLinearPlugin::QLinearPlugin(int32_t weight_bits, int32_t container_bits, bool gelu)
    : Plugin(name_of(weight_bits, container_bits, gelu), kY),
      weight_bits_(weight_bits),
      container_bits_(container_bits),
      gelu_(gelu) {}

std::vector<Attribute> QLinearPlugin::attributes() {
  std::vector<Attribute> all = {{"x_scale", &x_grid_.scale}, {"x_bits", &x_grid_.bits}, {"n", &n_}, {"k", &k_}};
  all.push_back(container_bits_ != 0 ? Attribute("to", &to_) : Attribute("x_shift", &x_grid_.shift));
  return all;
}

std::string QLinearPlugin::refused() {
  if (qvit_packed_bytes(n_, k_, weight_bits_) < 0) return "n and k have to be positive";
  timing_id_ = name_ + "A" + std::to_string(x_grid_.bits) + "_" + std::to_string(n_) + "x" + std::to_string(k_);
  if (container_bits_ == 0) return "";
  if (to_ != kOnnxFloat && to_ != kOnnxFloat16) return "to is 1 (float32) or 10 (float16)";
  if (k_ * container_bits_ % 128 != 0) return "rows of codes have to be multiples of 16 bytes";
  return x_grid_.bits > container_bits_ ? "x_bits are more than a code has room for" : "";
}

DataType QLinearPlugin::output_type(DataType x) const {
  if (container_bits_ == 0) return x;
  return to_ == kOnnxFloat16 ? DataType::kHALF : DataType::kFLOAT;
}

int32_t QLinearPlugin::getOutputDataTypes(DataType* types, int32_t outputs, const DataType* input_types,
                                          int32_t inputs) const noexcept {
  if (outputs != 1 || inputs != inputs_) return -1;
  types[0] = output_type(input_types[kX]);
  return 0;
}

nvinfer1::IPluginV3* QLinearPlugin::clone() noexcept { return new (std::nothrow) QLinearPlugin(*this); }

int32_t QLinearPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*,
                                       int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                                       nvinfer1::IExprBuilder& builder) noexcept {
  if (input_count != kY || output_count != 1 || inputs[kX].nbDims < 1) return -1;
  outputs[0] = inputs[kX];
  outputs[0].d[outputs[0].nbDims - 1] = builder.constant(n_);
  return 0;
}

bool QLinearPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t inputs,
                                              int32_t outputs) noexcept {
  if (inputs != kY || outputs != 1 || position < 0 || position >= kTensors) return false;
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  switch (position) {
    case kX:  // rows have to start at multiples of 16 bytes
      if (container_bits_ != 0) return tensor.type == DataType::kINT8;
      return (tensor.type == DataType::kHALF && k_ % 8 == 0) || (tensor.type == DataType::kFLOAT && k_ % 4 == 0);
    case kPacked:
      return tensor.type == DataType::kINT8;
    case kY:
      return tensor.type == output_type(tensors[kX].desc.type);
    default:
      return tensor.type == DataType::kFLOAT;
  }
}

int32_t QLinearPlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc*,
                                       int32_t) noexcept {
  if (inputs != kY) return -1;
  const nvinfer1::Dims& x = in[kX].desc.dims;
  const int64_t row = container_bits_ != 0 ? k_ * container_bits_ / 8 : k_;
  const bool fits = x.nbDims >= 1 && x.d[x.nbDims - 1] == row &&
                    elements(in[kPacked].desc.dims) == qvit_packed_bytes(n_, k_, weight_bits_) &&
                    elements(in[kScale].desc.dims) == n_ && elements(in[kBias].desc.dims) == n_;
  if (!fits) log_error(timing_id_ + ": the inputs' shapes do not fit the attributes n and k");
  return fits ? 0 : -1;
}

QvitLinear QLinearPlugin::linear(const nvinfer1::Dims& x, DataType type) const {
  QvitLinear l{};
  l.m = rows_of(x);
  l.n = l.y_stride = n_;
  l.k = l.x_stride = k_;
  l.x_type = l.y_type = type_of(output_type(type));
  if (container_bits_ != 0) l.x_type = container_bits_ == 4 ? QVIT_CODES4 : QVIT_CODES8;
  l.weight_bits = weight_bits_;
  l.x_grid = l.y_grid = x_grid_;
  l.gelu = gelu_;
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

int32_t QLinearPlugin::setTactic(int32_t tactic) noexcept {
  QvitTactic known;
  if (tactic == 0 || qvit_linear_tactic(tactic - kFirstTactic, &known) != QVIT_OK) return Plugin::setTactic(tactic);
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
  return report(bytes < 0 ? static_cast<int>(-bytes) : qvit_linear(&l, tactic_, workspace, bytes, stream));
}

}  // namespace qvit
