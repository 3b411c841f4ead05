"""What the formats of the document stand for, told to Schemathesis."""

import schemathesis
from hypothesis import strategies as st
from phonenumbers import (
    SUPPORTED_REGIONS,
    PhoneNumberFormat,
    example_number,
    format_number,
)

spellings = st.sampled_from(
    [PhoneNumberFormat.E164, PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.RFC3966]
)
regions = st.sampled_from(sorted(SUPPORTED_REGIONS))
schemathesis.openapi.format(
    "phone",
    st.builds(
        lambda region, spelling: format_number(example_number(region), spelling), regions, spellings
    ),
)
