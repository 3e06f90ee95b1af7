// The TensorRT plugins QLinearW4, QLinearW6, QLinearW8 and, with the GELU behind the layer, QLinearW4Gelu and so on:
// qvit_linear.
//
//   inputs      x [.., k] float16 or float32; packed int8 (packing.h); weight scales float32 [n]; bias float32 [n]
//   output      y [.., n], the type of x
//   attributes  x_scale float, x_shift float, x_bits int, n int, k int
//
// TensorRT times every tactic of tiles.cuh and keeps the fastest.
#pragma once

#include "plugin.h"

namespace qvit {

class QLinearPlugin final : public Plugin {
 public:
  QLinearPlugin(int32_t weight_bits, bool gelu);

  std::vector<Attribute> attributes() override;
  std::string refused() override;

  nvinfer1::IPluginV3* clone() noexcept override;
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
  int32_t setTactic(int32_t tactic) noexcept override;
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;

 private:
  QvitLinear linear(const nvinfer1::Dims& x, nvinfer1::DataType type) const;

  int32_t weight_bits_, n_ = 0, k_ = 0;
  bool gelu_;
  QvitGrid x_grid_{};
  int32_t tactic_ = 3;  // 64 x 64 x 64: a middling tile, until TensorRT has chosen
};

}  // namespace qvit
