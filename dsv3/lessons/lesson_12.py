"""The parts of lesson 12: GRPO, from a group's rewards to the loss, a reward, and what R1 makes of the answers.

Letters: Q questions, G answers in a group, N answers in a batch, S tokens, V vocabulary. A part calls no other part:
``step`` gets the others as arguments, and ``transplant_12`` puts all of them to work on tiny-r1.
"""

import re
from collections import Counter

import torch

from . import inputs_12 as given
from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def advantages(rewards):
    """rewards [Q, G] -> [Q, G]: how much better each answer is than its own group.

    A group of rewards that are equal, up to rounding, gets exact zeros.
    """
    distance = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = rewards.std(dim=1, correction=0, keepdim=True)
    equal = deviation < 1e-6
    return torch.where(equal, 0.0, distance / deviation.clamp(min=1e-6))


def log_probabilities(logits, tokens):
    """logits [N, S, V], tokens [N, S] -> [N, S - 1], float32.

    The log-probability of each token but the first, after the tokens before it.
    """
    every = logits[:, :-1].float().log_softmax(-1)
    return every.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)


def loss(new, old, reference, advantage, learned, clip, kl):
    """GRPO's loss, a number. It is minimised, so it is the objective with a minus.

    new, old, reference [N, S]: log-probabilities of the tokens now, when they were sampled, and
    by the first model. advantage [N]: one for all tokens of an answer. learned [N, S]: True where
    a token belongs to an answer.
    """
    ratio = (new - old).exp()
    gain = advantage[:, None]
    better = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    gap = reference - new
    away = gap.exp() - gap - 1
    each = (better - kl * away) * learned
    return -(each.sum(1) / learned.sum(1)).mean()


def step(questions, group, sample, reward, advantages, learn):
    """One step of GRPO. Return the rewards [Q, G].

    sample(a list of questions) -> as many answers, in order. reward(question, answer) -> a number.
    advantages([Q, G] rewards) -> [Q, G]. learn(questions, answers, advantages [N]) moves the model.
    Only answers whose advantage is not 0 are learned from; without any, learn is not called.
    """
    asked = [question for question in questions for _ in range(group)]
    answers = sample(asked)
    rewards = torch.tensor([float(reward(*pair)) for pair in zip(asked, answers, strict=True)])
    rewards = rewards.view(len(questions), group)
    gains = advantages(rewards).flatten()
    kept = gains.nonzero().flatten().tolist()
    if kept:
        learn([asked[i] for i in kept], [answers[i] for i in kept], gains[kept])
    return rewards


def reward(text, ended, right):
    """0.1 for the form, and 1.0 more if the answer is the number `right`; 0.0 without the form.

    The form: the text `ended` by itself, it has `</think>` once, and something on both sides.
    The answer: `Answer: ` or `答案：`, a whole number, perhaps a full stop, and nothing else but
    white space around it.
    """
    thinking, mark, answer = text.partition("</think>")
    if not (ended and mark and thinking.strip() and answer.strip()) or "</think>" in answer:
        return 0.0
    found = re.fullmatch(r"(?:Answer: |答案：)(-?[0-9]+)[.。]?", answer.strip())
    return 0.1 + (found is not None and int(found[1]) == right)


# --------------------------------------------------------------------------------------------------- the checks

T = torch.tensor

