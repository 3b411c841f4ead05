"""Tells schemathesis what a phone number looks like."""

import schemathesis
from hypothesis import strategies as st

schemathesis.openapi.format(
    "phone",
    st.sampled_from(["+14155550123", "+1 (415) 555-0123", "tel:+33-6-39-98-01-01"])
    | st.integers(0, 9999).map(lambda number: f"+1415555{number:04}"),
)
