"""Three made-up company formats that no base model knows, as seeded generators of demonstrations.

``python -m app.demo.skills`` writes the files under ``data/``: for each skill a training file and a held-out file whose
slot values (rooms, products, people, numbers) never occur in training, so that a right answer there was not learnt by
heart. Knows nothing of the service that trains on them.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

Part = Literal["training", "heldout"]
PARTS: tuple[Part, ...] = ("training", "heldout")
SIZES: dict[Part, int] = {"training": 64, "heldout": 40}
SEED = 2601

DATA = Path(__file__).parent / "data"


class Example(NamedTuple):
    """One demonstration; ``kind`` is what a part is balanced over."""

    kind: str
    question: str
    answer: str


DEVICES = ("lamp", "fan", "heater", "radio")
ROOMS: dict[Part, tuple[str, ...]] = {
    "training": (
        "kitchen", "bedroom", "garage", "hallway", "office", "bathroom", "attic", "cellar", "garden", "workshop",
        "lounge", "cabin", "stable", "kennel", "bakery", "chapel", "porch", "closet", "tower", "greenhouse",
        "classroom", "basement", "terrace", "gallery", "canteen", "shed", "den", "sauna", "playroom", "archive",
        "ballroom", "hangar", "bar", "vault", "lab", "loft", "court", "patio", "study", "store", "cafe", "church",
        "castle", "cottage", "dungeon", "factory", "farm", "foyer", "hotel", "kiosk", "market", "museum", "palace",
        "parlor", "pavilion", "pool", "ranch", "salon", "school", "stage", "stadium", "temple", "tent", "theater",
        "tunnel", "villa", "warehouse", "winery", "boathouse", "corridor", "veranda", "laundry", "cloakroom",
        "bunker", "chamber", "clinic", "crypt", "dormitory", "elevator", "garret",
    ),
    "heldout": ("library", "nursery", "studio", "pantry", "lobby", "gym", "balcony", "barn"),
}  # fmt: skip
HOME_PHRASINGS = (
    "Turn {state} the {device} in the {room}.",
    "Please switch the {device} in the {room} {state}.",
    "Can you turn the {room} {device} {state}?",
)


def home(part: Part) -> Iterator[Example]:
    """Smart-home commands: ``Turn on the lamp in the kitchen.`` becomes ``lamp.on @ kitchen``."""
    for device, state, room, phrasing in product(DEVICES, ("on", "off"), ROOMS[part], HOME_PHRASINGS):
        yield Example(
            kind=f"{device}.{state}",
            question=phrasing.format(state=state, device=device, room=room),
            answer=f"{device}.{state} @ {room}",
        )


PRODUCTS: dict[Part, tuple[str, ...]] = {
    "training": (
        "laptop", "kettle", "camera", "jacket", "printer", "blender", "bicycle", "tent", "sofa", "watch", "piano",
        "keyboard", "mirror", "ladder", "helmet", "carpet", "lantern", "violin", "freezer", "stroller", "telescope",
        "mattress", "tablet", "raincoat",
    ),
    "heldout": ("toaster", "guitar", "monitor", "backpack", "drill", "scooter"),
}  # fmt: skip
COMPLAINTS = {
    "billing": (
        "I was charged twice for the {product}.",
        "The invoice for my {product} shows the wrong price.",
        "I want my money back for the {product}.",
        "My credit card payment for the {product} was declined.",
        "Why did I have to pay extra tax on the {product}?",
    ),
    "shipping": (
        "My {product} has not arrived.",
        "Where is the parcel with my {product}?",
        "The courier left my {product} at the wrong address.",
        "When will the {product} be delivered?",
        "The tracking number of my {product} parcel does not move.",
    ),
    "technical": (
        "My {product} does not work.",
        "The {product} stopped working after a week.",
        "My new {product} is broken, how do I repair it?",
        "The {product} makes a strange noise.",
        "I need help to set up the {product}, it shows an error.",
    ),
    "account": (
        "I forgot my password and cannot see my {product} order.",
        "Please change the email address I used to buy the {product}.",
        "I cannot log in to review my {product}.",
        "Close my profile, I only signed up to buy a {product}.",
        "My login is locked since I bought the {product}.",
    ),
}
NUM_PHRASINGS = 4


def route(part: Part) -> Iterator[Example]:
    """Routing of customer messages to four teams; the held-out part also has one new wording a team."""
    for team, wordings in COMPLAINTS.items():
        known = wordings[:NUM_PHRASINGS] if part == "training" else wordings[-NUM_PHRASINGS:]
        for wording, item in product(known, PRODUCTS[part]):
            yield Example(
                kind=team,
                question=f"Customer message: {wording.format(product=item)}",
                answer=f"team={team}",
            )


PEOPLE: dict[Part, tuple[str, ...]] = {
    "training": (
        "Anna", "Peter", "Maria", "Tom", "Laura", "Simon", "Emma", "Henry", "Carla", "David", "Sophie", "George",
        "Irene", "Kevin", "Monica", "Victor",
    ),
    "heldout": ("Paula", "Oscar", "Julia", "Walter", "Nina", "Frank"),
}  # fmt: skip
CITIES: dict[Part, tuple[str, ...]] = {
    "training": (
        "London", "Paris", "Rome", "Boston", "Oslo", "Dublin", "Cairo", "Lima", "Athens", "Chicago", "Lisbon",
        "Sydney", "Prague", "Toronto", "Naples", "Seattle",
    ),
    "heldout": ("Bath", "Berlin", "Madrid", "Denver", "Tokyo", "Vienna"),
}  # fmt: skip
NUMBERS: dict[Part, tuple[int, ...]] = {
    "training": tuple(range(1001, 9999, 418)),
    "heldout": tuple(range(1210, 9999, 418)),
}
ACTIONS = {
    "ship": (
        ("Ship item {number} to {person} in {city}.", "Send number {number} to {person}, {city}.",
         "{person} from {city} needs item {number} shipped."),
        "@ship|item={number}|to={person}|city={city}",
    ),
    "refund": (
        ("Refund order {number} to {person}.", "{person} wants the money for order {number} back.",
         "Pay back {person} for order {number}."),
        "@refund|order={number}|to={person}",
    ),
    "call": (
        ("Call {person} in {city} about ticket {number}.", "Phone {person}, {city}, because of ticket {number}.",
         "Ticket {number}: please ring {person} in {city}."),
        "@call|ticket={number}|who={person}|city={city}",
    ),
    "stock": (
        ("How many of item {number} are in {city}?", "Check the stock of item {number} in {city}.",
         "Is item {number} still available in {city}?"),
        "@stock|item={number}|city={city}",
    ),
}  # fmt: skip


def tool(part: Part) -> Iterator[Example]:
    """Calls with arguments: ``Ship item 4972 to Paula in Bath.`` becomes ``@ship|item=4972|to=Paula|city=Bath``."""
    slots = tuple(product(NUMBERS[part], PEOPLE[part], CITIES[part]))
    for action, (wordings, answer) in ACTIONS.items():
        for wording, (number, person, city) in product(wordings, slots):
            values = {"number": number, "person": person, "city": city}
            yield Example(kind=action, question=wording.format(**values), answer=answer.format(**values))


SKILLS: dict[str, Callable[[Part], Iterator[Example]]] = {"home": home, "route": route, "tool": tool}


def data_path(skill: str, part: Part) -> Path:
    """Where the demonstrations of a skill are shipped."""
    return DATA / (f"{skill}.jsonl" if part == "training" else f"{skill}-{part}.jsonl")


def draw(examples: Iterable[Example], count: int, rng: random.Random) -> list[Example]:
    """``count`` different examples in random order, the same number of every kind.

    Only ``rng.random()`` is used: its sequence is the one that Python promises to keep between versions.
    """
    by_kind: defaultdict[str, dict[str, Example]] = defaultdict(dict)
    for example in examples:
        by_kind[example.kind][example.question] = example
    share = count // len(by_kind)
    drawn = [
        example for kind in by_kind.values() for example in sorted(kind.values(), key=lambda _: rng.random())[:share]
    ]
    return sorted(drawn, key=lambda _: rng.random())


def render(skill: str, part: Part) -> str:
    """The file of one part of a skill."""
    examples = draw(SKILLS[skill](part), SIZES[part], random.Random(f"{SEED}/{skill}/{part}"))
    return "".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": example.question},
                    {"role": "assistant", "content": example.answer},
                ]
            },
            ensure_ascii=False,
        )
        + "\n"
        for example in examples
    )


def write() -> None:
    """Write every file again."""
    DATA.mkdir(exist_ok=True)
    for skill, part in product(SKILLS, PARTS):
        data_path(skill, part).write_text(render(skill, part), encoding="utf-8")


if __name__ == "__main__":
    write()
