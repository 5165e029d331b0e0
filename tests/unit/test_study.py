"""The study's plan, figures, table, plot and tool calls; no model."""

import json
import re
from dataclasses import asdict
from xml.etree import ElementTree as ET

import pytest

from app.demo.skills import PARTS
from app.domain.json_rules import tool_call
from app.domain.proportions import wilson
from benchmarks import forgetting
from benchmarks.study import plot, table, tool_calls
from benchmarks.study.cells import ARMS, SEEDS, SKILLS, USUAL_ARMS, Cell, plan
from benchmarks.study.figures import Count, Known, Outcome, outcome, pool
from benchmarks.study.store import PUBLISHED


def kept(suite, group, had, num_kept, *, reference="base", num_kinds=1):
    return {
        "suite": suite, "group": group, "num_kinds": num_kinds, "num_rehearsed_kinds": 0, "reference": reference,
        "num_had": had, "num_kept": num_kept,
    }  # fmt: skip


REPORT = {
    "suites": [
        {"name": "tool", "role": "skill", "n": 40, "arms": [
            {"arm": "base", "num_right": 0}, {"arm": "candidate", "num_right": 30}, {"arm": "ceiling", "num_right": 36},
        ]},
        {"name": "home:1", "role": "earlier", "n": 40, "arms": []},
        {"name": "general ability", "role": "general", "n": 312, "arms": []},
    ],
    "kept": [
        kept("home:1", "all", 38, 35, reference="parent"),
        kept("general ability", "all", 40, 30, num_kinds=4),
        kept("general ability", "rehearsed kinds", 0, 0, num_kinds=0),
        kept("general ability", "facts", 10, 9),
        kept("general ability", "lists", 8, 8),
        kept("general ability", "arithmetic", 12, 7),
        kept("general ability", "copying", 10, 6),
        kept("general ability", "copying", 5, 0, reference="parent"),
    ],
    "drift": [{"prompts": "task", "base_to_candidate": 2.0}, {"prompts": "neutral", "base_to_candidate": 0.25}],
}  # fmt: skip


def made(learned=30, lost=9, seconds=60.0):
    return Outcome(
        Count(learned, 40), Count(36, 40), {"rehearsed": Count(1, 18), "other": Count(lost, 22)}, 0.1, seconds
    )


def test_the_most_telling_trainings_come_first_and_none_before_its_parent():
    cells = plan(USUAL_ARMS, list(SKILLS), SEEDS)
    telling = ("rehearsal", "sft", "sft-replay", "sdft")
    assert cells[:16] == [Cell(arm, skill, 0) for skill in ("home", "route", "tool", "calls") for arm in telling]
    assert len(cells) == len(set(cells)) == 8 * 4 * 3
    assert all(cell.parent is None or cells.index(cell.parent) < place for place, cell in enumerate(cells))


def test_a_skill_brings_the_one_that_it_goes_on_from():
    assert plan(["sft"], ["tool"], [2]) == [Cell("sft", "home", 2), Cell("sft", "tool", 2)]


def test_a_kind_that_one_way_did_not_rehearse_is_counted_as_for_all_ways():
    found = outcome(REPORT, 90.0)
    assert found.lost == {"earlier": Count(3, 38), "rehearsed": Count(1, 18), "other": Count(9, 22)}
    assert (found.learned, found.ceiling, found.drift) == (Count(30, 40), Count(36, 40), 0.25)


def test_three_seeds_of_the_same_questions_are_no_more_questions():
    alike = pool([Count(38, 40)] * 3)
    once = wilson(38, 40)
    assert (alike.low, alike.high) == pytest.approx((once.low, once.high))
    apart = pool([Count(20, 40), Count(40, 40)])
    assert apart.value == pytest.approx(0.75)
    assert pool([]) is pool([Count(0, 0)]) is None


@pytest.mark.parametrize("known", [Known(None, made(38), 40, 61.5, "c0de"), Known("diverged", None, None, 9.0, "c0de")])
def test_published_figures_come_back_as_they_were(known):
    assert Known.from_json(json.loads(json.dumps({"cell": "home, SDFT, seed 0"} | asdict(known)))) == known


def test_the_readme_shows_the_published_figures():
    cells = {str(cell): cell for cell in plan(list(ARMS), list(SKILLS), SEEDS)}
    rows = json.loads(PUBLISHED.read_bytes()).values()
    came = forgetting.outcomes({cells[row["cell"]]: Known.from_json(row) for row in rows})
    summary = table.summary(came, plan(USUAL_ARMS, list(SKILLS), SEEDS))
    assert summary in forgetting.README.read_text(encoding="utf-8")


