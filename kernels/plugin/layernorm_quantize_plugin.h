// The TensorRT plugins LayerNormQuantize8 and LayerNormQuantize4: qvit_layernorm_quantize.
//
//   inputs      x [.., c] float16 or float32; gamma and beta float32 [c]
//   output      codes int8 [.., c], or of LayerNormQuantize4 [.., c / 2], two codes a byte (QVIT_CODES4)
//   attributes  epsilon float, y_scale float, y_shift float, y_bits int, c int
//
// c is a multiple of 16, for two codes a byte of 32: rows of codes start at multiples of 16 bytes. There are no tactics.
#pragma once

#include "plugin.h"

namespace qvit {

class LayerNormQuantizePlugin final : public Plugin {
 public:
  // container_bits 8 or 4
  explicit LayerNormQuantizePlugin(int32_t container_bits);

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
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;

 private:
  // Without pointers.
  QvitLayerNorm norm(int32_t rows, nvinfer1::DataType type) const;

  int32_t container_bits_, c_ = 0;
  float epsilon_ = 0;
  QvitGrid grid_{};
};

}  // namespace qvit
