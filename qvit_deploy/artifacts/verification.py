"""The verification in a manifest: how every file of the bundle compares with the plan.

Any number may be missing, since earlier versions did not measure it; it is None then and is not written. A target's
own numbers are extra fields of `FileVerification`, which has those that all targets share; the target types them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
)


class FileVerification(BaseModel):
    """The numbers that the verification of every file has.

    Attributes:
        images: images of the comparison of logits, the same for all files; codes are compared on the first
            `probe_images`.
        codes, code_mismatches: activation codes compared with both sides fed alike, and how many differed (must be 0).
        worst_site, worst_site_error: the site whose output differs most then, relative to its largest value.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    images: int | None = None
    probe_images: int | None = None
    codes: int | None = None
    code_mismatches: int | None = None
    worst_site: str | None = None
    worst_site_error: float | None = None

    @model_serializer(mode="wrap")
    def _what_was_measured(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        unset = {name: field for name, field in type(self).model_fields.items() if name not in self.model_fields_set}
        missing = {(info.by_alias and field.alias) or name for name, field in unset.items()}
        return {key: value for key, value in write(self).items() if key not in missing}


class ReferenceVerification(FileVerification):
    """How the reference, the file that all others are verified against, compares with the executor.

    Attributes:
        profile: the target's name.
        logits_error: runtime against executor, free running, relative to the largest value of the output, worst output.
        logits_agreement: share of images with equal top-1, runtime against executor.
        float_sqnr_db: 10 log10(sum y^2 / sum (y - y')^2) against the float model, of the worst output.
        sqnr_by_output: the same of every output that is not the same for all images.
        float_agreement: share of images whose top-1 is the float model's.
        integer_products, expected_integer_products: fused in the runtime's own optimized graph.
        float_products: sites that are quantized but multiply in floating point: products of logarithmic codes, and
            convolutions, whose outputs stay in float; not among the expected ones.
        optimized_ops: operator counts of that graph.
    """

    profile: str | None = None
    logits_error: float | None = None
    logits_agreement: float | None = None
    float_sqnr_db: float | None = None
    sqnr_by_output: Mapping[str, float] = {}
    float_agreement: float | None = None
    integer_products: int | None = None
    expected_integer_products: int | None = None
    float_products: tuple[str, ...] = ()
    optimized_ops: Mapping[str, int] = {}


class OriginalComparison(BaseModel):
    """How the float model compares with the model as it was handed in, in its own runtime.

    Attributes:
        runtime: that runtime.
        images: images of the comparison.
        errors: output -> the larger error of the canonical and the folded graph: the largest difference relative to the
            largest value, or the root mean square of both if that is more; of integers the share that differs.
        unavailable: why nothing could be compared, in place of all other fields.
    """

    model_config = ConfigDict(frozen=True)

    runtime: str | None = None
    images: int | None = None
    errors: Mapping[str, float] = {}
    unavailable: str | None = None

    @property
    def worst(self) -> tuple[str, float] | None:
        """The output that differs most, and by how much; None where nothing was compared."""
        return max(self.errors.items(), key=lambda item: item[1], default=None)


class Verification(ReferenceVerification):
    """The verification of all files of a bundle.

    Attributes:
        held_out: whether the `images` are others than those that calibration used; where DATA has too few they are not.
        fold_error: largest difference of the folded float model's outputs from the source's, relative to the largest
            value of the output.
        original: the comparison with the model as it was handed in.
        lint: target -> rule -> number of its findings in the target's file.
        targets: target -> the verification of its file, for all but the reference.
    """

    held_out: bool | None = None
    fold_error: float | None = None
    original: OriginalComparison | None = None
    lint: Mapping[str, Mapping[str, int]] = {}
    targets: Mapping[str, SerializeAsAny[FileVerification]] = Field(default={}, alias="profiles")

    @classmethod
    def of(
        cls,
        reference: ReferenceVerification,
        others: Mapping[str, FileVerification],
        *,
        held_out: bool,
        fold_error: float,
        original: OriginalComparison,
        lint: Mapping[str, Mapping[str, int]],
    ) -> Verification:
        """Returns the verification of a bundle of the reference's file and those of the `others`, by target."""
        targets = {"profiles": {name: file.model_dump() for name, file in others.items()}} if others else {}
        measured = {"held_out": held_out, "fold_error": fold_error, "lint": lint}
        measured["original"] = original.model_dump(exclude_unset=True)
        return cls.model_validate({**reference.model_dump(), **measured, **targets})
