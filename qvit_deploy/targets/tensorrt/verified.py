"""What the verification of a file in half precision says."""

from __future__ import annotations

from collections.abc import Mapping

from qvit_deploy.artifacts.verification import FileVerification


class HalfVerification(FileVerification):
    """How a half-precision file compared with the `onnxruntime` file.

    Attributes:
        free_codes_equal: share of equal codes when both files run freely.
        reference_sqnr_db, reference_agreement: logits against the `onnxruntime` file's.
        float_sqnr_db, float_agreement: logits against the float model's.
        sites: how many sites are quantized in the file, `packed` of them as operators of our own.
        norms: how many LayerNorms write the codes of such operators.
        in_float: site -> why it is not.
        float32: tensor -> why it stays in float32.
    """

    free_codes_equal: float | None = None
    reference_sqnr_db: float | None = None
    reference_agreement: float | None = None
    float_sqnr_db: float | None = None
    float_agreement: float | None = None
    sites: int | None = None
    packed: int | None = None
    norms: int | None = None
    in_float: Mapping[str, str] = {}
    float32: Mapping[str, str] = {}
