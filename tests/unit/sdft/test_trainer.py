"""The whole loop on a table of bigrams: it learns what the demonstrations say, and is the same every time."""

import json
import random
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from torch.nn.functional import kl_div

from app.domain.demonstrations import Demonstration
from app.domain.distillation import ObjectiveConfig, TeacherConfig
from app.domain.errors import Unprocessable
from app.domain.training import TrainingConfig
from tests.unit.sdft.bigram import END, Bigrams
from tests.unit.sdft.records import Kept, Remembered
from worker.examples import encode_rehearsal, encode_tasks
from worker.hf.checkpoint import CheckpointState
from worker.objective import divergence
from worker.sdft.align import Aligned
from worker.sdft.monitor import Diverged
from worker.sdft.student import backward
from worker.sdft.teacher import teacher_hidden
from worker.trainer import _roll_out, train

DEMONSTRATIONS = [
    Demonstration(({"role": "user", "content": question},), "bcd", line=number)
    for number, question in enumerate(["i", "h", "ih", "hi", "ii", "hh"], start=1)
]
NEUTRAL = [[{"role": "user", "content": letter}] for letter in "efg"]
REHEARSAL = {"base": NEUTRAL}
OF_THE_START = {"parent": NEUTRAL}


def configure(**changes):
    fixed = {
        "method": "sdft", "seed": 7, "num_epochs": 10, "batch_size": 4, "total_steps": 60, "learning_rate": 0.3,
        "warmup_steps": 5, "lora_rank": 1, "lora_alpha": 1, "max_completion_tokens": 6, "loss_skip_tokens": 0,
        "template": "multi_turn_twice",
    }  # fmt: skip
    return TrainingConfig(**(fixed | changes))


def run(policy, *, rehearsal=REHEARSAL, reporter=None, checkpoints=None, resume=None, **changes):
    reporter = reporter or Remembered()
    result = train(policy, DEMONSTRATIONS, rehearsal, configure(**changes), reporter, checkpoints or Kept(), resume)
    return reporter, result


def answers(policy, arm="student"):
    prompts = [policy.encode_chat(one.messages) for one in DEMONSTRATIONS]
    return {policy.decode(rollout.ids) for rollout in policy.greedy(prompts, 6, arm=arm)}


def drift(policy):
    """Mean over contexts of KL(base || student)."""
    student, base = (policy.base + policy.student.detach()).log_softmax(-1), policy.base.log_softmax(-1)
    return kl_div(student, base, log_target=True, reduction="batchmean").item()


def distance(policy):
    """Mean KL(teacher || student) along the demonstrations of questions that were never trained on."""
    heldout = [Demonstration(({"role": "user", "content": question},), "bcd", line=1) for question in ("hih", "iih")]
    tasks = encode_tasks(policy, heldout, configure())
    sequences = [Aligned(task.prompt, task.teacher_prompt, task.answer) for task in tasks]
    known = backward(policy, sequences, teacher_hidden(policy, sequences, max_tokens=999), max_tokens=999)
    return sum(one["loss"] for one in known) / len(known)


def test_the_student_learns_to_answer_without_the_demonstration():
    policy = Bigrams()
    assert answers(policy) != {"bcd"}
    before = distance(policy)
    reporter, result = run(policy)
    assert distance(policy) < 0.2 * before
    assert answers(policy) == {"bcd"}
    losses = reporter.curve("train_loss")
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    assert result.finished
    assert result.step == 60


def test_the_student_is_never_shown_the_demonstration():
    policy = Bigrams()
    run(policy, total_steps=5)
    shown = policy.encode_completion("bcd")
    windows = [prompt[at : at + len(shown)] for prompt in policy.asked for at in range(len(prompt))]
    assert shown not in windows
    assert shown[:1] not in [window[:1] for window in windows]


def test_only_the_teacher_reads_the_document():
    policy = Bigrams()
    [task] = encode_tasks(policy, [replace(DEMONSTRATIONS[0], document="gfe")], configure())
    document = policy.encode_completion("gfe")[:-1]
    for prompt, is_shown in ((task.prompt, False), (task.teacher_prompt, True)):
        windows = [prompt[at : at + len(document)] for at in range(len(prompt))]
        assert windows.count(document) == is_shown


def test_the_base_is_never_changed():
    policy = Bigrams()
    before = policy.base.clone()
    run(policy)
    assert torch.equal(policy.base, before)