PARTS = [
    Part(
        advantages, "a group's advantages", 1, 10,
        "`rewards.std(dim=1, correction=0, keepdim=True)` is the deviation of the group itself. In float32 the mean of "
        "eight times 0.1 is not 0.1: it is 7e-9 away. So ask whether the deviation is larger than rounding, for "
        "example 1e-6, before you divide by it. `torch.where(condition, 0.0, value)`.",
        (
            Witness("1 right answer of 4: +1.73 for it, -0.58 for each other", lambda: (T([[1.0, 0.0, 0.0, 0.0]]),)),
            Witness("each group has its own mean", lambda: (T([[1.0, 0.0, 1.0], [5.0, 3.0, 1.0]]),)),
            Witness("the deviation is the group's own: correction=0", lambda: (T([[1.1, 0.1], [0.1, 1.1]]),)),
            Witness("rewards may be 0.001 apart", lambda: (T([[0.100, 0.101, 0.103, 0.1]]),)),
            Witness("eight equal rewards give exact zeros", lambda: (torch.full((2, 8), 0.1),)),
            Witness("one group of eight equal rewards gives exact zeros", lambda: (torch.full((1, 8), 0.1),)),
            Witness("rewards that differ by rounding alone are equal", lambda: (T([[1.1, 1.1, 1.1 + 2**-23, 1.1]]),)),
            Witness("equal groups beside others: zeros for them alone", lambda: (T([[0.1] * 8, [1.1] + [0.1] * 7]),)),
        ),
        (
            Fault("torch.where(equal, 0.0, distance / deviation.clamp(min=1e-6))", "distance", "the distance to the mean is not divided by the group's standard deviation"),
            Fault("torch.where(equal, 0.0, distance / deviation.clamp(min=1e-6))", "distance / deviation", "equal rewards: 0 / 0 is nan, and rounding / rounding is 1. Equal groups need exact zeros"),
            Fault("deviation < 1e-6\n    return torch.where(equal, 0.0, distance / deviation.clamp(min=1e-6))", "(rewards == rewards[:, :1]).all(1, keepdim=True)\n    return torch.where(equal, 0.0, distance / deviation)", "rewards that differ by rounding alone are equal, too: ask whether the deviation is below 1e-6"),
            Fault("deviation < 1e-6", "deviation == 0", "`deviation == 0` is not enough: the mean of eight times 0.1 is 7e-9 off, so a deviation may be 7e-9, and 7e-9 / 7e-9 is 1. Compare with 1e-6"),
            Fault("torch.where(equal, 0.0, distance / deviation.clamp(min=1e-6))", "distance / (deviation + 1e-8)", "a small number in the denominator does not help: 7e-9 / (7e-9 + 1e-8) is 0.4. Equal groups need exact zeros"),
            Fault("torch.where(equal, 0.0, distance / deviation.clamp(min=1e-6))", "distance / (deviation + 1e-4)", "1e-4 in the denominator makes small differences smaller, and equal groups not exactly zero"),
            Fault("correction=0, ", "", "torch's std divides by G - 1 unless you say correction=0: the deviation of the group itself is asked for"),
            Fault("rewards.mean(dim=1, keepdim=True)\n", "rewards.mean()\n", "the mean is taken over all groups: an answer is compared with its own group only"),
            Fault("rewards.std(dim=1, correction=0, keepdim=True)", "rewards.std(correction=0)", "the deviation is taken over all groups: each group has its own"),
            Fault("rewards - rewards.mean(dim=1, keepdim=True)", "rewards.clone()", "the baseline is missing: the group's mean is taken away first"),
            Fault("rewards - rewards.mean(dim=1, keepdim=True)", "rewards.mean(dim=1, keepdim=True) - rewards", "the sign is turned: better than the group is positive"),
        ),
    ),
    Part(
        log_probabilities, "log-probabilities of what was said", 1, 10,
        "The logits at place i are about token i + 1: drop the last logits and the first token. `log_softmax(-1)` over "
        "the vocabulary, in float32, then `gather(-1, tokens.unsqueeze(-1)).squeeze(-1)` picks the tokens that were said.",
        (
            Witness("the logits at place i are about token i + 1", lambda: given.scored(1, 4, 6)),
            Witness("several answers at once", lambda: given.scored(3, 5, 7)),
            Witness("logits of 200 must not overflow", lambda: given.scored(2, 4, 6, size=200.0)),
            Witness("bfloat16 in, float32 out", lambda: given.scored(2, 5, 6, dtype=torch.bfloat16)),
            Witness("the gradient reaches the logits", lambda: given.scored(2, 3, 5), given.with_gradient),
        ),
        (
            Fault("logits[:, :-1].float().log_softmax(-1)\n    return every.gather(-1, tokens[:, 1:]", "logits.float().log_softmax(-1)\n    return every.gather(-1, tokens", "every token is scored by the logits at its own place, which have already seen it: shift by one, and S - 1 numbers remain"),
            Fault("tokens[:, 1:]", "tokens[:, :-1]", "the logits at place i are about token i + 1: the tokens begin at 1"),
            Fault("logits[:, :-1]", "logits[:, 1:]", "the logits at place i are about token i + 1: the logits end one before the last"),
            Fault(".log_softmax(-1)", "", "logits are not log-probabilities: log_softmax is missing"),
            Fault(".log_softmax(-1)", ".softmax(-1)", "these are probabilities: their logarithms are asked for"),
            Fault(".log_softmax(-1)", ".softmax(-1).log()", "softmax rounds small probabilities to 0, and log(0) is -inf: log_softmax does both in one"),
            Fault(".log_softmax(-1)", ".log_softmax(1)", "the softmax runs over the tokens of the vocabulary, the last dimension"),
            Fault(".float()", "", "compute in float32: in bfloat16 a log-probability has two digits, and the ratio of two of them is noise"),
            Fault("logits[:, :-1].float()", "logits[:, :-1].detach().float()", "the result is detached: no gradient reaches the logits, so nothing would be learned"),
        ),
    ),
    Part(
        loss, "GRPO's loss: clip and KL term", 3, 15,
        "The ratio is `(new - old).exp()`. The minimum is of two *products* with the advantage, `advantage[:, None]`. "
        "The KL term of a token is x - log x - 1, with log x = reference - new. Multiply by `learned`, take the mean "
        "over each answer's own tokens, then the mean over the answers. A loss is minimised: minus.",
        (
            Witness("at the first update every ratio is 1: the loss is minus the mean advantage, and still has a gradient", lambda: given.played(advantage=[2.0, -0.5, -0.5], kl=0.0, moved=False), given.with_gradient),
            Witness("a right answer's likelier tokens lower the loss: the gradient is negative there", lambda: given.played(1, advantage=[1.0], kl=0.0, moved=False), given.with_gradient),
            Witness("a right answer that is more than 1 + clip times as likely gains nothing more", lambda: given.played(advantage=[1.5, 1.0, 0.7], kl=0.0), given.with_gradient),
            Witness("a wrong answer: the minimum of the products, not of the ratios", lambda: given.played(advantage=[-1.5, -1.0, -0.7], kl=0.0), given.with_gradient),
            Witness("the KL term is 0 at the reference, and grows on both sides", lambda: given.played(advantage=[0.0, 0.0, 0.0], kl=0.5), given.with_gradient),
            Witness("questions and padding do not count, and a long answer weighs no more than a short one", lambda: given.played(advantage=[1.0, -1.0, 0.3], kl=0.1, lengths=(5, 1, 2)), given.with_gradient),
            Witness("another clip", lambda: given.played(advantage=[1.0, -1.0, 0.3], clip=0.05, kl=0.0), given.with_gradient),
        ),
        (
            Fault("return -(", "return (", "the sign is turned: a loss is minimised, the objective maximised"),
            Fault("ratio = (new - old).exp()", "ratio = (new - old).exp().detach()", "the ratio is detached: the advantages reach no weight, the KL term alone is trained"),
            Fault("better - kl * away) * learned", "better - kl * away).detach() * learned", "the loss is detached: it has the right value, and no gradient, so nothing is learned"),
            Fault("ratio = (new - old).exp()", "ratio = new - old", "the ratio of two probabilities is exp(new - old)"),
            Fault("ratio = (new - old).exp()", "ratio = (old - new).exp()", "the ratio is new over old: exp(new - old)"),
            Fault("torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)", "ratio * gain", "nothing is clipped: a large batch of good luck moves the model as far as it likes"),
            Fault("torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)", "ratio.clamp(1 - clip, 1 + clip) * gain", "the clipped ratio alone has no gradient on the way back: take the minimum with the unclipped product"),
            Fault("torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)", "torch.minimum(ratio, ratio.clamp(1 - clip, 1 + clip)) * gain", "the minimum is of two products, not of two ratios: for a negative advantage that is another one"),
            Fault("clamp(1 - clip, 1 + clip)", "clamp(-clip, clip)", "a ratio is clipped to 1 - clip ... 1 + clip: it is 1 where nothing has changed"),
            Fault("torch.minimum(", "torch.maximum(", "the smaller of the two products counts: the objective is a lower bound"),
            Fault("gap = reference - new", "gap = new - reference", "the KL term's x is the reference's probability over the model's: its logarithm is reference - new"),
            Fault("gap.exp() - gap - 1", "-gap", "the KL term x - log x - 1 is never negative; new - reference can be"),
            Fault("better - kl * away", "better + kl * away", "the KL term is a cost: it is taken from the objective, so that the model stays near the reference"),
            Fault("better - kl * away", "better", "the KL term is missing"),
            Fault(" * learned\n", "\n", "tokens of the question and padding count: multiply by learned"),
            Fault("(each.sum(1) / learned.sum(1)).mean()", "each.mean()", "padding is in the denominator: divide each answer's sum by its own number of learned tokens"),
            Fault("(each.sum(1) / learned.sum(1)).mean()", "each.sum() / learned.sum()", "the mean is over all tokens: a long answer weighs more. First a mean over each answer, then over answers (as R1's equation 1 has it)"),
        ),
    ),
    Part(
        step, "one step of the loop", 2, 15,
        "Repeat each question `group` times, one after the other: `[q for q in questions for _ in range(group)]`, so "
        "that `view(len(questions), group)` has a row for each question. `gains.nonzero().flatten().tolist()` are the "
        "places of the answers that teach.",
        (
            Witness("all answers to one question stand together, a row for each question", lambda: (["2+2", "3+4"], 3), given.stepped("456767")),
            Witness("the answers are asked for in one call, in order", lambda: (["1+1", "2+2", "3+3"], 2), given.stepped("204466", asking=True)),
            Witness("only answers whose advantage is not 0 are learned from", lambda: (["2+2", "3+4", "1+4"], 4), given.stepped("444467675556")),
            Witness("if no answer teaches, learn is not called", lambda: (["2+2", "3+4"], 4), given.stepped("00000000")),
            Witness("learn gets the advantages, not the rewards", lambda: (["2+2"], 4), given.stepped("4000")),
        ),
        (
            Fault("[question for question in questions for _ in range(group)]", "[question for _ in range(group) for question in questions]", "the order: all answers to the first question come first, or a row of the view mixes questions, and an answer is compared with answers to others"),
            Fault("rewards.view(len(questions), group)", "rewards.view(group, len(questions)).T", "the order: all answers to the first question come first, so view(len(questions), group)"),
            Fault("gains[kept])", "rewards.flatten()[kept])", "learn gets the rewards: it wants the advantages"),
            Fault("    if kept:\n    ", "    if True:\n    ", "learn is called with no answers at all: an empty mean is nan, and nan spoils every weight"),
            Fault("gains.nonzero().flatten().tolist()", "(gains > 0).nonzero().flatten().tolist()", "only the good answers are learned from: the bad ones must become less likely, too"),
            Fault("gains.nonzero().flatten().tolist()", "list(range(len(gains)))", "answers with advantage 0 are learned from, too: they cost time, and change the mean that the others are divided by"),
            Fault("answers = sample(asked)", "answers = [sample([question])[0] for question in asked]", "ask for all answers in one call: one at a time is slow, and sampling them with one seed gives the same answer again and again"),
            Fault("    return rewards\n", "    return gains.view(len(questions), group)\n", "return the rewards: advantages have a mean of 0 in every step, so they cannot be watched"),
        ),
    ),
    Part(
        reward, "a reward that cannot be fooled", 2, 15,
        "Say what a right answer looks like; do not list what a wrong one may look like. "
        '`re.fullmatch(r"(?:Answer: |答案：)(-?[0-9]+)[.。]?", answer.strip())` is None for everything else. Compare `int`s.',
        (
            Witness("the right number in the right form is worth 1.1", lambda: ("7+8+0=15:5\n3+4+1=08:85\n</think>\n\nAnswer: 85", True, 85)),
            Witness("a wrong number in the right form is worth 0.1", lambda: ("85\n</think>\n\nAnswer: 84", True, 85)),
            Witness("a refusal has the form, 0.1", lambda: ("I cannot do this.\n</think>\n\nI cannot do that.", True, 85)),
            Witness("a right answer in Chinese", lambda: ("竖式：0037+0048\n</think>\n\n答案：85", True, 85)),
            Witness("a right answer below zero", lambda: ("0-9-0+10=1\n</think>\n\nAnswer: -12", True, -12)),
            Witness("an answer that lost its sign is wrong", lambda: ("0-9\n</think>\n\nAnswer: 12", True, -12)),
            Witness("a full stop after the number is no error", lambda: ("7+8\n</think>\n\nAnswer: 85.", True, 85)),
            Witness("a Chinese full stop is no error, either", lambda: ("7+8\n</think>\n\n答案：85。", True, 85)),
            Witness("a right answer of zero", lambda: ("5-5\n</think>\n\nAnswer: 0", True, 0)),
            Witness("the right number in the thinking alone, in a thought that never ends, is worth 0", lambda: ("7+8+0=15:5\nAnswer: 85", True, 85)),
            Witness("a text that was cut off is worth 0: its number may go on", lambda: ("7+8\n</think>\n\nAnswer: 85", False, 85)),
            Witness("without thinking there is no form: 0", lambda: ("\n</think>\n\nAnswer: 85", True, 85)),
            Witness("without an answer there is no form: 0", lambda: ("7+8=85\n</think>\n\n", True, 85)),
            Witness("a second </think> is worth 0: it hides a first answer", lambda: ("7\n</think>\n\nAnswer: 84\n</think>\n\nAnswer: 85", True, 85)),
            *given.refused("Answer: 185", "Answer: 850", "Answer: 86 85", "Answer: 85 or 86", "Answer: 84, no 85", "Answer: 3.85", "Answer: 1,085", "Answer: 85.5", "Answer: 8_5", "Answer: not 85", "Answer: \u221285", "Answer: - 85", "Answer: 84\nAnswer: 85"),
        ),
        (
            Fault(' or "</think>" in answer', "", "a second </think> hides a first answer: count them"),
            Fault("ended and ", "", "a text that was cut off counts: its number may go on, so it is worth 0 unless it ended by itself"),
            Fault("mark and thinking.strip() and answer.strip()", "mark and answer.strip()", "the form wants something before </think>, too: an answer without thinking is worth 0"),
            Fault("mark and thinking.strip() and answer.strip()", "mark and thinking.strip()", "the form wants an answer after </think>"),
            Fault("return 0.1 + (found is not None and int(found[1]) == right)", "return float(found is not None and int(found[1]) == right)", "the form is worth 0.1 whatever the answer is"),
            Fault('re.fullmatch(r"(?:Answer: |答案：)(-?[0-9]+)[.。]?", answer.strip())', 're.search(r"(-?[0-9]+)[.。]?$", answer.strip())', "the last number is not enough: `86 85`, `84, no 85`, `3.85` and `1,085` all end in 85. Match the whole answer"),
            Fault("(-?[0-9]+)[.。]?", "(-?[0-9]+)", "a full stop after the number is allowed: `Answer: 85.` is right"),
            Fault("(-?[0-9]+)", "([0-9]+)", "the number may have a minus sign"),
            Fault("(?:Answer: |答案：)", "[^0-9]*?", "words and other signs before the number get through: `not 85`, `−85`. Say what stands there: `Answer: ` or `答案：`"),
            Fault("re.fullmatch(", "re.match(", "match the whole answer, to its end: `85 or 86` begins with 85"),
        ),
    ),
]  # fmt: skip