def test_a_summary_has_every_way_and_says_where_seeds_are_missing():
    planned = plan(USUAL_ARMS, ["home", "route"], SEEDS)
    done = {Cell("rehearsal", "home", seed): made(38) for seed in SEEDS} | {
        Cell("rehearsal", "route", 0): made(30),
        Cell("sft", "home", 1): "diverged",
        Cell("sft-low", "home", 1): made(20),
    }
    lines = table.summary(done, planned).splitlines()
    learned, forgot = (lines[at : at + 11] for at in (0, 12))
    assert learned[0] == "| learned, % | home | route |"
    assert learned[2].startswith("| *ceiling: the default's teacher* | ")
    assert learned[3] == "| **SDFT + rehearsal (the default)** | 95 [83, 99] | 75 [60, 86] (1 of 3 seeds) |"
    assert learned[4] == "| SFT, rate 5e-4 (its default) | - (0 of 3 seeds; diverged: 1) | - |"
    assert learned[9] == "| SFT, rate 1e-4 | 50 [35, 65] (1 of 3 seeds) | - |"
    assert forgot[3] == learned[4]
    assert forgot[2].startswith("| **SDFT + rehearsal (the default)** | 6 [1, 26] · 41 [23, 61] | ")
    assert lines[-1] == "6 of 48 trainings are done."


def test_a_partial_table_shows_each_seed_and_says_what_is_missing():
    planned = plan(["sft", "rehearsal"], ["home", "route"], SEEDS)
    done = {
        Cell("rehearsal", "home", 0): made(38),
        Cell("rehearsal", "home", 2): made(34),
        Cell("sft", "home", 1): "diverged",
    }
    page = table.render(done, planned, ["A note."])
    assert "| home | **SDFT + rehearsal (the default)** | 90 [77, 96] · 38/40, -, 34/40 | 100 % |" in page
    assert "41 [23, 61] · 9/22, -, 9/22" in page
    assert (
        "| home | SFT, rate 5e-4 (its default) | -, diverged, - |  | -, diverged, - | -, diverged, - |  |  |  |" in page
    )
    assert "3 of 12 trainings are done" in page
    assert "- home, SDFT + rehearsal (the default): seed 1\n" in page
    assert "- route, SFT, rate 5e-4 (its default): seed 0, 1, 2" in page
    assert "A note." in page
    assert "ceiling" in page


def test_forgetting_is_compared_with_plain_fine_tuning_that_learns_no_less_where_both_are_done():
    """Fault caught: a rate that learns less, replay, or other seeds of ours on one side of the comparison."""
    done = {
        Cell("rehearsal", "home", 0): made(30, lost=2),
        Cell("rehearsal", "home", 1): made(38, lost=22),
        Cell("sft", "home", 0): made(40, lost=20),
        Cell("sft-middle", "home", 0): made(30, lost=8),
        Cell("sft-low", "home", 0): made(29, lost=1),
        Cell("sft-replay", "home", 0): made(40, lost=1),
        Cell("sdft", "home", 0): made(40, lost=1),
    }
    page = table.render(done, list(done), [])
    said = "of which SFT, rate 2e-4 forgets least of other kinds, 36 %; the default 9 %, 0.25 of it."
    assert f"home: of 3 rates of plain fine-tuning 2 learned no less (1 seed), {said}" in page
    assert "learned no less" not in table.render({Cell("rehearsal", "home", 0): made()}, list(done), [])
    done[Cell("sft-middle", "home", 0)] = made(30, lost=0)
    said = "of which SFT, rate 2e-4 forgets least of other kinds, 0 %; the default 9 %."
    assert said in table.render(done, list(done), [])


def test_plain_fine_tuning_at_the_defaults_rate_counts_as_a_rate_and_stands_beside_the_others():
    """Where no lower rate learns as much as the default, it is the only one to compare with."""
    learned = {"rehearsal": 30, "sft": 20, "sft-low": 10, "sft-middle": 15, "high-rate": 30}
    done = {Cell(arm, "tool", 0): made(num) for arm, num in learned.items()}
    said = "tool after home: of 3 rates of plain fine-tuning none learned no less.\n"
    assert said in table.render(done, list(done), [])
    done[Cell("sft-high", "tool", 0)] = made(35, lost=18)
    page = table.render(done, list(done), [])
    assert "of 4 rates of plain fine-tuning 1 learned no less (1 seed), of which SFT, rate 1e-3 forgets least" in page
    ways = [line.split(" | ")[1] for line in page.splitlines() if line.startswith("| tool after home")]
    assert ways[-4:] == ["SFT, rate 1e-4", "SFT, rate 2e-4", "SFT, rate 1e-3", "the default, rate 2e-3"]


