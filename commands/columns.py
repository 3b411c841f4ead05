"""What the columns of a CSV file mean, by their titles."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain

from commands.base import Unfinished

# The columns of an export. The id is first: a line that begins with a phone's + can be a formula to
# a spreadsheet that separates cells by semicolons.
EXPORTED = [
    *("id", "phone", "name", "email", "tags", "metadata", "source"),
    *("locale", "opted_in_at", "opted_out_at", "last_message_at", "total_messages"),
    *("created_at", "updated_at"),
]
EXPORTED_BY_0_2 = [*EXPORTED[:7], *EXPORTED[-2:]]
# Other programs have columns of these names too, which mean something else.
TECHNICAL = ("id", "source", "created_at", "updated_at")

# A further column, in a file of refused rows; an import ignores it.
REASON = "refused_because"
KEPT = "metadata"  # what becomes of a column of no field
AS_IT_IS = "other"  # what --map calls that

# The usual titles in English, French, German and Spanish, and those of the programs in
# docs/import.md, in lower case without accents and punctuation. Where a file has several for one
# field, the first that is not empty counts, in this order.
TITLES = {
    "phone": """
        whatsapp whatsappnumber whatsappphonenumber whatsappphone whatsappid waid
        numerowhatsapp numerodewhatsapp whatsappnummer
        mobile mobilephone mobilenumber mobileno mobilephonenumber phonemobile personphonemobile
        cell cellphone cellnumber cellphonenumber sms
        portable telephoneportable telportable numerodeportable telephonemobile telmobile
        numerodemobile numeromobile numerodetelephoneportable numerodetelephonemobile gsm
        handy handynummer handynr mobil mobilnummer mobilnr mobiltelefon mobiltelefonnummer
        telefonmobil telmobil
        movil telefonomovil numeromovil numerodemovil celular telefonocelular numerodecelular
        phone phonenumber phoneno phone1 phone2 contactnumber contactno contactphone tel telno
        telephone telephonenumber
        primaryphone personphone phone1value phone2value phone3value phone4value billingphone
        numerodetelephone numerotelephone notelephone nodetelephone ntelephone ndetelephone numtel
        telefon telefonnummer telefonnr telnr rufnummer
        telefono numerodetelefono numerotelefono nodetelefono tfno tlf
        homephone homephone2 personphonehome telephonedomicile telefonprivat telefonocasa
        telephonefixe telfixe fixe festnetz festnetznummer telefonofijo landline landlinenumber
        workphone worknumber personphonework businessphone businessphone2 officephone
        telephoneprofessionnel telephonebureau telephonetravail telpro telefongeschaftlich
        telefontrabajo telefonotrabajo telefonodetrabajo telefonodeltrabajo telefonoparticular
        companyphone companymainphone otherphone personphoneother carphone defaultaddressphone""",
    "name": """
        name fullname contactname displayname completename savedname customername clientname
        personname nom nomcomplet nometprenom prenometnom nomprenom prenomnom nomducontact
        nomduclient vollstandigername vorundnachname vornameundnachname anzeigename kontaktname
        kundenname nombre nombrecompleto nombreyapellidos nombreyapellido nombredelcontacto
        nombredelcliente publicname pushname""",
    "first_name": """
        firstname givenname forename fname personfirstname billingfirstname prenom prenoms vorname
        nombredepila primernombre nombres""",
    "middle_name": "middlename additionalname deuxiemeprenom zweitervorname segundonombre",
    "last_name": """
        lastname familyname surname lname personlastname billinglastname nomdefamille nachname
        familienname apellido apellidos""",
    "email": """
        email emailaddress emailid mail primaryemail personemail personemailwork personemailhome
        personemailother email1value email2value email3value useremail billingemail
        email1 email2 courriel adressemail adressedemessagerie adresseemail adressecourriel
        adresseelectronique
        emailadresse mailadresse
        correo correoelectronico direcciondecorreo direcciondecorreoelectronico
        email2address email3address workemail homeemail secondaryemail otheremail""",
    "tags": """
        tags tag labels label groupmembership categories groups personlabels personlabel
        etiquettes etiquette libelles groupes schlagworte schlagworter stichworter kategorien
        gruppen etiquetas etiqueta categorias grupos""",
    "metadata": "metadata",
    "locale": """
        locale language lang languagecode preferredlanguage langue sprache idioma lengua""",
    "opted_in_at": """
        optedinat optinat optindate optedindate optintimestamp consentdate dateofconsent
        consentgivenat consentat consentedat datedeconsentement dateduconsentement
        dateconsentement datedoptin dateoptin einwilligungsdatum datumdereinwilligung
        einwilligungam optindatum fechadeconsentimiento fechaconsentimiento fechadeoptin""",
    "opted_out_at": """
        optedoutat optoutat optoutdate optedoutdate optouttimestamp unsubscribedat unsubscribedate
        dateunsubscribed datedoptout dateoptout datededesinscription datedesinscription
        abmeldedatum widerrufsdatum optoutdatum fechadebaja fechadeoptout""",
    "last_message_at": "lastmessageat lastmessagedate",
    "total_messages": "totalmessages",
    "id": "id contactid",
    "source": "source",
    "created_at": "createdat",
    "updated_at": "updatedat",
    REASON: "refusedbecause",
}
FIELDS = {
    title: (field, rank)
    for field, titles in TITLES.items()
    for rank, title in enumerate(titles.split())
}
NAME_PARTS = ["first_name", "middle_name", "last_name"]  # which make a name where there is no other
MAPPABLE = [field for field in TITLES if field != REASON] + [AS_IT_IS]

_ABOUT_CONSENT = re.compile(
    "subscribed|unsubscri|optout|optedout|optin|optedin|consent|blacklist|donotcontact|accepts.*marketing"
    "|desabonn|desinscri|abgemeldet|abmeldung|einwilligung|widerruf|suscrito|desuscri|^baja$|debaja"
)

Source = tuple[int, ...]  # positions of columns, whose cells are joined


@cache
def comparable(title: str) -> str:
    """Return the title without case, accents and punctuation, or as it is if that leaves none."""
    decomposed = unicodedata.normalize("NFKD", title.casefold())
    return "".join(c for c in decomposed if c.isalnum()) or title.strip()


def is_about_consent(title: str) -> bool:
    """Return whether a column of that title may say who wants messages, or who wants none."""
    return bool(_ABOUT_CONSENT.search(comparable(title)))


class Columns:
    """The columns of a file by their titles.

    `mapping` names fields by titles, which count before all others of the field. With `trusted` the
    technical columns count whatever the others are. Raises Unfinished.
    """

    def __init__(self, titles: Sequence[str], mapping: Mapping[str, str], trusted: bool):
        self.names = _distinct(titles)
        self.of_an_export = {title.strip() for title in titles} >= set(EXPORTED_BY_0_2)
        fields = self._fields(titles, mapping, trusted or self.of_an_export)
        self.fields = [field for field, _ in fields]
        # Where to look for each field, in order.
        sources: dict[str, list[Source]] = defaultdict(list)
        for position in sorted(range(len(fields)), key=lambda i: fields[i]):
            sources[self.fields[position]].append((position,))
        self.kept = [position for (position,) in sources.pop(AS_IT_IS, [])]
        self.ignored = {position for (position,) in sources.pop(REASON, [])}
        if parts := [sources.pop(part)[0] for part in NAME_PARTS if part in sources]:
            sources["name"].append(tuple(chain(*parts)))
        self.sources = dict(sources)

    def _fields(
        self, titles: Sequence[str], mapping: Mapping[str, str], technical: bool
    ) -> list[tuple[str, int]]:
        """Return for each column its field, and its rank among those of that field."""
        mapped = {
            comparable(title): (field, place - len(mapping))
            for place, (title, field) in enumerate(mapping.items())
        }
        names = [comparable(name) for name in self.names]
        for title in mapping:
            if comparable(title) not in names:
                raise Unfinished(
                    f"--map: no column is named {title}. The columns are: {', '.join(self.names)}."
                )
        fields = []
        for name, title in zip(names, map(comparable, titles), strict=True):
            place = FIELDS.get(title, (AS_IT_IS, 0))
            if place[0] in TECHNICAL and not technical:
                place = (AS_IT_IS, 0)
            fields.append(mapped.get(name, place))
        parts = {field for field, _ in fields} & {"first_name", "last_name"}
        for position, name in enumerate(names):
            if name in mapped:
                continue
            if name in ("name", "nom") and parts == {"first_name"}:
                fields[position] = ("last_name", 0)
            if name == "nombre" and parts == {"last_name"}:
                fields[position] = ("first_name", 0)
        return fields

    def meaning(self, position: int) -> str:
        """Return what becomes of the column, in a word or two."""
        field = self.fields[position]
        if field == AS_IT_IS:
            return KEPT
        if field == REASON:
            return "ignored"
        if field in NAME_PARTS:
            return "name" if any(position in source for source in self.sources["name"]) else KEPT
        return field

    def orders(self) -> dict[str, str]:
        """Return, for each field that has several columns, their names in order."""
        return {
            field: ", ".join(" + ".join(self.names[i] for i in source) for source in sources)
            for field, sources in self.sources.items()
            if len(sources) > 1
        }


def _distinct(titles: Sequence[str]) -> list[str]:
    """Return the titles with numbers for those that are empty or repeated."""
    names = []
    for position, title in enumerate(titles, 1):
        title = title.strip() or f"column {position}"
        name, number = title, 1
        while name in names:
            number += 1
            name = f"{title} {number}"
        names.append(name)
    return names


def can_be_header(titles: Sequence[str], mapping: Mapping[str, str]) -> bool:
    """Return whether one of the titles is that of a phone, and none is a phone or an address."""
    if any("@" in title or sum(map(str.isdecimal, title)) > 6 for title in titles):
        return False
    phones = {comparable(title) for title, field in mapping.items() if field == "phone"}
    return any(
        title in phones or FIELDS.get(title, ("",))[0] == "phone"
        for title in map(comparable, titles)
    )
