// The TensorRT plugin SoftmaxLog2AV: qvit_softmax_log2_av, the second half of an attention with logarithmic codes.
//
//   inputs      scores [.., t, s] float16 or float32; values [.., s, d], the same type
//   output      out [.., t, d], the same type
//   attributes  steps int, bits int, largest float, by_row int, v_scale float, v_bits int
//
// The sizes in front (images, windows, heads) are those of both inputs and come to at most 65,535 products. The kernel has
// one tile shape, so there are no tactics.
#pragma once

#include "plugin.h"

namespace qvit {

class SoftmaxLog2AvPlugin final : public Plugin {
 public:
  SoftmaxLog2AvPlugin();

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
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;

 private:
  // Without pointers; of shapes that do not go together a batch of 0, which the kernel refuses.
  QvitLogAttention attention(const nvinfer1::Dims& scores, const nvinfer1::Dims& values, nvinfer1::DataType type) const;

  int32_t steps_ = 0, bits_ = 0, by_row_ = 0;
  float largest_ = 0;
  QvitGrid value_grid_{};
};

}  // namespace qvit
