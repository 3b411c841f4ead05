"""docs/api.md and contract.md, which lies beside the repository, say the same, rule by rule."""

import re
from typing import NamedTuple

import pytest
from pages import ROOT

CONTRACT = ROOT.parent / "shared" / "contract.md"
PAGE = ROOT / "docs" / "api.md"
SOURCES = {"doc": "page", "family": "other pages", "ours": "project"}

# Each rule of the contract, by its first words, and the first words of the rows of docs/api.md that
# say it, which are in these sections; a heading stands for all of its rows.
PLACES = {
    "Conventions": ["Conventions", "Errors"],
    "POST /actions/update-contact": ["update-contact", "Conventions"],
    "The family (all from family unless marked)": [],
}
RULES = {
    "Conventions": {
        "base paths": ["Every path"],
        "auth": ["Every path"],
        "workspaces": ["A token belongs"],
        "request body": ["A request body", "An empty array"],
        "response body": ["A response is JSON"],
        "ids": ["Ids are"],
        "timestamps": ["Times are"],
        "phone numbers": ["Phone numbers begin"],
        "unset name or email": ["A name or an email"],
        "order of checks": ["The order of checks"],
    },
    "POST /actions/update-contact": {
        "`contact_id`": ["`contact_id`"],
        "`phone`": ["`phone`"],
        "`name`": ["`name`"],
        "`email`": ["`email`"],
        "`tags`": ["`tags`"],
        "`metadata`": ["`metadata`", "An empty array"],
        "At least one of": ["At least one of", "Both, if given"],
        "A field that is absent": ["At least one of", "White space"],
        "Leading and trailing": ["White space"],
        "An unknown field": ["An unknown field"],
        "Text that the database": ["An unknown field"],
        "Two updates": ["Two updates"],
        "`updated_at` is": ["`updated_at` is"],
    },
    "The family (all from family unless marked)": {
        "`GET /me`": ["## me"],
        "`POST /actions/create-contact`": ["## create-contact"],
        "`POST /actions/get-contact`": ["## get-contact"],
        "`POST /actions/search-contacts`": ["## search-contacts"],
        "`POST /actions/add-tag`": ["## add-tag and remove-tag"],
        "`POST /actions/remove-tag`": ["## add-tag and remove-tag"],
    },
}
SAME_SECTIONS = {
    "Phone numbers": "Phone numbers",
    "Errors": "Errors",
    "Rate limit (family)": "Rate limit",
    "Beside the API (ours)": "openapi.json and healthz",
}
# Of the contract's reasons, and the status of a success where nothing else is said.
NOT_REPEATED = {"01J1Y...", "phonenumbers", "200", "42"}

pytestmark = pytest.mark.skipif(
    not CONTRACT.exists(), reason="contract.md is not beside this checkout, in ../shared"
)


class Rule(NamedTuple):
    name: str
    text: str
    sources: set[str]


def sections(path):
    """The text below each heading, up to the next one, without the heads of tables."""
    text = re.sub(r"^\|.*\|\n\|[-|]+\|$", "", path.read_text("utf-8"), flags=re.MULTILINE)
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text):
    """The cells of each row of the tables; an empty first cell repeats the one above it."""
    found = []
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        name, *cells = [found[-1][0], line[2:]] if line.startswith("| ") else line.split(" | ")
        found.append([name, *cells])
    return found


def sources_in(text):
    """Those that a text names: in the words of the contract, or of the page."""
    return set(re.findall(r"\b(?:doc|family|ours|other pages|page|project)\b", text))


def rules_of_the_contract(heading):
    text = sections(CONTRACT)[heading]
    found = []
    for row in rows(text) + [[bullet] for bullet in re.findall(r"^- (.*)$", text, re.MULTILINE)]:
        whole = " ".join(row)
        marks = " ".join(re.findall(r"\(([^()]*)\)", whole))
        named = f"family {marks}" if "family" in heading else row[-1] if len(row) > 1 else marks
        found.append(Rule(row[0], whole, {SOURCES[name] for name in sources_in(named)}))
    return found


def rules_of_the_page():
    return {
        heading: [Rule(row[0], " ".join(row), sources_in(row[-1])) for row in rows(text)]
        for heading, text in sections(PAGE).items()
    }


def facts(text):
    """Quoted names, those of lists one by one, the keys of quoted JSON, and numbers."""
    found = set(re.findall(r"(?<![\w-])\d+\b", re.sub(r"`[^`]+`", "", text)))
    for code in re.findall(r"`([^`]+)`", text):
        if code.startswith("{"):
            found |= set(re.findall(r'"(\w+)":?', code))
        else:
            found |= set(re.sub(r"^(GET|POST) ", "", code).split(", "))
    return found - NOT_REPEATED


def facts_missing(text, said):
    numbers = set(re.findall(r"\d+", said))
    return {fact for fact in facts(text) if fact not in (numbers if fact.isdigit() else said)}


@pytest.mark.parametrize("heading", RULES)
def test_every_rule_of_the_contract_is_looked_up_here(heading):
    names = [rule.name for rule in rules_of_the_contract(heading)]
    assert len(names) == len(RULES[heading])
    assert all(name.startswith(words) for name, words in zip(names, RULES[heading], strict=True))


@pytest.mark.parametrize(("heading", "name"), [(h, name) for h in RULES for name in RULES[h]])
def test_docs_api_has_each_rule_of_the_contract_with_its_facts_and_source(heading, name):
    [rule] = [rule for rule in rules_of_the_contract(heading) if rule.name.startswith(name)]
    page = rules_of_the_page()
    said, sources, expected = "", set(), set(rule.sources)
    for words in RULES[heading][name]:
        if words.startswith("## "):
            found = page[words[3:]]
            said += sections(PAGE)[words[3:]]
            expected.add("project")  # which may add rules to those of a whole section
        else:
            rows_there = [row for place in PLACES[heading] for row in page[place]]
            found = [row for row in rows_there if row.name.startswith(words)]
            said += " ".join(row.text for row in found)
        assert found, words
        sources |= {source for row in found for source in row.sources}
    assert not facts_missing(rule.text, said)
    assert sources == expected


@pytest.mark.parametrize("heading", SAME_SECTIONS)
def test_docs_api_has_each_fact_of_the_contracts_other_sections(heading):
    assert not facts_missing(sections(CONTRACT)[heading], sections(PAGE)[SAME_SECTIONS[heading]])


def test_docs_api_has_each_error_of_the_contract_with_its_status_and_text():
    page = [row for row in rows(sections(PAGE)["Errors"]) if row[0].isdigit()]
    for status, when, text in rows(sections(CONTRACT)["Errors"]):
        same = [row for row in page if row[0] == status]
        if text.startswith("`"):
            assert text.partition(" and ")[0] in [row[2] for row in same]
        assert not facts_missing(f"{when} {text}", str(same))


def test_docs_api_calls_nothing_the_vendors_that_the_contract_does_not():
    said = {
        words.removeprefix("## ")
        for named in RULES.values()
        for each in named.values()
        for words in each
    }
    said |= set(SAME_SECTIONS.values())
    page = rules_of_the_page()
    del page["The API"]  # which says what the sources are
    for heading, found in page.items():
        for rule in found:
            if rule.sources & {"page", "other pages"}:
                assert heading in said or any(rule.name.startswith(words) for words in said), rule
