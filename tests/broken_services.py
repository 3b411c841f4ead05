"""Services that each break one documented rule in one way.

`BROKEN` has, for each, a description, what it does with a request, and the rule that is to be named
first: with a contact that exists before the check and, if that differs, with one that does not.
"""

import json
import operator
import socket
import time
from types import SimpleNamespace

from services import after, only

NEW = "+14155550177"  # no sample contact has it
NOBODY = "5f0c3a52-9d0e-4b63-8c1f-7d2b6a90e4c1"
ONLY_IF_NEW = None  # what a contact that exists can't show

BROKEN = []  # description, rule if the contact exists, rule if it does not, alter(request)


def breaks(rule, decorator=lambda alter: alter, *, if_new=""):
    def decorate(alter):
        name = alter.__name__.replace("_", " ")
        BROKEN.append((name, rule, if_new or rule, decorator(alter)))
        return alter

    return decorate


def response(request, status, **body):
    """One of the service's own, with the headers of the application's."""
    headers = request.respond().headers
    return SimpleNamespace(status=status, headers=headers, json=body)


def not_found(request):
    return response(request, 404, error="Contact not found", message="Contact not found")


def invalid(request, field):
    text = "The given data was invalid."
    return response(request, 422, error=text, message=text, errors={field: ["Is refused."]})


def is_spelled(phone):
    return isinstance(phone, str) and not (phone[:1] == "+" and phone[1:].isdecimal())


# update-contact finds


@breaks("update-unknown-id", after(status=404), if_new="update-unknown-phone")
def not_found_is_400(request, response):
    if request.path != "/api/v1/conform":
        response.status = 400


@breaks("update-unknown-id", after(status=404), if_new="update-unknown-phone")
def not_found_is_500(request, response):
    response.status = 500


@breaks("update-unknown-id", after(status=404), if_new="update-unknown-phone")
def not_found_is_200_with_an_error(request, response):
    response.status = 200


@breaks("update-unknown-id", after("update-contact", status=404))
def ok_for_an_unknown_id(request, response):
    if request.fields.keys() == {"contact_id"}:
        response.status, response.json = 200, {"id": request.fields["contact_id"], "tags": []}


@breaks(ONLY_IF_NEW, only("update-contact"), if_new="update-unknown-phone")
def update_creates(request):
    if request.fields.get("phone") == NEW and "id" not in request.contact():
        request.send("create-contact", **request.fields)
    return request.respond()


@breaks(ONLY_IF_NEW, only("get-contact"), if_new="get-unknown-phone")
def nobody_is_null(request):
    found = request.respond()
    if found.status == 404 and request.fields.get("phone") == NEW:
        found.status, found.json = 200, None
    return found


@breaks("update-by-phone", only("update-contact"))
def update_does_not_find_by_phone(request):
    return not_found(request) if request.fields.keys() & {"phone"} else request.respond()


@breaks("update-by-id", only("update-contact"))
def update_does_not_find_by_id(request):
    return not_found(request) if request.fields.keys() == {"contact_id"} else request.respond()


@breaks("update-status", after("update-contact", status=200))
def created_instead_of_ok(request, response):
    response.status = 201


@breaks("update-keys", after("update-contact", status=200))
def keys_out_of_order(request, response):
    response.json = dict(reversed(response.json.items()))


@breaks("update-keys", after("update-contact", status=200))
def update_shows_no_id(request, response):
    del response.json["id"]


@breaks("update-keys", after("update-contact", status=200))
def update_shows_metadata(request, response):
    response.json["metadata"] = request.contact()["metadata"]


@breaks("update-keys", after("update-contact", status=200))
def update_has_an_envelope(request, response):
    response.json = {"data": response.json}


@breaks("update-neither", after("update-contact", status=422))
def neither_is_400(request, response):
    if not request.reference:
        response.status = 400


# update-contact writes


@breaks("name-written", only("update-contact"))
def a_name_is_ignored(request):
    if request.fields.get("name"):
        request.fields["name"] = request.contact().get("name") or ""
    return request.respond()


@breaks("email-written", only("update-contact"))
def an_email_is_ignored(request):
    if request.fields.get("email"):
        request.fields["email"] = request.contact().get("email") or ""
    return request.respond()


@breaks("name-cleared", only("update-contact"))
def an_empty_name_is_ignored(request):
    if request.fields.get("name") in ("", "  "):
        del request.fields["name"]
    return request.respond()


@breaks("email-cleared", only("update-contact"))
def an_empty_email_is_refused(request):
    return invalid(request, "email") if request.fields.get("email") == "" else request.respond()


