"""Checks of parts, to be used in the tests of whoever writes one, as functions or as pytest classes:

    from codecdiff.testing import CodecChecks, check_codec

    def test_my_codec():
        check_codec(MyCodec(), seconds=1.0)

    class TestMyCodec(CodecChecks):  # the same, a test per check
        def part(self):
            return MyCodec()

`check_codec` raises one AssertionError that lists the checks that fail. `codecdiff check NAME` runs the same checks on
an installed part. A part that cannot pass a check declares it: `expected_failures = {"chunked": "why"}`.

A kind of part brings its own checks by the entry point `codecdiff.checks`, a function `CheckRequest -> CheckRun`.
"""

from codecdiff.testing import codecs, conditioners, denoisers, embedders, splitters
from codecdiff.testing.assertions import (
    Call,
    assert_that,
    check_deterministic,
    check_inputs_untouched,
    check_no_global_randomness,
    randomness_untouched,
)
from codecdiff.testing.checks import Check, CheckFailed, Checks, ExpectedFailure, NotApplicable, PartChecks, Result
from codecdiff.testing.clips import example_audio
from codecdiff.testing.codecs import CodecChecks, check_codec
from codecdiff.testing.conditioners import PROMPTS, ConditionerChecks, check_conditioner
from codecdiff.testing.denoisers import DenoiserChecks, check_denoiser
from codecdiff.testing.embedders import EmbedderChecks, check_embedder
from codecdiff.testing.runner import CheckRequest, CheckRun
from codecdiff.testing.splitters import SplitterChecks, check_splitter

CHECKS: dict[str, Checks] = {
    module.CHECKS.kind: module.CHECKS for module in (codecs, splitters, conditioners, denoisers, embedders)
}

__all__ = [
    "CHECKS",
    "PROMPTS",
    "Call",
    "Check",
    "CheckFailed",
    "CheckRequest",
    "CheckRun",
    "Checks",
    "CodecChecks",
    "ConditionerChecks",
    "DenoiserChecks",
    "EmbedderChecks",
    "ExpectedFailure",
    "NotApplicable",
    "PartChecks",
    "Result",
    "SplitterChecks",
    "assert_that",
    "check_codec",
    "check_conditioner",
    "check_denoiser",
    "check_deterministic",
    "check_embedder",
    "check_inputs_untouched",
    "check_no_global_randomness",
    "check_splitter",
    "example_audio",
    "randomness_untouched",
]
