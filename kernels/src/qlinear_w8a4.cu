#include "qvit/qlinear_launch.cuh"

namespace qvit {
template LinearLauncher linear_of<8, 4>(SourceKind, int);
}
