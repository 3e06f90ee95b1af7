// The base of the plugins of this library: an IPluginV3 (TensorRT 10.3 and later) with one output and no state but its
// attributes. Its creator makes it from the attributes of an ONNX node, or from those stored in an engine.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

#include "qvit/qvit.h"

namespace qvit {

// An attribute of the ONNX node, float32 or int32, and where the plugin stores it.
struct Attribute {
  Attribute(const char* name, float* value) : name(name), type(nvinfer1::PluginFieldType::kFLOAT32), value(value) {}
  Attribute(const char* name, int32_t* value) : name(name), type(nvinfer1::PluginFieldType::kINT32), value(value) {}
  const char* name;
  nvinfer1::PluginFieldType type;
  void* value;  // 4 bytes
};

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
 public:
  Plugin(std::string name, int32_t inputs) : name_(std::move(name)), inputs_(inputs) {}

  // Attributes of this object, all of them needed.
  virtual std::vector<Attribute> attributes() = 0;
  // Returns why the plugin cannot work with their values; "" if it can. Called once, when all of them have been read.
  virtual std::string refused() = 0;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
  const char* getPluginName() const noexcept final { return name_.c_str(); }
  const char* getPluginVersion() const noexcept final { return "1"; }
  const char* getPluginNamespace() const noexcept final { return "qvit"; }
  int32_t getNbOutputs() const noexcept final { return 1; }
  const char* getTimingCacheID() noexcept final { return timing_id_.c_str(); }
  // The output has the type of the first input.
  int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs, const nvinfer1::DataType* input_types,
                             int32_t inputs) const noexcept override;
  int32_t setTactic(int32_t tactic) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept final { return clone(); }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept final;

 protected:
  Plugin(const Plugin&) = default;

  // Reports `status` of the C interface through TensorRT's logger unless it is QVIT_OK.
  int32_t report(int status) const noexcept;

  std::string name_, timing_id_;
  int32_t inputs_;

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

// Makes copies of a prototype, with attributes of their own.
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(std::unique_ptr<Plugin> prototype);

  const char* getPluginName() const noexcept override { return prototype_->getPluginName(); }
  const char* getPluginVersion() const noexcept override { return prototype_->getPluginVersion(); }
  const char* getPluginNamespace() const noexcept override { return prototype_->getPluginNamespace(); }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* given,
                                    nvinfer1::TensorRTPhase phase) noexcept override;

 private:
  std::unique_ptr<Plugin> prototype_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

// kHALF or kFLOAT.
QvitType type_of(nvinfer1::DataType type);

int64_t elements(const nvinfer1::Dims& dims);

// Returns the product of all dimensions but the last; 0, which the kernels refuse, if int32 does not hold it.
int32_t rows_of(const nvinfer1::Dims& dims);

// Reports the reason through TensorRT's logger.
void log_error(const std::string& message) noexcept;

}  // namespace qvit
