"""What the verification of the `onnxruntime-fused` file says."""

from __future__ import annotations

from collections.abc import Mapping

from qvit_deploy.artifacts.verification import FileVerification


class FusedVerification(FileVerification):
    """How the `onnxruntime-fused` file compared with the executor and the `onnxruntime` file.

    Attributes:
        reference_sqnr_db, reference_agreement: logits against the `onnxruntime` file's, running freely.
        integer_products: products that run on integers in the graph ONNX Runtime optimized.
        attentions: attentions that became one operator.
        in_float: site that is quantized but multiplies in floating point -> why.
        rows: tensors of which only the tokens that are read are computed.
    """

    reference_sqnr_db: float | None = None
    reference_agreement: float | None = None
    integer_products: int | None = None
    attentions: int | None = None
    rows: int | None = None
    in_float: Mapping[str, str] = {}