def test_supervised_training_fits_closer_and_drifts_further():
    """What self-distillation is for: the teacher leaves alone what the demonstration says nothing about."""
    distilled, supervised = Bigrams(), Bigrams()
    run(distilled)
    reporter, _ = run(supervised, method="supervised")
    assert answers(supervised) == {"bcd"}
    assert reporter.curve("train_loss")[-1] < 0.1
    assert drift(supervised) > drift(distilled)
    prompts = [supervised.encode_chat(one.messages) for one in DEMONSTRATIONS]
    expected = [supervised.encode_completion(one.completion) for one in DEMONSTRATIONS]
    fits = [fmean(policy.nll(prompts, expected, arm="student")) for policy in (supervised, distilled)]
    assert fits[0] < fits[1]
    assert "teacher_entropy" not in reporter.steps[-1]


def test_rehearsal_keeps_the_student_where_it_began_and_is_reported_apart():
    plain, rehearsed = Bigrams(), Bigrams()
    run(plain)
    reporter, _ = run(rehearsed, rehearsal_share=0.5)
    assert reporter.steps[0]["rehearsal_loss"] == pytest.approx(0, abs=1e-6)
    assert max(reporter.curve("rehearsal_loss")) > 1e-4
    assert reporter.steps[0]["train_loss"] > 0.1
    assert drift(rehearsed) < drift(plain)


def test_rehearsal_is_what_its_teacher_said_before_the_first_step():
    """Fault caught: answers of the student in training, which wander off with it; a prompt that is never asked."""
    policy = Bigrams(parent=torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))
    before = encode_rehearsal(policy, REHEARSAL, configure(rehearsal_share=0.5, total_steps=5))
    assert len(before) == 20
    assert {tuple(task.prompt) for task in before} == {tuple(policy.encode_chat(messages)) for messages in NEUTRAL}
    assert len({tuple(task.answer) for task in before}) > len(NEUTRAL)  # a prompt that comes again is answered anew
    with torch.no_grad():
        policy.student.normal_(std=5)
    assert encode_rehearsal(policy, REHEARSAL, configure(rehearsal_share=0.5, total_steps=5)) == before
    policy.asked.clear()
    run(policy, rehearsal_share=0.5, total_steps=5)
    assert len(policy.asked) == 20 + 5 * 4


def test_rehearsal_is_answered_and_taught_by_the_weights_that_it_names():
    """Fault caught: neutral prompts taught by a version that lost some of the base, so that losses add up."""
    lost = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)) * 2
    config = configure(rehearsal_share=0.5, total_steps=25)
    tasks = encode_rehearsal(Bigrams(parent=lost), {"base": NEUTRAL[:2], "parent": NEUTRAL[2:]}, config)
    encode = Bigrams().encode_chat
    assert {(tuple(task.prompt), task.taught_by) for task in tasks} == {
        *((tuple(encode(messages)), "base") for messages in NEUTRAL[:2]),
        (tuple(encode(NEUTRAL[2])), "parent"),
    }
    for arm, other in (("base", "parent"), ("parent", "base")):
        mine = [(task.prompt, task.answer) for task in tasks if task.taught_by == arm]
        likely, unlikely = (fmean(Bigrams(parent=lost).nll(*zip(*mine, strict=True), arm=by)) for by in (arm, other))
        assert likely < unlikely
    to_the_base, _ = run(Bigrams(parent=lost), rehearsal=REHEARSAL, rehearsal_share=0.5)
    to_the_start, _ = run(Bigrams(parent=lost), rehearsal=OF_THE_START, rehearsal_share=0.5)
    assert to_the_start.steps[0]["rehearsal_loss"] == pytest.approx(0, abs=1e-6)
    assert to_the_base.steps[0]["rehearsal_loss"] > 0.1
    assert to_the_base.steps[-1]["rehearsal_loss"] < to_the_base.steps[0]["rehearsal_loss"]


def test_several_rollouts_of_a_prompt_weigh_as_one_beside_rehearsal():
    """Fault caught: rehearsal that counts less the more rollouts there are, or rollouts that are reported as such."""
    policy = Bigrams()
    reporter, result = run(policy, rollouts_per_prompt=3, rehearsal_share=0.2, total_steps=5)
    asked = policy.asked[-5 * 4 * 3 :]
    assert all(asked[place] == asked[place + 1] == asked[place + 2] for place in range(0, len(asked), 3))
    assert len({tuple(prompt) for prompt in asked}) == len({question.line for question in DEMONSTRATIONS})
    tasks = encode_tasks(policy, DEMONSTRATIONS, configure(rollouts_per_prompt=3))
    assert {task.weight for task in tasks} == {1 / 3}
    assert len(reporter.curve("rehearsal_loss")) == 5
    assert result.generated_tokens == 4 * 3 * sum(reporter.curve("completion_tokens_mean"))


