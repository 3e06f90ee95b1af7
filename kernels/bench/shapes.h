// The matrix products of the linear layers, as [M = batch * tokens, N, K].
#pragma once

namespace bench {

struct Shape {
  const char* model;
  const char* layer;
  int tokens, n, k;  // tokens per image
};

constexpr Shape kShapes[] = {
    {"deit_tiny", "qkv", 197, 576, 192},     {"deit_tiny", "proj", 197, 192, 192},
    {"deit_tiny", "fc1", 197, 768, 192},     {"deit_tiny", "fc2", 197, 192, 768},
    {"deit_small", "qkv", 197, 1152, 384},   {"deit_small", "proj", 197, 384, 384},
    {"deit_small", "fc1", 197, 1536, 384},   {"deit_small", "fc2", 197, 384, 1536},
    {"deit_base", "qkv", 197, 2304, 768},    {"deit_base", "proj", 197, 768, 768},
    {"deit_base", "fc1", 197, 3072, 768},    {"deit_base", "fc2", 197, 768, 3072},
    // Swin-T and Swin-S have the same widths; stages of 3136, 784, 196 and 49 tokens.
    {"swin_tiny", "stage1.qkv", 3136, 288, 96},  {"swin_tiny", "stage1.fc1", 3136, 384, 96},
    {"swin_tiny", "stage1.fc2", 3136, 96, 384},  {"swin_tiny", "stage2.qkv", 784, 576, 192},
    {"swin_tiny", "stage2.fc1", 784, 768, 192},  {"swin_tiny", "stage2.fc2", 784, 192, 768},
    {"swin_tiny", "stage3.qkv", 196, 1152, 384}, {"swin_tiny", "stage3.fc1", 196, 1536, 384},
    {"swin_tiny", "stage3.fc2", 196, 384, 1536}, {"swin_tiny", "stage4.qkv", 49, 2304, 768},
    {"swin_tiny", "stage4.fc1", 49, 3072, 768},  {"swin_tiny", "stage4.fc2", 49, 768, 3072}};

constexpr int kBatches[] = {1, 8, 32};

}  // namespace bench
