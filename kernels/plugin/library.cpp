// What TensorRT looks for in a plugin library: the creators, and a way to hand over its logger.
#include "qlinear_plugin.h"
#include "softmax_log2_av_plugin.h"

namespace qvit {
namespace {

nvinfer1::ILoggerFinder* logger_finder = nullptr;

}  // namespace

void log_error(const std::string& message) noexcept {
  nvinfer1::ILogger* logger = logger_finder != nullptr ? logger_finder->findLogger() : nullptr;
  if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
}

}  // namespace qvit

#define QVIT_EXPORT extern "C" __attribute__((visibility("default")))

QVIT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  using qvit::Creator, qvit::QLinearPlugin, qvit::SoftmaxLog2AvPlugin;
  static Creator four(std::make_unique<QLinearPlugin>(4, false)), four_gelu(std::make_unique<QLinearPlugin>(4, true));
  static Creator six(std::make_unique<QLinearPlugin>(6, false)), six_gelu(std::make_unique<QLinearPlugin>(6, true));
  static Creator eight(std::make_unique<QLinearPlugin>(8, false)), eight_gelu(std::make_unique<QLinearPlugin>(8, true));
  static Creator attention(std::make_unique<SoftmaxLog2AvPlugin>());
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&four,      &six,        &eight,    &four_gelu,
                                                                &six_gelu, &eight_gelu, &attention};
  count = sizeof creators / sizeof creators[0];
  return creators;
}

QVIT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { qvit::logger_finder = finder; }
