"""What is made for one place meets rows of another: the error says what differs."""

from __future__ import annotations

from actstore.analysis.examples.matching import mismatch
from actstore.analysis.examples.place_rows import ActivationPlace

HERE = ActivationPlace("m", "resid_post", 3, "last", "prompt")


def test_a_region_that_nobody_recorded_is_told() -> None:
    """Else a probe made before regions were kept seems to fit, and does not."""
    known = str(mismatch(HERE._replace(region="response"), [HERE], "runs.store"))
    assert "region prompt" in known
    assert "not recorded" not in known
    assert "region not recorded" in str(mismatch(HERE._replace(region=None), [HERE], "runs.store"))


def test_of_several_layers_the_one_that_lacks_is_named() -> None:
    joined = HERE._replace(layer=None, layers=(3, 5))
    told = str(mismatch(joined, [HERE], "runs.store", lacking=HERE._replace(layer=5)))
    assert "layer 5" in told
    assert "rows of all these layers are needed" in told
