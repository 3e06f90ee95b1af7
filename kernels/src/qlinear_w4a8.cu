#include "qvit/qlinear_launch.cuh"

namespace qvit {
template LinearLauncher linear_of<4, 8>(SourceKind, int);
}
