#include "qvit/qlinear_launch.cuh"

namespace qvit {
template LinearLauncher linear_of<4, 4>(SourceKind, int);
}
