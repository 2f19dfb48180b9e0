"""Portuguese -> English: numbers, dates, times, money and measures, in figures and in words.

Every reference is exact, so that exact-match accuracy is meaningful: the English is a function of
the Portuguese. Number words come from `num2words`, formats of figures from `babel` (CLDR). A pair
is a single item, a sentence with items, or a request to convert figures into words or back:

    21 de abril de 2024                      April 21, 2024
    Ela pagou doze reais no domingo, ...     She paid twelve reais on Sunday, ...
    por extenso: 1.234                       in words: one thousand, two hundred and thirty-four

A kind of item is a function under `@kind` in `kinds.py` or `dates.py`. `KIND_WEIGHTS` and
`SHAPE_WEIGHTS` are the relative frequencies of kinds and of shapes of pairs.
"""

from __future__ import annotations

import re
from random import Random

import functional_models.corpora.dates  # noqa: F401  (registers its kinds, after the others)
from functional_models.corpora.corpus import Pair, ParallelCorpus
from functional_models.corpora.kinds import KINDS, Kind, Values

# Relative frequencies. More of the kinds with long words (cardinal, money) makes the corpus harder,
# more of the short figures makes it easier.
KIND_WEIGHTS: dict[str, float] = {
    "cardinal": 8,
    "negative": 1,
    "decimal": 2,
    "percentage": 3,
    "count": 8,
    "ordinal_masculine": 4,
    "ordinal_feminine": 3,
    "money": 8,
    "length": 2,
    "weight": 1,
    "duration": 1,
    "temperature": 1,
    "volume": 1,
    "area": 1,
    "speed": 1,
    "year": 4,
    "date_short": 4,
    "date_medium": 3,
    "date_long": 8,
    "date_full": 5,
    "weekday_and_day": 3,
    "day_and_month": 4,
    "month_and_year": 2,
    "date_range": 4,
    "date_interval": 2,
    "time": 10,
}

# Relative frequencies of shapes: the item alone, in a sentence, or to be converted.
SHAPE_WEIGHTS: dict[str, float] = {"alone": 8, "sentence": 14, "in_words": 1, "in_figures": 1}

# A slot takes any kind of its role. Dates, times and years have their own preposition.
SENTENCES: tuple[Pair, ...] = (
    ("O total é {number}.", "The total is {number}."),
    ("O resultado foi {number}.", "The result was {number}."),
    ("Multiplique {number} por {number}.", "Multiply {number} by {number}."),
    ("Subtraia {number} de {number}.", "Subtract {number} from {number}."),
    ("A média passou de {number} para {number}.", "The average went from {number} to {number}."),
    ("Há {count} na lista.", "There are {count} on the list."),
    ("Contamos {count} {year}.", "We counted {count} {year}."),
    ("Restam {count}.", "There are {count} left."),
    ("Ainda precisamos de {count}.", "We still need {count}."),
    ("O preço é {money}.", "The price is {money}."),
    ("A conta deu {money}.", "The bill came to {money}."),
    ("Ele deve {money} ao banco.", "He owes the bank {money}."),
    ("Ela pagou {money} {date}.", "She paid {money} {date}."),
    ("O preço caiu {percent}, para {money}.", "The price fell {percent} to {money}."),
    ("O desconto é de {percent}.", "The discount is {percent}."),
    ("As vendas cresceram {percent} {year}.", "Sales grew {percent} {year}."),
    ("Apenas {percent} dos eleitores votaram.", "Only {percent} of the voters voted."),
    ("Ela nasceu {year}.", "She was born {year}."),
    ("A ponte foi construída {year}.", "The bridge was built {year}."),
    ("O livro foi publicado {year}.", "The book was published {year}."),
    ("A reunião é {date}.", "The meeting is {date}."),
    ("A reunião é {date}, {time}.", "The meeting is {date}, {time}."),
    ("A inscrição termina {date}.", "Registration ends {date}."),
    ("Eu nasci {date}.", "I was born {date}."),
    ("O contrato foi assinado {date}.", "The contract was signed {date}."),
    ("A festa começa {time} {date}.", "The party starts {time} {date}."),
    ("O museu fecha {range}.", "The museum is closed {range}."),
    ("Estarei de férias {range}.", "I will be on vacation {range}."),
    ("O trem parte {time}.", "The train leaves {time}."),
    ("O voo chega {time} {date}.", "The flight arrives {time} {date}."),
    ("A loja abre {time} e fecha {time}.", "The shop opens {time} and closes {time}."),
    ("Acordei {time}.", "I woke up {time}."),
    ("A distância é de {length}.", "The distance is {length}."),
    ("O pacote pesa {weight}.", "The package weighs {weight}."),
    ("A viagem dura {duration}.", "The trip takes {duration}."),
    ("Percorremos {length} em {duration}.", "We covered {length} in {duration}."),
    ("A temperatura é de {temperature}.", "The temperature is {temperature}."),
    ("O tanque contém {volume}.", "The tank holds {volume}."),
    ("O terreno mede {area}.", "The plot measures {area}."),
    ("O vento sopra a {speed}.", "The wind blows at {speed}."),
    ("Ela terminou em {ordinal_masculine} lugar.", "She finished in {ordinal_masculine} place."),
    ("Moro no {ordinal_masculine} andar.", "I live on the {ordinal_masculine} floor."),
    ("É a {ordinal_feminine} vez.", "It is the {ordinal_feminine} time."),
    ("A {ordinal_feminine} página está em branco.", "The {ordinal_feminine} page is blank."),
)

