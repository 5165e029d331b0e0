"""Tool calls in the manner of ToolAlpaca, of our own making: documentation and a request in, JSON out.

``python -m benchmarks.study.tool_calls`` writes the files under ``data/``. The held-out part has other tools and other
values than training, so that a right answer there is read from the documentation and not learnt by heart.
"""

import json
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from app.demo.skills import PARTS, SEED, Example, Part, draw

DATA = Path(__file__).parent / "data"
SIZES: dict[Part, int] = {"training": 120, "heldout": 60}
NUM_OFFERED = 3
"""Tools in a prompt: the one that is meant, and others of the same part."""


class Tool(NamedTuple):
    """A tool and how people ask for it.

    Args:
        purpose: As its documentation says.
        slots: Arguments in order, each with the kind of its values.
        wordings: Requests, with a place for each argument.
    """

    purpose: str
    slots: dict[str, str]
    wordings: tuple[str, ...]


TOOLS: dict[Part, dict[str, Tool]] = {
    "training": {
        "book_table": Tool(
            "reserve a table in a restaurant",
            {"restaurant": "place", "guests": "count", "day": "day"},
            ("Get us a table for {guests} at {restaurant} on {day}.",
             "{day} we want to eat at {restaurant}, {guests} of us."),
        ),
        "send_email": Tool(
            "write to someone",
            {"recipient": "person", "subject": "topic"},
            ("Write {recipient} an email about the {subject}.", "Email the {subject} to {recipient}."),
        ),
        "get_weather": Tool(
            "forecast for a city",
            {"city": "city", "day": "day"},
            ("Will it rain in {city} on {day}?", "How warm is {city} going to be on {day}?"),
        ),
        "set_alarm": Tool(
            "ring at an hour of the day",
            {"hour": "count", "label": "topic"},
            ("Wake me at {hour} for the {label}.", "I need an alarm at {hour}, call it {label}."),
        ),
        "find_flight": Tool(
            "search connections between two cities",
            {"origin": "city", "destination": "city", "day": "day"},
            ("How can I fly from {origin} to {destination} on {day}?",
             "I have to be in {destination} on {day} and start in {origin}."),
        ),
        "add_contact": Tool(
            "put a telephone number into the address book",
            {"name": "person", "phone": "number"},
            ("Save {phone} as the number of {name}.", "{name} can be called at {phone}, remember that."),
        ),
        "order_pizza": Tool(
            "have pizzas brought",
            {"topping": "food", "pizzas": "count"},
            ("Bring {pizzas} pizzas with {topping}.", "We are hungry: {topping} on {pizzas} pizzas, please."),
        ),
        "create_event": Tool(
            "enter something in the calendar",
            {"title": "topic", "day": "day", "hour": "count"},
            ("Put the {title} in my calendar, {day} at {hour}.", "The {title} is on {day} at {hour}, note it down."),
        ),
        "track_parcel": Tool(
            "where a parcel is",
            {"parcel": "number"},
            ("Where is my parcel {parcel}?", "Has {parcel} been delivered yet?"),
        ),
        "transfer_money": Tool(
            "pay someone",
            {"receiver": "person", "amount": "number"},
            ("Send {receiver} {amount} euros.", "I owe {receiver} {amount}, please pay."),
        ),
        "hire_bicycle": Tool(
            "rent bicycles in a city",
            {"city": "city", "bicycles": "count"},
            ("I would like {bicycles} bicycles in {city}.", "In {city} we need bikes for {bicycles} people."),
        ),
        "play_radio": Tool(
            "switch a radio station on",
            {"station": "place", "volume": "count"},
            ("Play {station} at volume {volume}.", "Put {station} on, loudness {volume}."),
        ),
    },
    "heldout": {
        "rent_car": Tool(
            "hire a car for some days",
            {"city": "city", "days": "count"},
            ("I need a car in {city} for {days} days.", "For {days} days we want to drive around {city}."),
        ),
        "reserve_room": Tool(
            "book a hotel",
            {"hotel": "place", "nights": "count", "arrival": "day"},
            ("Book {nights} nights at the {hotel} from {arrival}.",
             "We arrive at the {hotel} on {arrival} and stay {nights} nights."),
        ),
        "invite_guest": Tool(
            "ask someone to a meeting",
            {"guest": "person", "meeting": "topic"},
            ("Ask {guest} to come to the {meeting}.", "{guest} should be at the {meeting}, too."),
        ),
        "cancel_order": Tool(
            "stop an order before it is sent",
            {"order": "number", "reason": "topic"},
            ("Stop order {order}, the reason is the {reason}.",
             "Because of the {reason} I do not want {order} any more."),
        ),
        "add_grocery": Tool(
            "put something on the shopping list",
            {"item": "food", "quantity": "count"},
            ("We are out of {item}, get {quantity}.", "Put {quantity} {item} on the shopping list."),
        ),
        "find_train": Tool(
            "timetable to a city",
            {"station": "city", "date": "day"},
            ("Which trains go to {station} on {date}?", "On {date} I take the train to {station}."),
        ),
    },
}  # fmt: skip
VALUES: dict[Part, dict[str, tuple[str | int, ...]]] = {
    "training": {
        "place": ("Luigi", "Aurora", "Seaside", "Garden", "Lotus", "Corner"),
        "person": ("Anna", "Peter", "Maria", "Tom", "Laura", "Simon", "Emma", "Henry"),
        "city": ("London", "Paris", "Rome", "Boston", "Oslo", "Dublin", "Cairo", "Lima"),
        "day": ("Monday", "Tuesday", "Thursday", "Saturday"),
        "topic": ("budget", "party", "interview", "contract", "dentist", "workshop"),
        "food": ("onions", "olives", "peppers", "ham", "spinach", "tuna"),
        "count": (2, 3, 5, 6, 8, 11),
        "number": tuple(range(2041, 9999, 613)),
    },
    "heldout": {
        "place": ("Riverside", "Phoenix", "Jasmine"),
        "person": ("Paula", "Oscar", "Julia", "Walter"),
        "city": ("Berlin", "Madrid", "Denver", "Tokyo", "Vienna"),
        "day": ("Wednesday", "Friday", "Sunday"),
        "topic": ("wedding", "delay", "lecture", "concert"),
        "food": ("mushrooms", "tomatoes", "apples"),
        "count": (4, 7, 9, 10),
        "number": tuple(range(2300, 9999, 613)),
    },
}


