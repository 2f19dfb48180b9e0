"""Kinds of items of the Portuguese -> English corpus: years, dates and times."""

from __future__ import annotations

import datetime

from babel.dates import (
    format_date,
    format_interval,
    format_skeleton,
    format_time,
    get_day_names,
    get_month_names,
)

from functional_models.corpora.kinds import EN, PT, Item, Phrase, Values, in_both, kind
from functional_models.corpora.number_words import (
    english,
    english_ordinal,
    english_year,
    portuguese,
)


@kind("year")
def year(values: Values) -> Item:
    """Draw a year with its preposition: em mil novecentos e um -> in nineteen oh-one."""
    value = values.own(lambda: values.random.randint(1101, 2029), str)
    return Item(
        Phrase(f"em {value}", f"in {value}"),
        Phrase(f"em {portuguese(value)}", f"in {english_year(value)}"),
    )


_MONTHS = {locale: get_month_names("wide", locale=locale) for locale in (PT, EN)}
_WEEKDAYS = {locale: get_day_names("wide", locale=locale) for locale in (PT, EN)}
_ANY_LEAP_YEAR = datetime.date(2000, 1, 1)
_ON = ("em ", "on ")


def _day_in_words(day: datetime.date) -> Phrase:
    number = "primeiro" if day.day == 1 else portuguese(day.day)
    source = f"{number} de {_MONTHS[PT][day.month]}"
    return Phrase(source, f"{_MONTHS[EN][day.month]} {english_ordinal(day.day)}", *_ON)


def _date_in_words(day: datetime.date) -> Phrase:
    words = _day_in_words(day)
    source = f"{words.source} de {portuguese(day.year)}"
    return Phrase(source, f"{words.target}, {english_year(day.year)}", *_ON)


def _date(day: datetime.date, style: str) -> Phrase:
    return in_both(format_date, day, style, prepositions=_ON)


@kind("date")
def date_short(values: Values) -> Item:
    """Draw a date as 21/04/2024 -> 4/21/24."""
    day = values.date()
    return Item(_date(day, "short"), _date_in_words(day), reversible=False)


@kind("date")
def date_medium(values: Values) -> Item:
    """Draw a date as 21 de abr. de 2024 -> Apr 21, 2024."""
    return Item(_date(values.date(), "medium"))


@kind("date")
def date_long(values: Values) -> Item:
    """Draw a date as 21 de abril de 2024 -> April 21, 2024."""
    day = values.date()
    return Item(_date(day, "long"), _date_in_words(day))


def _with_weekday(day: datetime.date, phrase: Phrase) -> Phrase:
    source, target = (_WEEKDAYS[locale][day.weekday()] for locale in (PT, EN))
    return Phrase(
        f"{source}, {phrase.source}",
        f"{target}, {phrase.target}",
        "na " if source.endswith("feira") else "no ",
        "on ",
    )


@kind("date")
def date_full(values: Values) -> Item:
    """Draw a date as domingo, 21 de abril de 2024 -> Sunday, April 21, 2024."""
    day = values.date()
    # CLDR's full date is the weekday followed by the long date; a test compares them.
    return Item(_with_weekday(day, _date(day, "long")), _with_weekday(day, _date_in_words(day)))


@kind("date")
def weekday_and_day(values: Values) -> Item:
    """Draw a weekday and a day of any year: domingo, 21 de abril -> Sunday, April 21."""
    day = _ANY_LEAP_YEAR + datetime.timedelta(values.random.randrange(28 * 365))
    return Item(_with_weekday(day, _day_in_figures(day)), _with_weekday(day, _day_in_words(day)))


def _day_in_figures(day: datetime.date) -> Phrase:
    return in_both(format_skeleton, "MMMMd", day, prepositions=_ON)


@kind("date")
def day_and_month(values: Values) -> Item:
    """Draw a day of any year: primeiro de maio -> May first."""
    day = _ANY_LEAP_YEAR + datetime.timedelta(values.random.randrange(366))
    return Item(_day_in_figures(day), _day_in_words(day))


