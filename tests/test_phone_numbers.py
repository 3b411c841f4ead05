"""The contract's section on phone numbers, each sentence as a test."""

import phonenumbers
import pytest
from conftest import PHONE, assert_refused, caller

FRENCH = "+33639980101"
MEXICAN = "+525512345678"


@pytest.fixture
def found(make_app):
    """The phone of the contact that a spelling finds, or the response that refuses it."""
    contacts = [{"phone": phone} for phone in (PHONE, FRENCH, MEXICAN, "+390612345678")]

    def found(spelling, **settings):
        response = caller(make_app(contacts, **settings).test_client())({"phone": spelling})
        return response.json["phone"] if response.status_code == 200 else response

    return found


@pytest.mark.parametrize(
    "spelling",
    [
        "+1 415 555 0123",
        "+1.415.555.0123",
        "+1-415-555-0123",
        "+1 (415) 555-0123",
        "(+1) 415 555 0123",
        "tel:+1-415-555-0123",
        "TEL:+14155550123",
        "  +14155550123\n",
        "+1\u00a0415\u202f555\u20110123",
        "\u202a+14155550123\u202c",
        "+\u0661\u0664\u0661\u0665\u0665\u0665\u0665\u0660\u0661\u0662\u0663",
        "+1/415/5550123",
        "'+14155550123",
        '="+14155550123"',
        "'+1\u200e 415 555 0123",
        "\uff0b\uff11\uff08\uff14\uff11\uff15\uff09\uff15\uff15\uff15\uff0d\uff10\uff0f\uff11\uff0e\uff12\uff13",
        "\uff0b\uff11\uff14\uff11\uff15\uff15\uff15\uff15\uff10\uff11\uff12\uff13",
    ],
    ids=ascii,
)
def test_what_people_and_spreadsheets_put_around_digits_is_fine(found, spelling):
    assert found(spelling) == PHONE


@pytest.mark.parametrize(
    "spelling", ["14155550123", "(415) 555-0123", "0639980101", "0033639980101"]
)
def test_a_number_without_a_leading_plus_is_a_422_whose_message_says_so(found, spelling):
    response = found(spelling)
    assert_refused(response, 422)
    [text] = response.json["errors"]["phone"]
    assert "start with +" in text


@pytest.mark.parametrize(
    "spelling", ["06 39 98 01 01", "0033639980101", "00 33 6 39 98 01 01", "+33 (0)6 39 98 01 01"]
)
def test_with_a_default_region_it_is_read_as_that_country_dials_it(found, spelling):
    assert found(spelling, CONTACTS_DEFAULT_REGION="FR") == FRENCH


@pytest.mark.parametrize(
    ("region", "spelling", "e164"),
    [
        ("FR", "06 39 98 01 01", "+33639980101"),
        ("FR", "06.39.98.01.00", "+33639980100"),
        ("DE", "030/23125010", "+493023125010"),
        ("GB", "(020) 7946 0958", "+442079460958"),
        ("AU", "0011 33 639980101", "+33639980101"),
        ("US", "011 33 639980101", "+33639980101"),
        ("SG", "001 33 639980101", "+33639980101"),
        ("US", "(415) 555-0123", "+14155550123"),
        ("ES", "639 98 01 01", "+34639980101"),
        ("IT", "06 1234 5678", "+390612345678"),
        ("IT", "347 123 4567", "+393471234567"),
        ("HU", "06 20 123 4567", "+36201234567"),
        ("RU", "912 345-67-89", "+79123456789"),
    ],
)
def test_digits_that_a_region_dials_so_are_national_or_international(
    make_app, region, spelling, e164
):
    client = make_app([{"phone": e164}], CONTACTS_DEFAULT_REGION=region).test_client()
    assert caller(client)({"phone": spelling}).json["phone"] == e164


@pytest.mark.parametrize(
    ("region", "spelling", "readings"),
    [
        ("DE", "447700900123", ["+447700900123", "+49447700900123"]),
        ("DE", "4930 2312 5010", ["+493023125010"]),
        ("IT", "393471234567", ["+393471234567", "+39393471234567"]),
        ("IT", "33612345678", ["+33612345678", "+3933612345678"]),
        ("FR", "639980101", ["+33639980101"]),
        ("FR", "33639980101", ["+33639980101"]),
        ("US", "14155550123", ["+14155550123"]),
        ("ES", "34639980101", ["+34639980101"]),
        ("RU", "89123456789", ["+79123456789"]),
        ("FI", "994 50 123 45 67", ["+994501234567"]),
        ("SG", "0033639980101", ["+3639980101", "+33639980101"]),
    ],
)
def test_digits_that_could_be_a_stranger_s_are_a_422_that_names_the_readings(
    make_app, region, spelling, readings
):
    contacts = [{"phone": phone} for phone in readings]
    response = caller(make_app(contacts, CONTACTS_DEFAULT_REGION=region).test_client())(
        {"phone": spelling}
    )
    assert_refused(response, 422)
    [text] = response.json["errors"]["phone"]
    assert all(phone in text for phone in readings)
    assert "start with +" in text


