#include "softmax_log2_av_plugin.h"

#include <new>

namespace qvit {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

namespace {

enum Position { kScores, kValues, kOut, kTensors };

// What the kernel says of arguments whose pointers are still to come: those it looks at last.
int status_of(const QvitLogAttention& without_pointers) {
  const int status = qvit_softmax_log2_av(&without_pointers, nullptr);
  return status == QVIT_MISALIGNED ? QVIT_OK : status;
}

}  // namespace

SoftmaxLog2AvPlugin::SoftmaxLog2AvPlugin() : Plugin("SoftmaxLog2AV", kOut) {}

std::vector<Attribute> SoftmaxLog2AvPlugin::attributes() {
  return {{"steps", &steps_},   {"bits", &bits_},                {"largest", &largest_},
          {"by_row", &by_row_}, {"v_scale", &value_grid_.scale}, {"v_bits", &value_grid_.bits}};
}

std::string SoftmaxLog2AvPlugin::refused() {
  nvinfer1::Dims one{};
  one.nbDims = 2, one.d[0] = one.d[1] = 1;
  timing_id_ = name_ + std::to_string(steps_) + "b" + std::to_string(bits_) + (by_row_ != 0 ? "r" : "") + "v" +
               std::to_string(value_grid_.bits);
  if (by_row_ != 0 && by_row_ != 1) return "by_row is 0 or 1";
  const int status = status_of(attention(one, one, DataType::kFLOAT));
  return status == QVIT_OK ? "" : qvit_status_string(status);
}

nvinfer1::IPluginV3* SoftmaxLog2AvPlugin::clone() noexcept { return new (std::nothrow) SoftmaxLog2AvPlugin(*this); }

int32_t SoftmaxLog2AvPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count,
                                             const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                                             int32_t output_count, nvinfer1::IExprBuilder&) noexcept {
  if (input_count != kOut || output_count != 1) return -1;
  const nvinfer1::DimsExprs &scores = inputs[kScores], &values = inputs[kValues];
  if (scores.nbDims < 2 || scores.nbDims != values.nbDims) return -1;
  outputs[0] = scores;
  outputs[0].d[scores.nbDims - 1] = values.d[values.nbDims - 1];
  return 0;
}

bool SoftmaxLog2AvPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                                    int32_t inputs, int32_t outputs) noexcept {
  if (inputs != kOut || outputs != 1 || position < 0 || position >= kTensors) return false;
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  if (position == kScores) return tensor.type == DataType::kHALF || tensor.type == DataType::kFLOAT;
  return tensor.type == tensors[kScores].desc.type;
}

int32_t SoftmaxLog2AvPlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs,
                                             const DynamicPluginTensorDesc*, int32_t) noexcept {
  if (inputs != kOut) return -1;
  return report(status_of(attention(in[kScores].max, in[kValues].max, in[kScores].desc.type)));
}

QvitLogAttention SoftmaxLog2AvPlugin::attention(const nvinfer1::Dims& scores, const nvinfer1::Dims& values,
                                                DataType type) const {
  QvitLogAttention a{};
  a.type = type_of(type);
  a.steps = steps_, a.bits = bits_, a.largest = largest_, a.by_row = by_row_, a.value_grid = value_grid_;
  const int32_t last = scores.nbDims - 1;
  bool fits = last >= 1 && values.nbDims == scores.nbDims && scores.d[last] == values.d[last - 1];
  int64_t batch = 1;
  for (int32_t i = 0; fits && i <= last; ++i) fits = scores.d[i] <= INT32_MAX && values.d[i] <= INT32_MAX;
  for (int32_t i = 0; fits && i + 1 < last; ++i) {
    batch *= scores.d[i];
    fits = scores.d[i] == values.d[i] && batch <= INT32_MAX;
  }
  if (!fits) return a;
  a.batch = static_cast<int32_t>(batch);
  a.queries = static_cast<int32_t>(scores.d[last - 1]);
  a.keys = a.score_stride = static_cast<int32_t>(scores.d[last]);
  a.width = a.value_stride = a.out_stride = static_cast<int32_t>(values.d[last]);
  return a;
}

int32_t SoftmaxLog2AvPlugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc*,
                                           int32_t) noexcept {
  if (inputs != kOut) return -1;
  return report(status_of(attention(in[kScores].dims, in[kValues].dims, in[kScores].type)));
}

int32_t SoftmaxLog2AvPlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                                     void* const* outputs, void*, cudaStream_t stream) noexcept {
  QvitLogAttention a = attention(in[kScores].dims, in[kValues].dims, in[kScores].type);
  a.scores = inputs[kScores], a.values = inputs[kValues], a.out = outputs[0];
  return report(qvit_softmax_log2_av(&a, stream));
}

}  // namespace qvit