@breaks("unset-null", after("update-contact", "get-contact", status=200))
def unset_is_empty_text(request, response):
    response.json["name"] = response.json["name"] or ""


@breaks("update-shown", only("update-contact"))
def update_shows_the_name_that_was(request):
    before, done = request.contact(), request.respond()
    if done.status == 200:
        done.json["name"] = before["name"]
    return done


@breaks("absent-unchanged", only("update-contact"))
def an_absent_name_is_cleared(request):
    if request.fields.keys() - request.reference.keys():
        request.fields.setdefault("name", "")
    return request.respond()


@breaks("absent-unchanged", only("update-contact"))
def absent_tags_are_cleared(request):
    if request.fields.keys() & {"metadata"}:
        request.fields.setdefault("tags", "")
    return request.respond()


@breaks("tags-replace", only("update-contact"))
def tags_are_appended(request):
    if isinstance(request.fields.get("tags"), str):
        request.fields["tags"] = ",".join(
            [*request.contact().get("tags", []), request.fields["tags"]]
        )
    return request.respond()


@breaks("tags-csv", only("update-contact"))
def tags_are_one_tag(request):
    if isinstance(request.fields.get("tags"), str):
        request.fields["tags"] = request.fields["tags"].replace(",", ";")
    return request.respond()


@breaks("tags-shown", after("update-contact", status=200))
def tags_are_shown_sorted(request, response):
    response.json["tags"].sort()


@breaks("tags-cleared", only("update-contact"))
def empty_tags_are_ignored(request):
    if request.fields.get("tags") == "":
        del request.fields["tags"]
    return request.respond()


def of_metadata(merged):
    """A service in which `merged(stored, sent)` is what an update stores; None is not sent."""
    stored = {}  # by id, once it was written

    def alter(request):
        is_write = request.fields.keys() - request.reference.keys()
        if is_write and request.action in ("update-contact", "create-contact"):
            now, done = request.contact(), request.respond()
            if done.status < 300 and "id" in now:
                old = stored.get(now["id"], now["metadata"])
                stored[now["id"]] = merged(old, request.fields.get("metadata"))
            return done
        done = request.respond()
        if request.action == "get-contact" and done.json.get("id") in stored:
            done.json["metadata"] = stored[done.json["id"]]
        return done

    return alter


@breaks("metadata-written", of_metadata)
def metadata_is_written_once(stored, sent):
    return {**(sent or {}), **stored}


@breaks("metadata-merged", of_metadata)
def metadata_is_replaced(stored, sent):
    return stored if sent is None else sent


@breaks("metadata-shallow", of_metadata)
def metadata_is_merged_deeply(stored, sent):
    deep = {
        key: {**stored[key], **value}
        for key, value in (sent or {}).items()
        if isinstance(value, dict) and isinstance(stored.get(key), dict)
    }
    return {**stored, **(sent or {}), **deep}


@breaks("metadata-absent", of_metadata)
def absent_metadata_is_cleared(stored, sent):
    return {} if sent is None else {**stored, **sent}


@breaks("metadata-json", of_metadata)
def arrays_in_metadata_become_text(stored, sent):
    texts = {k: json.dumps(v) for k, v in (sent or {}).items() if isinstance(v, list)}
    return {**stored, **(sent or {}), **texts}


# Phone numbers, ids and times


@breaks("phone-e164", after(status=200))
def phones_are_shown_without_a_plus(request, response):
    if isinstance(response.json, dict) and "phone" in response.json:
        response.json["phone"] = response.json["phone"].removeprefix("+")


@breaks("phone-spaces")
def phones_are_not_normalised(request):
    return not_found(request) if is_spelled(request.fields.get("phone")) else request.respond()


@breaks("phone-parentheses", only("get-contact", "update-contact"))
def parentheses_are_refused(request):
    is_so = "(" in str(request.fields.get("phone"))
    return invalid(request, "phone") if is_so else request.respond()


@breaks("update-normalises", only("update-contact"))
def update_does_not_normalise(request):
    return not_found(request) if is_spelled(request.fields.get("phone")) else request.respond()


@breaks("id-uuid")
def ids_are_no_uuids(request):
    if isinstance(named := request.fields.get("contact_id"), str):
        request.fields["contact_id"] = named.lower().removeprefix("contact-")
    done = request.respond()
    contacts = done.json if isinstance(done.json, list) else [done.json]
    for contact in contacts if request.action != "me" else []:
        if "id" in contact:
            contact["id"] = f"contact-{contact['id']}"
    return done


@breaks("time-updated", after("update-contact", status=200))
def z_for_utc(request, response):
    response.json["updated_at"] = response.json["updated_at"].replace("+00:00", "Z")