class Certain(Bigrams):
    """Always says what is likeliest."""

    def sample(self, prompts, max_new_tokens, *, generator, arm="student"):  # noqa: ARG002
        return self.greedy(prompts, max_new_tokens, arm=arm)


def test_rollouts_that_are_all_alike_make_the_step_of_one():
    """Fault caught: a loss or a share of rehearsal that grows with the number of rollouts."""
    one, four = Certain(), Certain()
    for policy, rollouts in ((one, 1), (four, 4)):
        run(policy, rollouts_per_prompt=rollouts, rehearsal_share=0.2, total_steps=3)
    torch.testing.assert_close(one.student, four.student)


def test_an_offline_rollout_is_its_demonstration_and_all_of_it_is_scored():
    """Fault caught: another one's demonstration; one that is sampled all the same, or longer than a rollout may be."""
    for limit in (3, 9):  # a demonstration has four tokens
        policy = Bigrams()
        reporter, result = run(
            policy, offline_share=1.0, total_steps=5, max_completion_tokens=limit, rehearsal_share=0.0
        )
        assert policy.asked == []
        assert result.generated_tokens == 0
        assert set(reporter.curve("completion_tokens_mean")) == {min(limit, 4)}
        assert result.trained_tokens == 5 * 4 * min(limit, 4)
        # How rollouts look tells of the student only where it said them.
        assert not {"truncated_share", "distinct_4", "artefact_rate"} & set(reporter.steps[0])


def test_the_share_is_of_rollouts_and_each_stays_with_its_prompt():
    """Fault caught: a sample, or a demonstration, in another one's place."""
    policy, config = Bigrams(), configure(offline_share=0.25)
    demonstrations = [replace(one, completion="bcd"[: number % 3 + 1]) for number, one in enumerate(DEMONSTRATIONS)]
    tasks = encode_tasks(policy, demonstrations, config) * 100
    rollouts = _roll_out(policy, tasks, config, torch.Generator().manual_seed(0))
    assert fmean(not rollout.sampled for rollout in rollouts) == pytest.approx(0.25, abs=0.05)
    for task, rollout in zip(tasks, rollouts, strict=True):
        assert rollout.prompt == task.prompt
        assert rollout.sampled or (rollout.ids, rollout.stopped) == (task.answer, True)
    assert policy.asked == [rollout.prompt for rollout in rollouts if rollout.sampled]


def test_what_the_student_would_not_come_to_by_itself_is_learned_along_the_demonstration():
    """Fault caught: a share that is read and not used. A student that stops early never sees what comes after."""

    def learned(share):
        policy = Bigrams()
        policy.base[3:6, END] += 12.0  # after a, b or c
        run(policy, offline_share=share, total_steps=40)
        return distance(policy)

    assert learned(1.0) < 0.5 * learned(0.0)


def test_where_no_rollout_is_offline_nothing_is_drawn_for_it(monkeypatch):
    """Fault caught: a run whose samples are others than those of its seed."""
    monkeypatch.setattr(torch, "rand", None)
    run(Certain(), total_steps=2)


def test_a_continued_adapter_is_taught_by_the_version_it_starts_from():
    """A teacher without the parent's weights would pull earlier skills back out."""
    parent = torch.zeros(12, 12)
    parent[3:6] = torch.randn(3, 12, generator=torch.Generator().manual_seed(1)) * 4
    policy = Bigrams(parent=parent)
    rehearsal_losses = run(policy, rehearsal=OF_THE_START, rehearsal_share=0.5)[0].curve("rehearsal_loss")
    assert rehearsal_losses[0] == pytest.approx(0, abs=1e-6)
    assert torch.equal(policy.parent, parent)


@pytest.mark.parametrize("kind", ["ema", "hard_sync"])
def test_a_following_teacher_begins_at_the_parent_and_moves_when_it_is_due(kind):
    """Fault caught: a teacher that starts at the base or at zero, moves at every step, or drags the parent along."""
    parent = torch.zeros(12, 12)
    parent[3:6] = 2.0
    teachers, students = [parent], [parent]
    for steps in range(1, 7):
        policy = Bigrams(parent=parent)
        teacher = TeacherConfig(kind=kind, rate=1.0 if kind == "hard_sync" else 0.2, every=3)
        run(policy, total_steps=6, teacher=teacher, reporter=Remembered(stop_after=steps))
        teachers.append(policy.teacher)
        students.append(policy.student.detach())
        assert torch.equal(policy.parent, parent)
    for step in range(1, 7):
        expected = teachers[step - 1]
        if step % 3 == 0:
            expected = torch.lerp(expected, students[step], teacher.rate)
        assert torch.equal(teachers[step], expected)
    assert not torch.equal(teachers[3], parent)


