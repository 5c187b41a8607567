# ruff: noqa: RUF001 - typographic apostrophes are what a reader of these languages expects
"""The words of the tracking page, in each language it speaks.

Every text is ours; what partners and custodians write comes in through named fields, which are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from markupsafe import Markup

from gateway.model import FailureCode, format_amount

#: The language where a client asks for none that we have.
DEFAULT = "en"
#: More entries than a browser sends; the rest is not read.
_MOST_ACCEPTED = 20

_EN = {
    "sender": "the sender",
    "from_org": "Payment from {org}",
    "from_nobody": "Payment",
    "test": "Test",
    "skip": "Skip to the payment",
    "pending": "Preparing",
    "pending_text": "{Org} has ordered this payment. It is waiting to be sent.",
    "approval": "Waiting for approval",
    "approval_text": "A person has to approve this payment before it is sent. "
    "You do not need to do anything.",
    "broadcast": "On its way",
    "broadcast_text": "The payment has been sent to the network and is being confirmed.",
    "late_text": "This takes longer than usual. You do not need to do anything.",
    "delivered": "Delivered",
    "delivered_text": "{at}, {after} after it was started.",
    "returned": "Returned",
    "returned_text": "The payment was delivered, and {amount} came back to {org}.",
    "part_returned": "Delivered, partly returned",
    "returned_next": "Ask {org} why it came back and whether they will send it again. "
    "Mention <b>{reference}</b>.",
    "code": "Your code is needed",
    "code_phone": "Enter the code that was sent to your phone ending in {tail}.",
    "code_target": "Enter the code that was sent to {target}.",
    "code_known": "Enter the code that you were given.",
    "code_app": "Answer in the app of {org}.",
    "code_locked": "Too many codes were not accepted. Ask {org} for a new one.",
    "answer": "Your answer is needed",
    "unknown": "Checking with the provider",
    "unknown_text": "The provider has not given a clear answer yet. You do not need to do anything.",
    "failed": "Not delivered",
    "next": "What to do next",
    "means": "What this means",
    "unknown_means": "It will not be sent twice, and it is not marked as failed until the provider "
    "confirms it. This page changes by itself.",
    "failed_kept": "No money has left {org}. Ask them to check your account details and to send it "
    "again. Mention <b>{reference}</b>.",
    "failed_gone": "Ask {org} where the money is. Mention <b>{reference}</b>.",
    "left": "left, estimated",
    "accepted": "Accepted",
    "sent": "Sent",
    "not_sent": "Not sent",
    "after_code": "after your code",
    "after_approval": "after approval",
    "being_checked": "being checked",
    "about": "about {at}",
    "field": "One-time code",
    "hint": "8 letters and digits. Valid for another {left}.",
    "confirm": "Confirm payment",
    "said_wrong": "That code was not accepted. Check it and try again.",
    "said_sent": "Code received. This page shows what follows.",
    "said_sending": "Sending the code",
    "said_over": "This code cannot be used any more. Ask {org} for a new link.",
    "said_busy": "The code could not be sent. Wait a moment and try again.",
    "details": "Payment details",
    "to": "To",
    "to_account": "Account ending in {tail}",
    "to_bank": "Bank account in {country} ({currency})",
    "to_erased": "No longer kept",
    "network": "Network",
    "provider": "Provider",
    "transaction": "Transaction",
    "reference": "Reference",
    "came_back": "Returned",
    "started": "Started",
    "copy": "Copy {name}",
    "copied": "Copied",
    "live": "Updates by itself. Last change {at}.",
    "polling": "Updates every few seconds. Last change {at}.",
    "final": "This is the final state. Last change {at}.",
    "never": "This page never asks for a password or a card number.",
    "missing": "This link does not work",
    "missing_text": "Ask the sender for a new one.",
    "many": "Too many attempts",
    "many_text": "Wait a minute and open the link again. If it still does not work, ask the sender for "
    "a new one.",
    "day": "on {date} at {time}",
    "today": "Today at {time}",
    "why_insufficient_funds": "The sender’s account did not cover the payment.",
    "why_source_rejected": "The sender’s account could not be used.",
    "why_destination_rejected": "The receiving account refused the payment.",
    "why_policy_rejected": "The payment was not approved.",
    "why_compliance_rejected": "The payment did not pass a required check.",
    "why_amount_rejected": "The provider does not accept this amount.",
    "why_chain_rejected": "The network refused the transaction.",
    "why_third_party_failed": "A provider on the way could not complete the payment.",
    "why_submission_rejected": "The provider refused the payment.",
    "why_authentication_expired": "The code was not entered in time.",
    "why_canceled": "The payment was canceled.",
    "why_expired": "The payment ran out of time.",
    "why_custodian_error": "The provider could not complete the payment.",
    "why_operator_decision": "The payment was ended after a check by hand.",
    "why_not_sent_in_time": "The payment was not sent in time.",
    "why_unknown_reason": "The provider gave no reason that we can show.",
}
_FR = {
    "sender": "l’expéditeur",
    "from_org": "Paiement de {org}",
    "from_nobody": "Paiement",
    "test": "Test",
    "skip": "Aller au paiement",
    "pending": "En préparation",
    "pending_text": "{Org} a ordonné ce paiement. Il attend d’être envoyé.",
    "approval": "En attente d’approbation",
    "approval_text": "Une personne doit approuver ce paiement avant son envoi. "
    "Vous n’avez rien à faire.",
    "broadcast": "En route",
    "broadcast_text": "Le paiement a été transmis au réseau et attend sa confirmation.",
    "late_text": "C’est plus long que d’habitude. Vous n’avez rien à faire.",
    "delivered": "Reçu",
    "delivered_text": "{at}, {after} après le début.",
    "returned": "Retourné",
    "returned_text": "Le paiement avait été remis, puis {amount} sont revenus à {org}.",
    "part_returned": "Reçu, retourné en partie",
    "returned_next": "Demandez à {org} pourquoi l’argent est revenu et si le paiement sera renvoyé. "
    "Indiquez <b>{reference}</b>.",
    "code": "Votre code est nécessaire",
    "code_phone": "Saisissez le code envoyé à votre téléphone se terminant par {tail}.",
    "code_target": "Saisissez le code envoyé à {target}.",
    "code_known": "Saisissez le code qui vous a été donné.",
    "code_app": "Répondez dans l’application de {org}.",
    "code_locked": "Trop de codes ont été refusés. Demandez-en un nouveau à {org}.",
    "answer": "Votre réponse est nécessaire",
    "unknown": "Vérification auprès du prestataire",
    "unknown_text": "Le prestataire n’a pas encore donné de réponse claire. Vous n’avez rien à faire.",
    "failed": "Non remis",
    "next": "Que faire maintenant",
    "means": "Ce que cela signifie",
    "unknown_means": "Il ne sera pas envoyé deux fois, et il n’est pas déclaré en échec tant que le "
    "prestataire ne l’a pas confirmé. Cette page se met à jour d’elle-même.",
    "failed_kept": "L’argent n’a pas quitté {org}. Demandez de vérifier les coordonnées de votre "
    "compte et de renvoyer le paiement. Indiquez <b>{reference}</b>.",
    "failed_gone": "Demandez à {org} où se trouve l’argent. Indiquez <b>{reference}</b>.",
    "left": "restantes, estimation",
    "accepted": "Accepté",
    "sent": "Envoyé",
    "not_sent": "Non envoyé",
    "after_code": "après votre code",
    "after_approval": "après approbation",
    "being_checked": "en vérification",
    "about": "vers {at}",
    "field": "Code à usage unique",
    "hint": "8 lettres et chiffres. Valable encore {left}.",
    "confirm": "Confirmer le paiement",
    "said_wrong": "Ce code n’a pas été accepté. Vérifiez-le et réessayez.",
    "said_sent": "Code reçu. Cette page montre la suite.",
    "said_sending": "Envoi du code",
    "said_over": "Ce code ne peut plus être utilisé. Demandez un nouveau lien à {org}.",
    "said_busy": "Le code n’a pas pu être envoyé. Attendez un instant et réessayez.",
    "details": "Détails du paiement",
    "to": "Vers",
    "to_account": "Compte se terminant par {tail}",
    "to_bank": "Compte bancaire : {country} ({currency})",
    "to_erased": "N’est plus conservé",
    "network": "Réseau",
    "provider": "Prestataire",
    "transaction": "Transaction",
    "reference": "Référence",
    "came_back": "Retourné",
    "started": "Début",
    "copy": "Copier : {name}",
    "copied": "Copié",
    "live": "Mise à jour automatique. Dernier changement {at}.",
    "polling": "Mise à jour régulière. Dernier changement {at}.",
    "final": "C’est l’état final. Dernier changement {at}.",
    "never": "Cette page ne demande jamais de mot de passe ni de numéro de carte.",
    "missing": "Ce lien ne fonctionne pas",
    "missing_text": "Demandez-en un nouveau à l’expéditeur.",
    "many": "Trop de tentatives",
    "many_text": "Attendez une minute et ouvrez le lien de nouveau. S’il ne fonctionne toujours pas, "
    "demandez-en un nouveau à l’expéditeur.",
    "day": "le {date} à {time}",
    "today": "Aujourd’hui à {time}",
    "why_insufficient_funds": "Le compte de l’expéditeur ne couvrait pas le paiement.",
    "why_source_rejected": "Le compte de l’expéditeur n’a pas pu être utilisé.",
    "why_destination_rejected": "Le compte de réception a refusé le paiement.",
    "why_policy_rejected": "Le paiement n’a pas été approuvé.",
    "why_compliance_rejected": "Le paiement n’a pas passé un contrôle obligatoire.",
    "why_amount_rejected": "Le prestataire n’accepte pas ce montant.",
    "why_chain_rejected": "Le réseau a refusé la transaction.",
    "why_third_party_failed": "Un prestataire intermédiaire n’a pas pu effectuer le paiement.",
    "why_submission_rejected": "Le prestataire a refusé le paiement.",
    "why_authentication_expired": "Le code n’a pas été saisi à temps.",
    "why_canceled": "Le paiement a été annulé.",
    "why_expired": "Le délai du paiement est dépassé.",
    "why_custodian_error": "Le prestataire n’a pas pu effectuer le paiement.",
    "why_operator_decision": "Le paiement a été clos après une vérification manuelle.",
    "why_not_sent_in_time": "Le paiement n’a pas été envoyé à temps.",
    "why_unknown_reason": "Le prestataire n’a donné aucune raison que nous puissions afficher.",
}
LANGUAGES: Mapping[str, Mapping[str, str]] = {"en": _EN, "fr": _FR}
_NUMBERS = {
    "en": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "fr": ("une", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
}
_UNITS = {
    "en": {"day": ("day", "days"), "hour": ("hour", "hours"), "minute": ("minute", "minutes")},
    "fr": {"day": ("jour", "jours"), "hour": ("heure", "heures"), "minute": ("minute", "minutes")},
}
_MOMENT = {"en": "less than a minute", "fr": "moins d’une minute"}
_MONTHS = {
    "en": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    "fr": (
        "janv.",
        "févr.",
        "mars",
        "avr.",
        "mai",
        "juin",
        "juil.",
        "août",
        "sept.",
        "oct.",
        "nov.",
        "déc.",
    ),
}
#: what separates thousands, and the decimal sign
_MARKS = {"en": (",", "."), "fr": ("\u202f", ",")}
_LEAST_DECIMALS = 2
_TAG = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*|\*")


class Words:
    """One language: texts by name, amounts, dates and durations."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._texts = LANGUAGES[language]

    def __call__(self, name: str, /, **fields: Any) -> Markup:
        """Return a text as HTML; every field is escaped. KeyError if there is no such text."""
        return Markup(self._texts[name]).format(**fields)  # noqa: S704 - our own text; format() escapes

    def raw(self, name: str) -> str:
        """Return a text with its fields as they stand, for the page's script."""
        return self._texts[name]

    def sender(self, org: str | None, *, first: bool = False) -> str:
        """Return what the sender is called, perhaps at the beginning of a sentence."""
        if org is not None:
            return org
        word = self._texts["sender"]
        return word[0].upper() + word[1:] if first else word

    def reason(self, code: FailureCode) -> Markup:
        """Return why a payout failed. The custodian's own words are not for its recipient."""
        name = f"why_{code.value}"
        return self(name if name in self._texts else "why_unknown_reason")

    def amount(self, amount: Decimal) -> str:
        """Return an exact amount with separators, and two decimals at least: `1,250.00`."""
        whole, _, fraction = format_amount(amount).partition(".")
        comma, point = _MARKS[self.language]
        return f"{int(whole):,}".replace(",", comma) + point + fraction.ljust(_LEAST_DECIMALS, "0")

    def date(self, at: datetime) -> str:
        """Return a day: `26 Nov`."""
        return f"{at.day} {_MONTHS[self.language][at.month - 1]}"

    def duration(self, long: timedelta) -> str:
        """Return a duration in its largest unit: `three minutes`."""
        minutes = int(long.total_seconds()) // 60
        if minutes < 1:
            return _MOMENT[self.language]
        if minutes < 60:  # noqa: PLR2004 - of an hour
            return self._count(minutes, "minute")
        if minutes < 48 * 60:
            return self._count(minutes // 60, "hour")
        return self._count(minutes // (24 * 60), "day")

    def _count(self, number: int, unit: str) -> str:
        numbers = _NUMBERS[self.language]
        word = numbers[number - 1] if number <= len(numbers) else str(number)
        return f"{word} {_UNITS[self.language][unit][number > 1]}"


_WORDS = {language: Words(language) for language in LANGUAGES}


def words_of(language: str) -> Words:
    """Return the words of a language that we have."""
    return _WORDS[language]


def accepted_language(header: str) -> str:
    """Return the language that a client likes best among ours, by `Accept-Language` (RFC 9110).

    Anything that cannot be read counts as not said. `fr-CA` means French.
    """
    liked: list[tuple[float, int, str]] = []
    for place, entry in enumerate(header[:1000].split(",")[:_MOST_ACCEPTED]):
        tag, _, parameter = entry.strip().partition(";")
        quality = _quality(parameter)
        language = tag.strip().lower().partition("-")[0]
        if not _TAG.fullmatch(tag.strip()) or quality <= 0:
            continue
        if language == "*":
            language = DEFAULT
        if language in LANGUAGES:
            liked.append((-quality, place, language))
    return min(liked)[2] if liked else DEFAULT


def _quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if not name:
        return 1.0
    if name.strip().lower() != "q" or not re.fullmatch(r"[01](\.[0-9]{0,3})?", value.strip()):
        return 0.0
    return min(1.0, float(value))