@kind("year")
def month_and_year(values: Values) -> Item:
    """Draw a month of a year: em abril de 2024 -> in April 2024."""
    value = values.own(lambda: values.random.randint(1801, 2029), str)
    month = values.random.randint(1, 12)
    return Item(
        Phrase(f"em {_MONTHS[PT][month]} de {value}", f"in {_MONTHS[EN][month]} {value}"),
        Phrase(
            f"em {_MONTHS[PT][month]} de {portuguese(value)}",
            f"in {_MONTHS[EN][month]} {english_year(value)}",
        ),
    )


@kind("range")
def date_range(values: Values) -> Item:
    """Draw a range of days: de 3 a 14 de maio -> from May 3 to May 14."""
    first = _ANY_LEAP_YEAR + datetime.timedelta(values.random.randrange(330))
    last = first + datetime.timedelta(values.random.randint(1, 35))
    figures_first, figures_last = _day_in_figures(first), _day_in_figures(last)
    same_month = first.month == last.month
    source_first = str(first.day) if same_month else figures_first.source
    words_first, words_last = _day_in_words(first), _day_in_words(last)
    words_source = words_first.source.split(" de ")[0] if same_month else words_first.source
    return Item(
        Phrase(
            f"de {source_first} a {figures_last.source}",
            f"from {figures_first.target} to {figures_last.target}",
        ),
        Phrase(
            f"de {words_source} a {words_last.source}",
            f"from {words_first.target} to {words_last.target}",
        ),
    )


@kind("interval")
def date_interval(values: Values) -> Item:
    """Draw a range of dates as 3 – 14 de mai. de 2024 -> May 3 – 14, 2024."""
    length = datetime.timedelta(values.random.randint(1, 35))
    first = values.date()
    last = first + length
    return Item(in_both(format_interval, first, last, "yMMMd"))


@kind("time")
def time(values: Values) -> Item:
    """Draw a time of day: 14:35 -> 2:35 PM; duas e meia da tarde -> half past two in the ..."""
    hour = values.random.randrange(24)
    minute = values.random.choice(
        (5 * values.random.randrange(12), values.random.choice((0, 15, 30, 45)), None)
    )
    if minute is None:
        minute = values.random.randrange(60)
    moment = datetime.time(hour, minute)
    at = ("à " if hour == 1 else "às ", "at ")
    figures = in_both(format_time, moment, "short", prepositions=at)
    return Item(figures, _time_in_words(hour, minute))


def _time_in_words(hour: int, minute: int) -> Phrase:
    """Return a time as it is spoken: past the hour up to the half, then to the next hour."""
    to_next_hour = minute > 30 and minute % 5 == 0
    named = (hour + 1) % 24 if to_next_hour else hour
    if named in (0, 12):
        source, target = ("meio-dia", "noon") if named else ("meia-noite", "midnight")
        source_part = target_part = ""
        preposition, article = ("ao ", "o ") if named else ("à ", "a ")
    else:
        source, target = portuguese(named % 12, feminine=True), english(named % 12)
        source_part, target_part = _part_of_day(named)
        preposition, article = ("à ", "a ") if named % 12 == 1 else ("às ", "as ")

    if to_next_hour:
        left = 60 - minute
        source = f"{portuguese(left)} para {article}{source}"
        target = f"{'a quarter' if left == 15 else english(left)} to {target}"
        preposition = "às "
    elif minute == 30:
        source, target = f"{source} e meia", f"half past {target}"
    elif minute == 15:
        source, target = f"{source} e quinze", f"a quarter past {target}"
    elif minute and (minute % 5 == 0 or not source_part):
        minutes = "" if minute % 5 == 0 else " minute" if minute == 1 else " minutes"
        source = f"{source} e {portuguese(minute)}"
        target = f"{english(minute)}{minutes} past {target}"
    elif minute:
        oh = "oh " if minute < 10 else ""
        source, target = f"{source} e {portuguese(minute)}", f"{target} {oh}{english(minute)}"
    elif source_part:
        source, target = f"{source} hora{'' if source == 'uma' else 's'}", f"{target} o'clock"
    return Phrase(source + source_part, target + target_part, preposition, "at ")


def _part_of_day(hour: int) -> tuple[str, str]:
    if hour < 12:
        return (" da madrugada" if hour < 6 else " da manhã"), " in the morning"
    if hour < 18:
        return " da tarde", " in the afternoon"
    return " da noite", (" in the evening" if hour < 21 else " at night")