def test_rehearsal_is_taught_by_the_start_even_where_the_teacher_moves():
    """Fault caught: a moving teacher as the target of rehearsal, which then holds nobody."""
    moving = TeacherConfig(kind="hard_sync", rate=1.0, every=1)
    for rehearsal in (REHEARSAL, OF_THE_START):
        reporter, _ = run(Bigrams(), rehearsal=rehearsal, rehearsal_share=0.5, teacher=moving)
        assert max(reporter.curve("rehearsal_loss")[5:]) > 1e-4


def test_an_anchor_holds_the_student_back_and_is_reported():
    free, held = Bigrams(), Bigrams()
    run(free, total_steps=30)
    reporter, _ = run(held, total_steps=30, anchor_weight=1.0)
    assert drift(held) < drift(free)
    assert reporter.steps[0]["anchor_kl"] == pytest.approx(0, abs=1e-6)
    assert max(reporter.curve("anchor_kl")) > 1e-3


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveConfig(kind="reverse_kl"),
        ObjectiveConfig(kind="jsd", alpha=0.5),
        ObjectiveConfig(kind="isdft", rho0=0.25, rho1=1.0, ramp_steps=10),
    ],
)
def test_every_objective_brings_the_student_closer_to_what_the_teacher_says(objective):
    policy = Bigrams()
    before = distance(policy)
    run(policy, objective=objective)
    assert distance(policy) < 0.5 * before


def test_the_ramp_goes_by_the_step_and_ends_at_plain_self_distillation():
    """Fault caught: a ramp that the loop never climbs."""
    ramped = ObjectiveConfig(kind="isdft", rho0=0.25, rho1=1.0, ramp_steps=4)
    level = ObjectiveConfig(kind="isdft", rho0=0.25, rho1=0.25, ramp_steps=0)
    curves = [run(Bigrams(), total_steps=3, objective=one)[0].curve("train_loss") for one in (ramped, level)]
    assert curves[0][0] == curves[1][0]
    assert curves[0][1] > curves[1][1]
    rhos = [divergence(ramped, step).keywords["rho"] for step in range(6)]
    assert rhos == pytest.approx([0.25, 0.4375, 0.625, 0.8125, 1.0, 1.0])


def test_same_seed_same_curve_and_another_seed_another():
    curves = [run(Bigrams(), seed=seed, total_steps=8)[0].curve("train_loss") for seed in (3, 3, 4)]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


KINDS = {
    "frozen": {},
    "ema": {"teacher": TeacherConfig(kind="ema", rate=0.05, every=2), "anchor_weight": 0.1},
    "hard_sync": {
        "teacher": TeacherConfig(kind="hard_sync", rate=1.0, every=5),
        "objective": ObjectiveConfig(kind="isdft", rho0=0.25, rho1=1.0, ramp_steps=15),
    },
    "partly offline": {"offline_share": 0.5},
    "live": {"teacher": TeacherConfig(kind="live"), "objective": ObjectiveConfig(kind="jsd", alpha=0.5)},
}
LONG = 24


def written(state):
    """A checkpoint as it comes back from a disk: its facts through JSON."""
    return CheckpointState(state.adapter, state.tensors, json.loads(json.dumps(state.facts)))


@pytest.fixture(scope="module", params=KINDS)
def whole(request):
    """A run of each kind of teacher that nothing interrupted, with a checkpoint at every step."""
    policy, checkpoints, changes = Bigrams(), Kept(every_step=True), KINDS[request.param]
    reporter, result = run(policy, checkpoints=checkpoints, total_steps=LONG, rehearsal_share=0.5, **changes)
    return policy, checkpoints.states, reporter, result, changes


@pytest.mark.parametrize("step", random.Random(5).sample(range(1, LONG), 20))
def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not_interrupted(whole, step):
    policy, states, straight, whole_result, changes = whole
    resumed_policy = Bigrams()
    resumed, result = run(
        resumed_policy, resume=written(states[step]), total_steps=LONG, rehearsal_share=0.5, **changes
    )
    assert torch.equal(resumed_policy.student, policy.student)
    if policy.teacher is not None:
        assert torch.equal(resumed_policy.teacher, policy.teacher)
    for name in ("train_loss", "rehearsal_loss", "grad_norm", "learning_rate", "trained_tokens"):
        assert resumed.curve(name) == straight.curve(name)[step:]
    assert result.finished
    assert result.generated_tokens == whole_result.generated_tokens


