"""The laws of parts, to be called from the tests of whoever writes one:

    from codecdiff.testing import check_codec

    def test_laws():
        check_codec(MyCodec(), seconds=1.0)

Checks that do not hold raise one AssertionError, that lists them by name. `codecdiff check NAME` tries the same on
an installed part. A part that cannot keep a law says so: `exceptions = {"chunked": "why"}`.
"""

from codecdiff.testing import codecs, conditioners, denoisers, embedders, splitters
from codecdiff.testing.checks import Check, Checks, ExpectedFailure, Result
from codecdiff.testing.codecs import check_codec
from codecdiff.testing.conditioners import PROMPTS, check_conditioner
from codecdiff.testing.denoisers import check_denoiser
from codecdiff.testing.embedders import check_embedder
from codecdiff.testing.splitters import check_splitter

LAWS: dict[str, Checks] = {
    module.LAWS.kind: module.LAWS for module in (codecs, splitters, conditioners, denoisers, embedders)
}

__all__ = [
    "LAWS",
    "PROMPTS",
    "Check",
    "Checks",
    "ExpectedFailure",
    "Result",
    "check_codec",
    "check_conditioner",
    "check_denoiser",
    "check_embedder",
    "check_splitter",
]