def data_path(part: Part) -> Path:
    """Where the demonstrations lie."""
    return DATA / ("calls.jsonl" if part == "training" else f"calls-{part}.jsonl")


def calls(part: Part) -> Iterator[Example]:
    """Every request with its call; no value stands for two arguments."""
    for name, tool in TOOLS[part].items():
        for wording, values in product(tool.wordings, product(*(VALUES[part][kind] for kind in tool.slots.values()))):
            if len(set(values)) == len(values):
                arguments = dict(zip(tool.slots, values, strict=True))
                yield Example(name, wording.format(**arguments), json.dumps([{"name": name, "arguments": arguments}]))


def prompt(part: Part, example: Example, rng: random.Random) -> str:
    """The documentation of the tool that is meant, among others, and the request."""
    others = sorted(TOOLS[part].keys() - {example.kind})
    offered = [example.kind, *sorted(others, key=lambda _: rng.random())[: NUM_OFFERED - 1]]
    lines = [
        f"- {name}({', '.join(TOOLS[part][name].slots)}): {TOOLS[part][name].purpose}"
        for name in sorted(offered, key=lambda _: rng.random())
    ]
    return "\n".join(["Tools:", *lines, f"Request: {example.question}", "Answer with the call as JSON."])


def render(part: Part) -> str:
    """The file of one part."""
    rng = random.Random(f"{SEED}/calls/{part}")
    rows = [
        [
            {"role": "user", "content": prompt(part, example, rng)},
            {"role": "assistant", "content": example.answer},
        ]
        for example in draw(calls(part), SIZES[part], rng)
    ]
    return "".join(json.dumps({"messages": row}) + "\n" for row in rows)


def write() -> None:
    """Write both files again."""
    DATA.mkdir(exist_ok=True)
    for part in PARTS:
        data_path(part).write_text(render(part), encoding="utf-8")


if __name__ == "__main__":
    write()