LONGEST = 90  # characters of a source or a target
MOST_WORDS = 20


def portuguese_english(num_pairs: int = 30_000, seed: int = 0) -> ParallelCorpus:
    """Return Portuguese -> English pairs of numbers, dates, times, money and measures.

    All sources are distinct. Splits are by value: a number of at least four significant digits, a
    year, or a date with its year that occurs in validation or test occurs in no training pair, in
    figures or in words, alone or in a sentence. Parts of a value may occur: the year of a date in
    another date, or a date as the end of an interval. The split of a value does not depend on the
    seed. Fewer pairs are a prefix of more pairs.

    Args:
        num_pairs: number of training pairs. A tenth as many, at most 1,000, are generated for
            validation, and again for test.
        seed: seed of the random draws.

    Raises:
        ValueError: `num_pairs` is not positive, or so large that the pairs run out.
    """
    if num_pairs < 1:
        raise ValueError(f"num_pairs must be at least 1, got {num_pairs}")
    held_out = min(1000, max(1, num_pairs // 10))
    return ParallelCorpus(
        "portuguese_english",
        train=_pairs("train", num_pairs, seed),
        validation=_pairs("validation", held_out, seed),
        test=_pairs("test", held_out, seed),
    )


def _pairs(split: str, number: int, seed: int) -> tuple[Pair, ...]:
    """Draw distinct pairs of a split; a larger number only appends pairs."""
    values = Values(Random(f"{seed}/{split}"), split)
    shapes, kinds = list(SHAPE_WEIGHTS), list(KIND_WEIGHTS)
    found: dict[str, str] = {}
    failures = 0
    while len(found) < number:
        shape = values.random.choices(shapes, list(SHAPE_WEIGHTS.values()))[0]
        kind = KINDS[values.random.choices(kinds, list(KIND_WEIGHTS.values()))[0]]
        template = values.random.choice(SENTENCES)
        # Only the values are drawn again. Otherwise the splits, which reject different shares of
        # the values of each kind, would differ in their mixture of kinds.
        for _ in range(100):
            values.kept_apart = False
            pair = _pair(shape, kind, template, values)
            if pair is not None and pair[0] not in found and values.allows(pair[0]):
                found[pair[0]] = pair[1]
                failures = 0
                break
        else:
            failures += 1
            if failures > 1000:
                raise ValueError(
                    f"num_pairs is too large: no new pair after {len(found)} distinct {split} pairs"
                )
    return tuple(found.items())


def _pair(shape: str, kind: Kind, template: Pair, values: Values) -> Pair | None:
    """Draw a pair of a shape; `None` if it is too long, or the item has no such shape."""
    if shape == "sentence":
        source, target = _fill(template, values)
    else:
        item = kind.draw(values)
        figures, words = item.figures, item.words
        if shape == "alone":
            phrase = words if words and values.random.random() < 0.5 else figures
            source, target = phrase.source, phrase.target
        elif words is None or (shape == "in_figures" and not item.reversible):
            return None
        elif shape == "in_words":
            source, target = f"por extenso: {figures.source}", f"in words: {words.target}"
        else:
            source, target = f"em algarismos: {words.source}", f"in figures: {figures.target}"
    for text in (source, target):
        if len(text) > LONGEST or len(text.split()) > MOST_WORDS:
            return None
    return source, target


def _fill(template: Pair, values: Values) -> Pair:
    """Fill the slots of a sentence; the i-th slot of a role has the same item on both sides."""
    source, target = template
    for role in _SLOT.findall(source):
        item = _of_role(role, values).draw(values)
        phrase = item.words if item.words and values.random.random() < 0.5 else item.figures
        source = source.replace(f"{{{role}}}", phrase.source_preposition + phrase.source, 1)
        target = target.replace(f"{{{role}}}", phrase.target_preposition + phrase.target, 1)
    return source, target


_SLOT = re.compile(r"\{(\w+)\}")


def _of_role(role: str, values: Values) -> Kind:
    kinds = [kind for kind in KINDS.values() if kind.role == role]
    weights = [KIND_WEIGHTS.get(kind.name, 1) for kind in kinds]
    return values.random.choices(kinds, weights)[0]
