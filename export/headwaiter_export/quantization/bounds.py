"""What is asked of an int8 variant: how it is made, and what it must reach to be written.

Cheap to import: the command line describes it before onnxruntime is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from headwaiter_proto.v1 import bundle_pb2

from headwaiter_export.errors import BelowBoundError

if TYPE_CHECKING:
    from headwaiter_export.quantization.judge import Quality


@dataclass(frozen=True)
class Bounds:
    """Limits on every point of a certificate; None leaves one unenforced.

    Attributes:
        mean_cosine: Least mean cosine to fp32's answers.
        worst_cosine: Least cosine of any text.
        agreement: Least share of texts whose nearest neighbour, or label, stays.
        batch_difference: Largest absolute difference between a text's answer alone and in a batch.
        speedup: Least speed relative to fp32, on the exporting machine.
        token_agreement: Of a model that generates, in place of `agreement`: least share of tokens that stay the
            likeliest. An answer has many.
    """

    mean_cosine: float | None = 0.998
    worst_cosine: float | None = 0.99
    agreement: float | None = 0.93
    batch_difference: float | None = 1e-4
    speedup: float | None = None
    token_agreement: float | None = 0.97

    def of_tokens(self) -> Bounds:
        """The bounds of a model that generates."""
        return replace(self, agreement=self.token_agreement)

    def check(self, certificate: bundle_pb2.QuantizationCertificate) -> None:
        """Hold a certificate to the bounds.

        Raises:
            BelowBoundError: Naming the first figure that misses its bound.
        """
        for point in certificate.points:
            for figure, bound in (
                ("mean_cosine", self.mean_cosine),
                ("worst_cosine", self.worst_cosine),
                ("agreement", self.agreement),
            ):
                _at_least(f"{figure} on {point.texts}", getattr(point, figure), bound)
            # Not `>`: a NaN is out of bounds too.
            if self.batch_difference is not None and not point.max_batch_diff <= self.batch_difference:
                raise BelowBoundError(
                    f"int8: an answer differs by {point.max_batch_diff:.3g} alone and in a batch, on {point.texts};"
                    f" at most {self.batch_difference:g} is asked for"
                )
        _at_least("speedup", certificate.speedup, self.speedup)

    def met_by(self, quality: Quality, reserve: float) -> bool:
        """Whether a quality is within the bounds even if its distance from 1 grew by `reserve`."""
        pairs = (
            (quality.mean_cosine, self.mean_cosine),
            (quality.worst_cosine, self.worst_cosine),
            (quality.agreement, self.agreement),
        )
        return all(bound is None or (1 - figure) * (1 + reserve) <= 1 - bound for figure, bound in pairs)


@dataclass(frozen=True)
class Wishes:
    """What the user may choose of an int8 variant.

    Attributes:
        bounds: What it must reach.
        weight_bits: 8, or 7 for processors without VNNI.
        texts: File of texts to choose and to certify on, one a line; None takes `corpus.default_corpus`.
    """

    bounds: Bounds = Bounds()
    weight_bits: int = 8
    texts: Path | None = None


def _at_least(name: str, figure: float, bound: float | None) -> None:
    if bound is not None and not figure >= bound:
        raise BelowBoundError(f"int8: {name} is {figure:.5g}; at least {bound:g} is asked for")
