#include "plugin.h"

#include <cstring>

namespace qvit {
namespace {

// Reads `given` into `attributes`; returns what is wrong with it, or "".
std::string read(const nvinfer1::PluginFieldCollection* given, const std::vector<Attribute>& attributes) {
  std::vector<bool> present(attributes.size());
  for (int32_t i = 0; given != nullptr && i < given->nbFields; ++i) {
    const nvinfer1::PluginField& field = given->fields[i];
    const std::string name = field.name != nullptr ? field.name : "";
    size_t at = 0;
    while (at < attributes.size() && name != attributes[at].name) ++at;
    if (at == attributes.size()) return "unknown attribute " + name + "; the model or engine is of another version";
    const Attribute& attribute = attributes[at];
    if (field.type != attribute.type || field.length != 1 || field.data == nullptr)
      return "attribute " + name + " is not one " +
             (attribute.type == nvinfer1::PluginFieldType::kFLOAT32 ? "float" : "int");
    std::memcpy(attribute.value, field.data, 4);
    present[at] = true;
  }
  for (size_t i = 0; i < attributes.size(); ++i)
    if (!present[i]) return std::string("needs the attribute ") + attributes[i].name;
  return "";
}

}  // namespace

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
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

int32_t Plugin::getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs, const nvinfer1::DataType* input_types,
                                   int32_t inputs) const noexcept {
  if (outputs != 1 || inputs != inputs_) return -1;
  types[0] = input_types[0];
  return 0;
}

int32_t Plugin::setTactic(int32_t tactic) noexcept {
  if (tactic == 0) return 0;  // TensorRT leaves the choice to the plugin
  log_error(timing_id_ + ": unknown tactic " + std::to_string(tactic) + "; the engine is of another version");
  return -1;
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  fields_.clear();
  for (const Attribute& a : attributes()) fields_.push_back({a.name, a.value, a.type, 1});
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  return &collection_;
}

int32_t Plugin::report(int status) const noexcept {
  if (status != QVIT_OK) {
    std::string message = timing_id_ + ": " + qvit_status_string(status);
    if (status == QVIT_CUDA_ERROR) message += " (" + std::to_string(qvit_last_cuda_error()) + ")";
    log_error(message);
  }
  return status;
}

Creator::Creator(std::unique_ptr<Plugin> prototype) : prototype_(std::move(prototype)) {
  for (const Attribute& a : prototype_->attributes()) fields_.push_back({a.name, nullptr, a.type, 1});
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

nvinfer1::IPluginV3* Creator::createPlugin(const char* name, const nvinfer1::PluginFieldCollection* given,
                                           nvinfer1::TensorRTPhase) noexcept {
  std::unique_ptr<Plugin> plugin(static_cast<Plugin*>(prototype_->clone()));
  if (plugin == nullptr) return nullptr;
  std::string wrong = read(given, plugin->attributes());
  if (wrong.empty()) wrong = plugin->refused();
  if (wrong.empty()) return plugin.release();
  log_error(std::string(getPluginName()) + " " + (name != nullptr ? name : "") + ": " + wrong);
  return nullptr;
}

QvitType type_of(nvinfer1::DataType type) {
  return type == nvinfer1::DataType::kHALF ? QVIT_FLOAT16 : QVIT_FLOAT32;
}

int64_t elements(const nvinfer1::Dims& dims) {
  int64_t count = 1;
  for (int32_t i = 0; i < dims.nbDims; ++i) count *= dims.d[i];
  return count;
}

int32_t rows_of(const nvinfer1::Dims& dims) {
  int64_t rows = 1;
  for (int32_t i = 0; i + 1 < dims.nbDims && rows <= INT32_MAX; ++i) rows *= dims.d[i];
  return rows <= INT32_MAX ? static_cast<int32_t>(rows) : 0;
}

}  // namespace qvit
