#include "qvit/qlinear_launch.cuh"

namespace qvit {
template LinearLauncher linear_of<6, 4>(SourceKind, int);
}