@breaks("time-updated", after("update-contact", status=200))
def times_have_milliseconds(request, response):
    response.json["updated_at"] = response.json["updated_at"].replace("+", ".123+")


@breaks("time-created", after("get-contact", status=200))
def created_at_is_a_number(request, response):
    response.json["created_at"] = 1_778_141_663


# create-contact


@breaks(ONLY_IF_NEW, only("create-contact"), if_new="create-new")
def ok_when_it_creates(request):
    is_new = "id" not in request.contact()
    done = request.respond()
    done.status = 200 if is_new else done.status
    return done


@breaks("create-existing", only("create-contact"))
def ok_when_it_updates(request):
    is_new = "id" not in request.contact()
    done = request.respond()
    done.status = done.status if is_new else 200
    return done


@breaks("create-existing", only("create-contact"))
def conflict_when_the_contact_exists(request):
    is_new = "id" not in request.contact()
    return request.respond() if is_new else response(request, 409, error="The contact exists.")


@breaks("create-upsert", only("create-contact"))
def create_leaves_what_exists_alone(request):
    if "id" in request.contact():
        request.fields = request.reference
    return request.respond()


@breaks("create-writes", only("create-contact"))
def create_ignores_tags(request):
    request.fields.pop("tags", None)
    return request.respond()


# get-contact


@breaks("get-keys", after("get-contact", status=200))
def get_shows_no_locale(request, response):
    del response.json["locale"]


@breaks("get-keys", after("get-contact", status=200))
def get_shows_updated_at(request, response):
    response.json["updated_at"] = response.json["created_at"]


@breaks("get-keys", after("get-contact", status=200))
def get_shows_no_tags(request, response):
    del response.json["tags"]


@breaks("get-values", after("get-contact", status=200))
def get_shows_tags_as_text(request, response):
    response.json["tags"] = ",".join(response.json["tags"])


@breaks("get-values", after("get-contact", status=200))
def get_shows_metadata_as_text(request, response):
    response.json["metadata"] = json.dumps(response.json["metadata"])


@breaks("get-by-phone", only("get-contact"))
def get_does_not_find_by_phone(request):
    return not_found(request) if "phone" in request.fields else request.respond()


@breaks("get-by-id", only("get-contact"))
def get_does_not_find_by_id(request):
    return not_found(request) if "contact_id" in request.fields else request.respond()


@breaks("get-by-email", only("get-contact"))
def get_does_not_find_by_email(request):
    return not_found(request) if request.fields.get("email") else request.respond()


@breaks("get-unknown-id", after("get-contact", status=404))
def an_unknown_id_is_empty(request, response):
    if "contact_id" in request.fields:
        response.status, response.json = 200, {}


@breaks("get-unknown-email", after("get-contact", status=404))
def an_unknown_email_is_422(request, response):
    if "email" in request.fields:
        response.status = 422


@breaks("get-none", after("get-contact", status=422))
def get_without_anything_is_404(request, response):
    if not request.fields:
        response.status = 404


@breaks("get-two", only("get-contact"))
def of_two_the_id_counts(request):
    if "contact_id" in request.fields:
        request.fields.pop("phone", None)
    return request.respond()


@breaks("get-source", after("get-contact", status=200))
def source_is_of_its_own(request, response):
    response.json["source"] = "import"


@breaks("get-locale", after("get-contact", status=200))
def locale_is_an_object(request, response):
    response.json["locale"] = {"language": "fr"}


@breaks("get-times", after("get-contact", status=200))
def consent_is_true_or_false(request, response):
    response.json["opted_in_at"] = True


@breaks("get-messages", after("get-contact", status=200))
def messages_are_text(request, response):
    response.json["total_messages"] = str(response.json["total_messages"])


# search-contacts


@breaks("search-array", after("search-contacts", status=200))
def search_has_an_envelope(request, response):
    response.json = {"data": response.json}


@breaks("search-array", after("search-contacts", status=200))
def search_has_no_limit(request, response):
    response.json *= 51


@breaks("search-tag", only("search-contacts"))
def the_filter_tag_is_ignored(request):
    request.fields.pop("tag", None)
    return request.respond()


@breaks("search-keys", after("search-contacts", status=200))
def search_shows_no_email(request, response):
    for contact in response.json:
        del contact["email"]


@breaks("search-values", after("search-contacts", status=200))
def search_shows_tags_as_text(request, response):
    for contact in response.json:
        contact["tags"] = ",".join(contact["tags"])


