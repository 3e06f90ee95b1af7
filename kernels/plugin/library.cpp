// What TensorRT looks for in a plugin library: the creators, and a way to hand over its logger.
#include <cstring>
#include <new>

#include "qlinear_plugin.h"

namespace qvit {
namespace {

nvinfer1::ILoggerFinder* logger_finder = nullptr;

// Attributes of an ONNX node arrive as float32 and int32, or, serialized, as they were written: the same.
class QLinearCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  QLinearCreator(int32_t bits, bool gelu) : bits_(bits), gelu_(gelu), name_(operator_name(bits, gelu)) {}

  const char* getPluginName() const noexcept override { return name_.c_str(); }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return "qvit"; }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override {
    using nvinfer1::PluginFieldType;
    fields_[0] = {"x_scale", nullptr, PluginFieldType::kFLOAT32, 1};
    fields_[1] = {"x_shift", nullptr, PluginFieldType::kFLOAT32, 1};
    fields_[2] = {"x_bits", nullptr, PluginFieldType::kINT32, 1};
    fields_[3] = {"n", nullptr, PluginFieldType::kINT32, 1};
    fields_[4] = {"k", nullptr, PluginFieldType::kINT32, 1};
    collection_ = {5, fields_};
    return &collection_;
  }

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* given,
                                    nvinfer1::TensorRTPhase) noexcept override {
    LinearAttributes attributes{bits_, 0, 0, {0, 0, 0}, gelu_};
    const bool complete = read(given, "x_scale", nvinfer1::PluginFieldType::kFLOAT32, &attributes.x_grid.scale) &&
                          read(given, "x_shift", nvinfer1::PluginFieldType::kFLOAT32, &attributes.x_grid.shift) &&
                          read(given, "x_bits", nvinfer1::PluginFieldType::kINT32, &attributes.x_grid.bits) &&
                          read(given, "n", nvinfer1::PluginFieldType::kINT32, &attributes.n) &&
                          read(given, "k", nvinfer1::PluginFieldType::kINT32, &attributes.k);
    if (!complete || qvit_packed_bytes(attributes.n, attributes.k, bits_) < 0) {
      log_error(name_ + " " + (name != nullptr ? name : "") + ": needs x_scale, x_shift, x_bits and positive n and k");
      return nullptr;
    }
    return new (std::nothrow) QLinearPlugin(attributes);
  }

 private:
  static bool read(const nvinfer1::PluginFieldCollection* given, const char* name, nvinfer1::PluginFieldType type,
                   void* to) {
    for (int32_t i = 0; given != nullptr && i < given->nbFields; ++i) {
      const nvinfer1::PluginField& field = given->fields[i];
      if (std::strcmp(field.name, name) != 0) continue;
      if (field.type != type || field.length != 1 || field.data == nullptr) return false;
      std::memcpy(to, field.data, 4);
      return true;
    }
    return false;
  }

  int32_t bits_;
  bool gelu_;
  std::string name_;
  nvinfer1::PluginField fields_[5];
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace

void log_error(const std::string& message) noexcept {
  nvinfer1::ILogger* logger = logger_finder != nullptr ? logger_finder->findLogger() : nullptr;
  if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
}

}  // namespace qvit

#define QVIT_EXPORT extern "C" __attribute__((visibility("default")))

QVIT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static qvit::QLinearCreator four(4, false), six(6, false), eight(8, false);
  static qvit::QLinearCreator four_gelu(4, true), six_gelu(6, true), eight_gelu(8, true);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&four, &six, &eight, &four_gelu, &six_gelu, &eight_gelu};
  count = 6;
  return creators;
}

QVIT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { qvit::logger_finder = finder; }
