// Exports what TensorRT looks for in a plugin library: the creators, and a function that receives its logger.
#include "layernorm_quantize_plugin.h"
#include "qlinear_plugin.h"
#include "softmax_log2_av_plugin.h"

namespace qvit {
namespace {

nvinfer1::ILoggerFinder* logger_finder = nullptr;

struct Creators {
  std::vector<std::unique_ptr<Creator>> owned;
  std::vector<nvinfer1::IPluginCreatorInterface*> all;

  template <class Made, class... Arguments>
  void add(Arguments... arguments) {
    owned.push_back(std::make_unique<Creator>(std::make_unique<Made>(arguments...)));
    all.push_back(owned.back().get());
  }

  Creators() {
    for (bool gelu : {false, true})
      for (int32_t container_bits : {0, 8, 4})
        for (int32_t weight_bits : {4, 6, 8}) add<QLinearPlugin>(weight_bits, container_bits, gelu);
    for (int32_t container_bits : {8, 4}) add<LayerNormQuantizePlugin>(container_bits);
    add<SoftmaxLog2AvPlugin>();
  }
};

}  // namespace

void log_error(const std::string& message) noexcept {
  nvinfer1::ILogger* logger = logger_finder != nullptr ? logger_finder->findLogger() : nullptr;
  if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
}

}  // namespace qvit

#define QVIT_EXPORT extern "C" __attribute__((visibility("default")))

QVIT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static const qvit::Creators creators;
  count = static_cast<int32_t>(creators.all.size());
  return creators.all.data();
}

QVIT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { qvit::logger_finder = finder; }