def test_without_the_state_of_the_randomness_a_resumed_run_is_another(whole):
    """The control: the test above can tell."""
    policy, states, _, _, changes = whole
    saved = written(states[9])
    saved.tensors["generator"] = torch.Generator().manual_seed(7).get_state()
    resumed = Bigrams()
    run(resumed, resume=saved, total_steps=LONG, rehearsal_share=0.5, **changes)
    assert not torch.equal(resumed.student, policy.student)


def test_a_run_that_had_ended_has_nothing_left_to_do():
    checkpoints = Kept()
    policy = Bigrams()
    run(policy, checkpoints=checkpoints, total_steps=6)
    again = Bigrams()
    reporter, result = run(again, resume=checkpoints.states[6], total_steps=6, rehearsal_share=0.5)
    assert reporter.steps == again.asked == []
    assert result.finished
    assert torch.equal(again.student, policy.student)


def test_a_run_without_checkpoints_is_the_same_run():
    plain, kept = Bigrams(), Bigrams()
    reporter = Remembered(stop_after=3)
    result = train(plain, DEMONSTRATIONS, REHEARSAL, configure(total_steps=6), reporter, None)
    run(kept, total_steps=6, reporter=Remembered(stop_after=3))
    assert (result.step, reporter.checkpoints) == (3, [])
    assert torch.equal(plain.student, kept.student)


def test_the_seconds_of_a_run_are_those_of_all_its_attempts():
    checkpoints = Kept(every_step=True)
    reporter, whole_result = run(Bigrams(), checkpoints=checkpoints, total_steps=6)
    phases = [sum(value for name, value in one.items() if name.startswith("seconds_")) for one in reporter.steps]
    assert whole_result.seconds > sum(phases)  # what was made ready counts too
    until_fourth = checkpoints.states[4].facts["seconds"]
    resumed, result = run(Bigrams(), resume=written(checkpoints.states[4]), total_steps=6)
    phases = [sum(value for name, value in one.items() if name.startswith("seconds_")) for one in resumed.steps]
    assert result.seconds == pytest.approx(until_fourth + sum(phases))


def test_asked_to_stop_it_leaves_a_checkpoint_at_the_next_step():
    reporter, checkpoints = Remembered(stop_after=3), Kept()
    _, result = run(Bigrams(), reporter=reporter, checkpoints=checkpoints)
    assert (result.step, result.finished) == (3, False)
    assert list(checkpoints.states) == reporter.checkpoints == [3]


def test_lost_weights_end_the_run_and_leave_the_student_as_it_was():
    policy, checkpoints = Bigrams(), Kept(every_step=True)
    run(policy, checkpoints=checkpoints, total_steps=3)
    policy.base.zero_()
    policy.repeat = 0.0
    before = policy.student.detach().clone()
    with pytest.raises(Diverged, match="entropy"):
        run(policy, checkpoints=checkpoints)
    assert torch.equal(policy.student, before)
    assert list(checkpoints.states) == [1, 2, 3]


def test_an_example_that_does_not_fit_is_refused_by_line_and_never_cut():
    policy = Bigrams()
    policy.context_tokens = 24  # "ih" and kin need a token more than "i"
    with pytest.raises(Unprocessable) as refused:
        run(policy)
    assert refused.value.code == "example_too_long"
    assert {error["line"] for error in refused.value.errors} == {3, 4, 5, 6}


def test_a_step_without_any_loss_position_changes_nothing():
    policy = Bigrams()
    policy.base[:, END] += 50.0  # every rollout ends at once, before the skip does
    reporter, result = run(policy, loss_skip_tokens=2, total_steps=3)
    assert not policy.student.any()
    assert result.generated_tokens > 0  # said, though nothing was learnt from it
    assert "train_loss" not in reporter.steps[0]
    assert reporter.steps[-1]["trained_tokens"] == 0


def test_every_phase_is_timed():
    reporter, _ = run(Bigrams(), total_steps=1, rehearsal_share=0.5)
    assert set(reporter.steps[0]) == {
        "step", "trained_tokens", "train_loss", "rehearsal_loss", "train_accuracy", "learning_rate", "grad_norm",
        "student_entropy", "teacher_entropy", "topk_overlap", "completion_tokens_mean", "truncated_share",
        "distinct_4", "artefact_rate", "tokens_per_second", "seconds_rollout", "seconds_teacher",
        "seconds_student", "seconds_optimizer",
    }  # fmt: skip
