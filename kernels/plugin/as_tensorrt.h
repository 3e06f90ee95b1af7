// Plays TensorRT's part for the plugins in tests.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "findings.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

struct Logger final : nvinfer1::ILogger, nvinfer1::ILoggerFinder {
  std::string last;
  void log(Severity, const char* message) noexcept override { last = message; }
  nvinfer1::ILogger* findLogger() override { return this; }
  bool heard(const char* words) const { return last.find(words) != std::string::npos; }
};

inline nvinfer1::DynamicPluginTensorDesc tensor(nvinfer1::DataType type, std::vector<int64_t> sizes) {
  nvinfer1::DynamicPluginTensorDesc t{};
  t.desc.type = type;
  t.desc.format = nvinfer1::TensorFormat::kLINEAR;
  t.desc.dims.nbDims = static_cast<int32_t>(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) t.desc.dims.d[i] = sizes[i];
  t.min = t.opt = t.max = t.desc.dims;
  return t;
}

// The creators whose names begin with `prefix`.
inline std::vector<nvinfer1::IPluginCreatorV3One*> creators_of(const std::string& prefix) {
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* all = getCreators(count);
  std::vector<nvinfer1::IPluginCreatorV3One*> found;
  for (int32_t i = 0; i < count; ++i) {
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(all[i]);
    if (std::string(creator->getPluginName()).compare(0, prefix.size(), prefix) == 0) found.push_back(creator);
  }
  return found;
}

// Each of `fields` spoilt in turn: left out, of another type, two numbers; and one that nobody knows. None makes a plugin,
// and the logger hears the name.
inline void check_fields(nvinfer1::IPluginCreatorV3One* creator, const std::vector<nvinfer1::PluginField>& fields,
                         const Logger& logger) {
  using nvinfer1::PluginField, nvinfer1::PluginFieldType;
  const auto refused = [&](std::vector<PluginField> given, const std::string& name, const char* how) {
    const nvinfer1::PluginFieldCollection collection{static_cast<int32_t>(given.size()), given.data()};
    const bool made = creator->createPlugin("node", &collection, nvinfer1::TensorRTPhase::kBUILD) != nullptr;
    check(!made && logger.heard(name.c_str()) && logger.heard("node"), name + " " + how + ": " + logger.last);
  };
  check(creator->getFieldNames()->nbFields == static_cast<int32_t>(fields.size()), "number of fields");
  for (size_t i = 0; i < fields.size(); ++i) {
    check(std::string(creator->getFieldNames()->fields[i].name) == fields[i].name, "name of a field");
    check(creator->getFieldNames()->fields[i].type == fields[i].type, "type of a field");
    std::vector<PluginField> spoilt = fields;
    spoilt.erase(spoilt.begin() + static_cast<std::ptrdiff_t>(i));
    refused(spoilt, fields[i].name, "left out");
    spoilt = fields;
    spoilt[i].type = PluginFieldType::kFLOAT64;
    refused(spoilt, fields[i].name, "of another type");
    spoilt[i] = fields[i], spoilt[i].length = 2;
    refused(spoilt, fields[i].name, "twice as long");
    spoilt[i] = fields[i], spoilt[i].data = nullptr;
    refused(spoilt, fields[i].name, "without data");
  }
  std::vector<PluginField> more = fields;
  more.push_back({"zero_point", fields[0].data, fields[0].type, 1});
  refused(more, "zero_point", "unknown");
  check(creator->createPlugin("node", nullptr, nvinfer1::TensorRTPhase::kRUNTIME) == nullptr, "no fields at all");
}

// The engine is written and read back: a plugin made of the serialized fields, in an execution context of its own.
struct Attached {
  std::unique_ptr<nvinfer1::IPluginV3> read, plugin;
  nvinfer1::IPluginV3OneRuntime* runtime = nullptr;

  Attached(nvinfer1::IPluginCreatorV3One* creator, nvinfer1::IPluginV3* built) {
    using nvinfer1::IPluginV3OneRuntime, nvinfer1::PluginCapabilityType;
    const auto of = [](nvinfer1::IPluginV3* p) {
      return static_cast<IPluginV3OneRuntime*>(p->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    };
    read.reset(creator->createPlugin("node", of(built)->getFieldsToSerialize(), nvinfer1::TensorRTPhase::kRUNTIME));
    if (!check(read != nullptr, "createPlugin from the serialized fields")) return;
    plugin.reset(of(read.get())->attachToContext(nullptr));
    runtime = of(plugin.get());
  }
};