def test_a_rate_that_failed_in_a_seed_is_no_rival_and_a_default_that_did_is_not_compared():
    """Fault caught: the seeds that survive, in the place of all."""
    done = {Cell("rehearsal", "tool", seed): made(30, lost=2) for seed in SEEDS}
    done |= {Cell("sft", "tool", 0): made(40, lost=1), Cell("sft", "tool", 1): "diverged"}
    page = table.render(done, list(done), [])
    assert "tool after home: of 1 rate of plain fine-tuning 1 failed in a seed, none learned no less.\n" in page
    assert "9 [3, 28] · 2/22, 2/22, 2/22 | " in page
    assert "5 [1, 22] · 1/22, diverged, - | -, diverged, - | 0.100 |" in page
    done |= {Cell("sft-middle", "tool", seed): made(30, lost=11) for seed in SEEDS}
    said = "of 2 rates of plain fine-tuning 1 failed in a seed, 1 learned no less (3 seeds), of which SFT, rate 2e-4"
    assert said in table.render(done, list(done), [])
    done[Cell("rehearsal", "tool", 2)] = "diverged"
    page = table.render(done, list(done), [])
    assert "tool after home: the default failed in a seed, so it is not compared.\n" in page
    assert "| tool after home | *ceiling: the default's teacher* | 90 [77, 96] · 36/40, 36/40, diverged |" in page


def test_every_way_has_a_number_and_its_own_look():
    """Fault caught: two ways whose seeds look alike."""
    svg = plot.render({Cell(arm, "route", 0): made() for arm in ARMS})
    assert all(f">{number}</text>" in svg for number in range(1, len(ARMS) + 1))
    seeds = re.findall(r'<[^>]* opacity="0.55"/>', svg)
    assert len(seeds) == len(ARMS) * len(made().lost)
    assert len(set(seeds)) == len(seeds)


def test_the_default_is_not_covered_by_other_ways():
    svg = plot.render({Cell(arm, "route", 0): made() for arm in reversed(ARMS)})
    numbers = [int(found) for found in re.findall(r'font-weight="700">(\d+)<', svg)]
    assert numbers[: len(ARMS)] == list(range(len(ARMS), 0, -1))


def test_the_plot_puts_a_way_where_its_figures_are():
    done = {Cell("sft", "home", 0): made(20, lost=11), Cell("sft", "home", 1): made(40, lost=11)}
    svg = ET.fromstring(plot.render(done))
    space = "{http://www.w3.org/2000/svg}"
    titles = [text.text for text in svg.iter(f"{space}text") if text.get("font-weight") == "600"]
    assert titles == ["home: forgot of rehearsed kinds", "home: forgot of other kinds"]
    other = next(group for group in svg.iter(f"{space}g") if titles[1] in "".join(group.itertext()))
    circles = [(float(one.get("cx")), float(one.get("cy")), one.get("r")) for one in other.iter(f"{space}circle")]
    middle = plot.LEFT + plot.WIDTH / 2
    assert (middle, plot.TOP + plot.HEIGHT / 4, "8") in circles
    assert {circle for circle in circles if circle[2] == "3"} == {
        (middle, plot.TOP + plot.HEIGHT / 2, "3"),
        (middle, plot.TOP, "3"),
    }


def pairs(part):
    rows = [json.loads(line)["messages"] for line in tool_calls.data_path(part).read_text().splitlines()]
    return [(question["content"], answer["content"]) for question, answer in rows]


@pytest.mark.parametrize("part", PARTS)
def test_the_shipped_calls_are_what_the_generator_makes(part):
    assert tool_calls.data_path(part).read_text() == tool_calls.render(part)
    assert len({question for question, _ in pairs(part)}) == tool_calls.SIZES[part]


def test_held_out_tools_and_values_are_never_seen_in_training():
    training = {word for pair in pairs("training") for text in pair for word in re.findall(r"\w+", text)}
    assert not tool_calls.TOOLS["heldout"].keys() & training
    for kind, values in tool_calls.VALUES["heldout"].items():
        assert not set(map(str, values)) & set(map(str, tool_calls.VALUES["training"][kind]))
        if kind != "count":  # a digit may stand in another number's place, such as an hour's
            assert not set(map(str, values)) & training


@pytest.mark.parametrize("part", PARTS)
def test_a_call_is_of_an_offered_tool_with_what_the_request_says(part):
    for question, answer in pairs(part):
        [call] = json.loads(answer)
        request = question.partition("Request:")[2]
        slots = tool_calls.TOOLS[part][call["name"]].slots
        assert f"- {call['name']}({', '.join(slots)}):" in question
        assert list(call["arguments"]) == list(slots)
        assert all(str(value) in request for value in call["arguments"].values())


def test_the_scorer_tells_calls_apart():
    (_, one), (_, other) = pairs("heldout")[:2]
    assert SKILLS["calls"].scorer == "tool_call"
    assert tool_call(json.dumps(json.loads(one), indent=2), one)
    assert not tool_call(other, one)