@pytest.mark.parametrize(
    "spelling",
    [
        "+14155550123.0",
        "+14155550123,0",
        "+1 415 555 012.0",
        "+14155550123.00",
        "14155550123.0",
        "+1,41556E+10",
        "1.41556E+10",
        "1.41555501230E10",
        "\uff0b14155550123\uff0e\uff10",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("region", ["", "DE", "US"])
def test_a_number_that_a_spreadsheet_rounded_is_a_422_that_says_so(found, spelling, region):
    response = found(spelling, CONTACTS_DEFAULT_REGION=region)
    assert_refused(response, 422)
    [text] = response.json["errors"]["phone"]
    assert "looks like a number that a spreadsheet rounded" in text


def test_a_default_region_leaves_international_numbers_alone(found):
    assert found("+1 415 555 0123", CONTACTS_DEFAULT_REGION="FR") == PHONE


@pytest.mark.parametrize(
    "spelling",
    [
        "+1415555012",
        "+141555501234",
        "+1",
        "+99912345678",
        "+3363998010",
        "+0123456789",
        "+" + "1" * 99,
    ],
)
def test_a_number_that_cannot_exist_is_a_422(found, spelling):
    assert_refused(found(spelling), 422)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "phone",
        "+1-415-FLOWERS",
        "+1 415 555 0123 ext. 9",
        "+1 415 555 0123;ext=9",
        "1+4155550123",
        "++14155550123",
        "+14155550123,+33639980101",
        "mailto:+14155550123",
        "+1 415 555 0123/24",
        '="+14155550123',
        "9" * 10_000,
    ],
)
def test_text_that_is_no_phone_number_is_a_422(found, text):
    response = found(text)
    assert_refused(response, 422)
    assert list(response.json["errors"]) == ["phone"]


@pytest.mark.parametrize(
    "spelling", [PHONE, "+1 202 555 0147", "+44 20 7946 0958", "+61 491 570 156"]
)
def test_fictional_numbers_must_work(make_app, spelling):
    e164 = spelling.replace(" ", "")
    response = caller(make_app([{"phone": e164}]).test_client())({"phone": spelling})
    assert (response.status_code, response.json["phone"]) == (200, e164)


@pytest.mark.parametrize("spelling", ["+52 1 55 1234 5678", "+5215512345678", "+52 55 1234 5678"])
def test_521_and_ten_digits_is_the_same_number_as_52_and_those_ten_digits(found, spelling):
    assert found(spelling) == MEXICAN


@pytest.mark.parametrize(
    ("spelling", "region"),
    [
        ("+33 06 39 98 01 0", ""),
        ("+33 (0)6 39 98 01 0", ""),
        ("06 39 98 01 0", "FR"),
        ("044 668 18 0", "CH"),
        ("+40 0712 345 67", ""),
        ("+44 020 7946 09", ""),
    ],
)
def test_a_0_does_not_stand_in_for_a_digit_that_is_missing(found, spelling, region):
    assert_refused(found(spelling, CONTACTS_DEFAULT_REGION=region), 422)


@pytest.mark.parametrize(
    ("spelling", "region"),
    [
        ("+49 89 12345 / 12346", ""),
        ("+43 1 51234\n01 51235", ""),
        ("+43 1 51234\r\n01 51235", ""),
        ("030 23125001/-12", "DE"),
        ("+1 415 555 0123/(415) 555-0124", ""),
    ],
)
def test_two_numbers_in_one_text_are_a_422_that_says_so(found, spelling, region):
    response = found(spelling, CONTACTS_DEFAULT_REGION=region)
    assert_refused(response, 422)
    assert "looks like two numbers" in response.json["errors"]["phone"][0]


@pytest.mark.parametrize(
    ("spelling", "region", "e164"),
    [
        ("089 / 12345", "DE", "+498912345"),
        ("0171/3920001", "DE", "+491713920001"),
        ("0171/392/0001", "DE", "+491713920001"),
        ("06221/12345", "DE", "+49622112345"),
        ("0662/123456", "AT", "+43662123456"),
        ("06/39/98/01/21", "FR", "+33639980121"),
        ("+498912345/", "", "+498912345"),
    ],
)
def test_a_slash_within_a_number_is_fine(make_app, spelling, region, e164):
    client = make_app([{"phone": e164}], CONTACTS_DEFAULT_REGION=region).test_client()
    assert caller(client)({"phone": spelling}).json["phone"] == e164


@pytest.mark.parametrize("region", ["", "FR", "DE", "US"])
@pytest.mark.parametrize(
    "date",
    ["01.02.2024", "2024-05-07", "31.12.2024", "07/05/2024", "7/5/2024", "2024-05-07 09:30:00"],
)
def test_a_date_is_a_422_that_says_so(found, date, region):
    response = found(date, CONTACTS_DEFAULT_REGION=region)
    assert_refused(response, 422)
    assert "looks like a date" in response.json["errors"]["phone"][0]


def test_a_text_of_many_slashes_is_refused_as_soon_as_any_other(found):
    assert_refused(found("1/" * 127 + "1", CONTACTS_DEFAULT_REGION="DE"), 422)


def test_a_leading_zero_that_belongs_to_the_number_is_kept(found):
    assert found("+39 06 1234 5678") == "+390612345678"


def test_a_number_whose_e164_form_would_not_find_it_again_is_a_422(found):
    assert_refused(found("+49 00 30 1234567"), 422)


def test_every_countrys_mobile_numbers_are_found_in_every_format(make_app):
    numbers = {}
    for region in phonenumbers.SUPPORTED_REGIONS:
        number = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
        if number:
            e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
            numbers[e164] = phonenumbers.format_number(
                number, phonenumbers.PhoneNumberFormat.INTERNATIONAL
            )
    assert len(numbers) > 200
    call = caller(make_app([{"phone": e164} for e164 in numbers]).test_client())
    for e164, spelling in numbers.items():
        assert call({"phone": spelling}).json["phone"] == e164
        assert call({"phone": e164}).json["phone"] == e164
