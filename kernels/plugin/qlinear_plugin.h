// The TensorRT plugins QLinearW4, QLinearW6, QLinearW8 and, with the GELU behind the layer, QLinearW4Gelu and so on:
// qvit_linear as an IPluginV3 (TensorRT 10.3 and later).
//
//   inputs      x [.., k] float16 or float32; packed int8 (packing.h); weight scales float32 [n]; bias float32 [n]
//   output      y [.., n], the type of x
//   attributes  x_scale float, x_shift float, x_bits int, n int, k int
//
// TensorRT times every tactic of tiles.cuh and keeps the fastest.
#pragma once

#include <NvInferRuntime.h>

#include <string>

#include "qvit/qvit.h"

namespace qvit {

struct LinearAttributes {
  int32_t weight_bits, n, k;
  QvitGrid x_grid;
  bool gelu;
};

std::string operator_name(int32_t weight_bits, bool gelu);

class QLinearPlugin final : public nvinfer1::IPluginV3,
                            public nvinfer1::IPluginV3OneCore,
                            public nvinfer1::IPluginV3OneBuild,
                            public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit QLinearPlugin(const LinearAttributes& attributes);
  QLinearPlugin(const QLinearPlugin&) = default;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

  int32_t getNbOutputs() const noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs, const nvinfer1::DataType* input_types,
                             int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs* shape_inputs,
                          int32_t shape_input_count, nvinfer1::DimsExprs* outputs, int32_t output_count,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) const noexcept override;
  int32_t getNbTactics() noexcept override;
  int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override;
  const char* getTimingCacheID() noexcept override;

  int32_t setTactic(int32_t tactic) noexcept override;
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  QvitLinear linear(const nvinfer1::Dims& x, nvinfer1::DataType type) const;

  LinearAttributes attributes_;
  std::string name_, timing_id_;
  int32_t tactic_ = 3;  // 64 x 64 x 64: a middling tile, until TensorRT has chosen
  nvinfer1::PluginField fields_[5];
  nvinfer1::PluginFieldCollection collection_{};
};

// Says why through TensorRT's logger.
void log_error(const std::string& message) noexcept;

}  // namespace qvit