@breaks("search-nothing", after("search-contacts", status=200))
def nothing_found_is_404(request, response):
    if not response.json:
        response.status, response.json = 404, {"error": "Not found", "message": "Not found"}


@breaks("search-tag-exact", only("search-contacts"))
def a_part_of_a_tag_is_enough(request):
    tag = request.fields.pop("tag", "")
    done = request.respond()
    if done.status == 200 and tag:
        done.json = [c for c in done.json if any(tag in each for each in c["tags"])]
    return done


def found_if(is_found):
    """A search whose query finds `is_found(query, contact)`."""
    return after("search-contacts", status=200)(
        lambda request, response: setattr(
            response,
            "json",
            [c for c in response.json if is_found(request.fields.get("query", ""), c)],
        )
    )


@breaks("search-phone", found_if)
def query_does_not_search_phones(query, contact):
    return not query.isdecimal()


@breaks("search-name", found_if)
def query_does_not_search_names(query, contact):
    return not query or query in f"{contact['phone']} {contact['email']}"


@breaks("search-case", found_if)
def query_tells_cases_apart(query, contact):
    return query in f"{contact['phone']} {contact['name']} {contact['email']}"


@breaks("search-email", found_if)
def query_does_not_search_emails(query, contact):
    return "@" not in query


@breaks("search-by-email", only("search-contacts"))
def the_filter_email_is_ignored(request):
    request.fields.pop("email", None)
    return request.respond()


@breaks("search-email-exact", only("search-contacts"))
def a_part_of_an_email_is_enough(request):
    email = request.fields.pop("email", "")
    done = request.respond()
    if done.status == 200:
        done.json = [contact for contact in done.json if email in (contact["email"] or "")]
    return done


@breaks("search-and", only("search-contacts"))
def one_filter_is_enough(request):
    found = {}
    for name, value in request.fields.items() or [("query", "")]:
        done = request.send("search-contacts", **{name: value})
        if done.status == 200 and (value or len(request.fields) < 2):
            found |= {contact["id"]: contact for contact in done.json}
    if done.status == 200:
        done.json = list(found.values())
    return done


@breaks("search-empty-filter", only("search-contacts"))
def an_empty_filter_finds_nothing(request):
    done = request.respond()
    if "" in request.fields.values():
        done.json = []
    return done


@breaks("search-messages", after("search-contacts", status=200))
def the_oldest_message_is_first(request, response):
    response.json.reverse()


# add-tag and remove-tag


@breaks("add-tag", only("add-tag"))
def add_tag_replaces(request):
    if "tag" in request.fields:
        request.send("update-contact", **request.reference, tags="")
    return request.respond()


@breaks("add-tag-by-id", only("add-tag"))
def add_tag_does_not_find_by_id(request):
    return not_found(request) if "contact_id" in request.fields else request.respond()


@breaks("add-tag-keys", after("add-tag", status=200))
def add_tag_says_tag(request, response):
    response.json["tag"] = response.json.pop("tag_added")


@breaks("add-tag-twice", only("add-tag"))
def a_tag_that_is_there_is_refused(request):
    is_there = request.fields.get("tag") in request.contact().get("tags", [])
    return invalid(request, "tag") if is_there else request.respond()


@breaks("add-tag-required", after("add-tag", status=422))
def add_tag_needs_no_tag(request, response):
    if "tag" not in request.fields:
        response.status, response.json = 200, request.contact()


@breaks("remove-tag", only("remove-tag"))
def remove_tag_removes_all(request):
    if "tag" in request.fields:
        request.send("update-contact", **request.reference, tags="")
    return request.respond()


@breaks("remove-tag-by-id", only("remove-tag"))
def remove_tag_does_not_find_by_id(request):
    return not_found(request) if "contact_id" in request.fields else request.respond()


@breaks("remove-tag-keys", after("remove-tag", status=200))
def remove_tag_says_no_tags(request, response):
    del response.json["tags"]


@breaks("remove-tag-missing", only("remove-tag"))
def a_tag_that_is_not_there_is_not_found(request):
    is_there = request.fields.get("tag") in request.contact().get("tags", [])
    return request.respond() if is_there or "tag" not in request.fields else not_found(request)


@breaks("remove-tag-required", after("remove-tag", status=422))
def remove_tag_without_a_tag_is_400(request, response):
    if "tag" not in request.fields:
        response.status = 400


# Conventions


@breaks("base-paths")
def v1_alone_is_not_found(request):
    if request.path.startswith("/v1") and request.action == "search-contacts":
        return not_found(request)
    return request.respond()


@breaks("me-keys", after("me", status=200))
def me_names_no_tenant(request, response):
    del response.json["tenant"]


