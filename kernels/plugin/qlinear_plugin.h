// The TensorRT plugins of linear layers: qvit_linear. QLinearW4, QLinearW6 and QLinearW8 quantize what they read;
// QLinearW4Codes8 and so on read codes, one a byte, QLinearW4Codes4 and so on two codes a byte (QVIT_CODES4), as
// LayerNormQuantize8 and LayerNormQuantize4 write them. Each also with the GELU behind the layer: QLinearW4Gelu,
// QLinearW4Codes8Gelu, ...
//
//   inputs      x [.., k] float16 or float32, or codes int8 [.., k] or [.., k / 2]; packed int8 (packing.h); weight scales
//               float32 [n]; bias float32 [n]
//   output      y [.., n], the type of x, or of `to`
//   attributes  x_scale float, x_shift float (not with codes), x_bits int, n int, k int, to int (with codes: the ONNX type
//               of y, 1 for float32 or 10 for float16)
//
// TensorRT times every tactic of tiles.cuh and keeps the fastest.
#pragma once

#include "plugin.h"

namespace qvit {

class QLinearPlugin final : public Plugin {
 public:
  // container_bits: of the codes it reads, 8 or 4; 0 where it quantizes.
  QLinearPlugin(int32_t weight_bits, int32_t container_bits, bool gelu);

  std::vector<Attribute> attributes() override;
  std::string refused() override;

  nvinfer1::IPluginV3* clone() noexcept override;
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
  int32_t setTactic(int32_t tactic) noexcept override;
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;

 private:
  QvitLinear linear(const nvinfer1::Dims& x, nvinfer1::DataType type) const;
  nvinfer1::DataType output_type(nvinfer1::DataType x) const;

  int32_t weight_bits_, container_bits_, n_ = 0, k_ = 0, to_ = 0;
  bool gelu_;
  QvitGrid x_grid_{};
  int32_t tactic_ = 3;  // 64 x 64 x 64: a middling tile, until TensorRT has chosen
};

}  // namespace qvit
