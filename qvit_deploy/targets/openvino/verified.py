"""What the verification of the `openvino` file says."""

from __future__ import annotations

from qvit_deploy.artifacts.verification import FileVerification


class OpenVinoVerification(FileVerification):
    """How the `openvino` file compared with the executor and the `onnxruntime` file.

    Attributes:
        ties: codes that are the neighbour's, their value in the middle between the two.
        reference_sqnr_db, reference_agreement: logits against the `onnxruntime` file's, running freely.
        float_sqnr_db, float_agreement: logits against the float model's.
        integer_products: products that run on integers in the graph OpenVINO made.
        rows: tensors of which only the tokens that are read are computed.
    """

    ties: int | None = None
    reference_sqnr_db: float | None = None
    reference_agreement: float | None = None
    float_sqnr_db: float | None = None
    float_agreement: float | None = None
    integer_products: int | None = None
    rows: int | None = None