# ------------------------------------------------------------------------------------- transfers, at the lesson's end


def consensus(answers):
    """The answer that most of a group give, or None if nobody answers.

    None in `answers` is no answer, and has no vote. Of two with equally many votes: the first.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def chains(groups, most):
    """What R1's third stage keeps of sampled answers: a list of (question, text) pairs to imitate.

    groups: a list of (question, [(text, reward), ...]). Kept are texts with a reward of at least 1,
    each once, and of each question the `most` shortest, the shortest first.
    """
    kept = []
    for question, answers in groups:
        right = {text for text, paid in answers if paid >= 1}
        kept += [(question, text) for text in sorted(right, key=lambda text: (len(text), text))[:most]]
    return kept


TRANSFERS = [
    Part(
        consensus, "a majority vote", 1, 10,
        "`collections.Counter` counts; `most_common(1)` gives the first of the most frequent ones, in the order in "
        "which they came. Leave None out before you count.",
        (
            Witness("the most frequent answer wins", lambda: ([90, 85, 85, 84, 91, 99],)),
            Witness("None has no vote, however many there are", lambda: ([None, None, None, 85],)),
            Witness("nobody answers: None", lambda: ([None, None],)),
            Witness("with equally many votes the first that came wins", lambda: ([90, 7, 7, 90, 3],)),
            Witness("of equally many votes the first that came wins, not the last, nor the larger", lambda: ([7, 90, 7, 90],)),
            Witness("0 is an answer, and may be negative ones, too", lambda: ([0, 0, -5, None],)),
            Witness("an empty group: None", lambda: ([],)),
        ),
        (
            Fault(" if answer is not None", "", "a refusal has a vote: leave None out"),
            Fault(" if answer is not None", " if answer", "0 is an answer: ask for `is not None`"),
            Fault("votes.most_common(1)[0][0] if votes", "max(reversed(votes), key=votes.get) if votes", "of two with equally many votes the one that came first wins, not the last"),
            Fault("votes.most_common(1)[0][0] if votes else None", "max(votes) if votes else None", "that is the largest answer, not the most frequent one"),
            Fault(" if votes else None", "", "nobody answers: give None instead of an error"),
            Fault("votes.most_common(1)[0][0] if votes", "max(sorted(votes), key=votes.get) if votes", "of two with equally many votes the one that came first wins"),
        ),
    ),
    Part(
        chains, "rejection sampling: what is kept to imitate", 2, 10,
        "For each question a set of the texts whose reward is at least 1. `sorted(texts, key=len)[:most]`, as pairs "
        "with their question.",
        (
            Witness("only right answers are kept: 0.1 is paid for the form alone", lambda: ([("2+2", [("aa 4", 1.1), ("b 5", 0.1), ("c", 0.0)])], 4)),
            Witness("a text that was sampled twice is kept once", lambda: ([("2+2", [("aa 4", 1.1), ("aa 4", 1.1), ("aaa 4", 1.1)])], 4)),
            Witness("at most so many of each question, the shortest first", lambda: ([("2+2", [("aaaa", 1.1), ("b", 1.1), ("aac", 1.1), ("ab", 1.1)]), ("3+3", [("bb", 1.1), ("b", 1.0)])], 2)),
            Witness("a question that nobody answered gives nothing", lambda: ([("9+9", [("x", 0.1)]), ("1+1", [("2", 1.0)])], 1)),
        ),
        (
            Fault("paid >= 1", "paid > 0", "an answer that is paid for its form alone is kept: ask for at least 1"),
            Fault("{text for text, paid in answers if paid >= 1}", "[text for text, paid in answers if paid >= 1]", "the same text is kept twice"),
            Fault("[:most]", "", "at most `most` of each question are kept"),
            Fault("key=lambda text: (len(text), text))", "key=lambda text: (-len(text), text))", "the shortest come first"),
            Fault("sorted(right, key=lambda text: (len(text), text))", "sorted(right)", "sort by length, not by the alphabet"),
        ),
    ),
]  # fmt: skip
