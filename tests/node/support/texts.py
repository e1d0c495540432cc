"""Hypothesis strategies for operations and for the texts that people write for them."""

from __future__ import annotations

from hypothesis import strategies as st

from federation.entry import Annotation, Cause, EntryId, Operation
from federation.fingerprint import Fingerprint
from tests.federation.worlds import fingerprint

_WORDS = st.text(
    st.characters(
        codec="utf-8", exclude_categories=("Cc", "Cs", "Cf", "Zl", "Zp"), max_codepoint=0x1FFFF
    ),
    max_size=12,
)
LABELS = st.one_of(st.sampled_from(["A1", "B2", "=1+1", "a,b", 'say "x"']), _WORDS).filter(bool)
TYPES = st.sampled_from(["md5", "sha1", "sha256", "sha512", "pdq", "vpdq", "ssvh"])


def fingerprints(numbers: int = 6) -> st.SearchStrategy[Fingerprint]:
    """Draw one of few fingerprints, so that entries share them."""
    return st.builds(fingerprint, st.integers(0, numbers - 1), TYPES)


def drawn_annotations() -> st.SearchStrategy[Annotation]:
    """Draw what an assertion may say."""
    return st.builds(
        lambda labels, reason, vocabulary: Annotation(
            labels=tuple(sorted(labels)), reason=reason, vocabulary=vocabulary
        ),
        st.sets(LABELS, max_size=3),
        st.one_of(st.just(""), _WORDS),
        st.one_of(st.just(""), _WORDS),
    )


_OWN_IDS = st.sampled_from(["case-1", "1", "urn:x:1", "ü"])


@st.composite
def assertions(draw: st.DrawFn) -> Operation:
    """Draw an assertion named by its strongest fingerprint, by another or by an id of its own."""
    chosen = draw(st.lists(fingerprints(), min_size=1, max_size=4))
    entry = draw(
        st.one_of(
            st.none(),
            st.sampled_from(chosen).map(EntryId.of),
            _OWN_IDS.map(EntryId.parse),
        )
    )
    return Operation.assertion(tuple(chosen), draw(drawn_annotations()), entry)


def entry_ids() -> st.SearchStrategy[EntryId]:
    """Draw the id of an entry that `assertions` may make."""
    return st.one_of(fingerprints().map(EntryId.of), _OWN_IDS.map(EntryId.parse))


def operations() -> st.SearchStrategy[Operation]:
    """Draw any operation."""
    causes = st.sampled_from([cause for cause in Cause if cause is not Cause.NONE])
    return st.one_of(
        assertions(),
        assertions(),
        st.builds(Operation.retraction, entry_ids(), causes, st.one_of(st.just(""), _WORDS)),
        st.builds(Operation.purge, entry_ids()),
    )