@breaks("me-values", after("me", status=200))
def me_has_an_id_in_text(request, response):
    response.json["id"] = str(response.json["id"])


@breaks("me-tenant", after("me", status=200))
def a_tenant_has_a_number(request, response):
    response.json["tenant"]["id"] = 42


@breaks("statuses", after("search-contacts", status=200))
def a_search_is_206(request, response):
    response.status = 206


@breaks("json-type", after("get-contact"))
def json_is_sent_as_html(request, response):
    response.headers["Content-Type"] = "text/html"


@breaks("json-type", after(status=404))
def errors_are_sent_as_text(request, response):
    response.headers["Content-Type"] = "text/plain"


@breaks("type-charset")
def a_charset_is_refused(request):
    has_one = "charset" in request.content_type
    return response(request, 415, error="Unsupported") if has_one else request.respond()


@breaks("type-suffix")
def json_alone_is_accepted(request):
    has_suffix = "+json" in request.content_type
    return response(request, 415, error="Unsupported") if has_suffix else request.respond()


# Errors


@breaks("auth-missing", after(status=401))
def forbidden_without_a_token(request, response):
    if not request.authorization:
        response.status = 403


@breaks("auth-everywhere")
def search_needs_no_token(request):
    if request.action == "search-contacts" and not request.authorization:
        request.environ["HTTP_AUTHORIZATION"] = "Bearer sandbox"
    return request.respond()


@breaks("auth-unknown", after(status=401))
def an_unknown_token_is_forbidden(request, response):
    if "unknown" in (request.authorization or ""):
        response.status = 403


@breaks("auth-text", after(status=401))
def a_401_says_unauthorized(request, response):
    response.json["message"] = response.json["error"] = "Unauthorized"


@breaks("error-key", after(status=404))
def errors_have_a_message_alone(request, response):
    del response.json["error"]


@breaks("error-validation", after(status=422))
def no_errors_by_field(request, response):
    del response.json["errors"]


@breaks("error-validation", after(status=422))
def errors_are_no_lists(request, response):
    response.json["errors"] = {k: v[0] for k, v in response.json["errors"].items()}


# Failures that do not go away, each of one request


@breaks("get-two", after("get-contact", status=422))
def too_many_requests_for_two(request, response):
    if len(request.fields) == 2:
        response.status, response.headers["Retry-After"] = 429, "0"


@breaks("add-tag-required", after("add-tag"))
def the_connection_is_cut(request, response):
    if "tag" not in request.fields:
        request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


@breaks("search-case", after("search-contacts"))
def some_searches_are_503(request, response):
    if request.fields.get("query", "").isupper():
        response.status = 503


# The rate limit


@breaks("rate-headers", after())
def what_remains_is_not_said(request, response):
    response.headers["X-RateLimit-Limit"] = "120"


# Rules of this project's, which are no failure

OURS = []


def differs(rule, decorator=lambda alter: alter):
    def decorate(alter):
        OURS.append((alter.__name__.replace("_", " "), rule, rule, decorator(alter)))
        return alter

    return decorate


@differs("metadata-null", of_metadata)
def null_deletes(stored, sent):
    return {k: value for k, value in {**stored, **(sent or {})}.items() if value is not None}


@differs("unchanged-time", after("update-contact", status=200))
def every_request_moves_updated_at(request, response):
    response.json["updated_at"] = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


@differs("changed-time", after("update-contact", status=200))
def updated_at_never_moves(request, response):
    response.json["updated_at"] = "2026-05-07T08:14:23+00:00"


@differs("null-field", only("update-contact"))
def null_is_ignored(request):
    fields = request.fields
    request.fields = {k: v for k, v in fields.items() if v is not None or k == "contact_id"}
    return request.respond()


@differs("unknown-field", only("update-contact"))
def unknown_fields_are_ignored(request):
    request.fields.pop("conform", None)
    return request.respond()


@differs("refused-whole", after("update-contact", status=422))
def what_is_valid_is_written_all_the_same(request, response):
    if request.fields.get("email") == "conform" and "name" in request.fields:
        request.send("update-contact", **request.reference, name=request.fields["name"])


@differs("search-updates", after("search-contacts", status=200))
def the_last_update_does_not_decide(request, response):
    by = operator.itemgetter("last_message_at", "phone")
    response.json.sort(key=lambda contact: [text or "" for text in by(contact)], reverse=True)


@differs("error-malformed", after(status=400))
def malformed_is_422(request, response):
    response.status = 422


@differs("error-array", after("update-contact"))
def an_array_is_too_much(request, response):
    if isinstance(request.json, list):
        response.status = 500
