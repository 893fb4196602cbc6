"""The parts of lesson 09: generation.

Letters as in ``dsv3/model.py``: B sequences, S new tokens, V tokens of the vocabulary. No part sees a model: the loops
take functions that give scores, so a scripted one checks them. ``transplant_09`` puts them around a real one.
"""

import math

import torch

from .inputs_09 import (
    always,
    kept_guesses,
    many_scores,
    often,
    others_numbers,
    preferring,
    remainders,
    repeated,
    run,
    run_batch,
    scores_of,
    second,
    seldom,
    turns,
    whole_ids,
)
from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def decode(prefill, step, prompt, choose, ends, most):
    """prompt, a list of ids -> the new ids, a list of 1 to `most`, with the one that ends it.

    prefill(ids) reads a prompt, step(id, position) one more token.
    Both give the scores [V] after what they read. choose(scores) gives an id.
    `ends` is the set of ids that end an answer.
    """
    new = []
    scores = prefill(prompt)
    while True:
        token = choose(scores)
        new.append(token)
        if token in ends or len(new) == most:
            return new
        scores = step(token, len(prompt) + len(new) - 1)


def shares(scores, temperature, top_k=0, top_p=1.0):
    """scores [V] -> probabilities [V], float32.

    Temperature first, then top-k, then top-p of what top-k left.
    Temperature 0: all on the likeliest. top_k 0: no limit.
    Tokens that are cut off get 0, the others sum to 1.
    """
    if temperature == 0:
        return torch.zeros(len(scores)).index_fill(0, scores.argmax(), 1.0)
    z = scores.float() / temperature
    if 0 < top_k < len(z):
        kept = z.topk(top_k)
        z = torch.full_like(z, -math.inf).scatter(0, kept.indices, kept.values)
    p = z.softmax(-1)
    if top_p < 1:
        ordered, order = p.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # what the likelier ones have together
        ordered = torch.where(before < top_p, ordered, 0.0)
        p = torch.zeros_like(p).scatter(0, order, ordered / ordered.sum())
    return p


def draw(probabilities, generator):
    """probabilities [V], a torch.Generator -> an id, an int.

    It is drawn with random numbers of that generator alone.
    """
    edges = probabilities.double().cumsum(-1)
    u = torch.rand(1, generator=generator, dtype=torch.float64) * edges[-1]
    return min(int(torch.searchsorted(edges, u, right=True)), len(edges) - 1)


def remember(messages, completion):
    """messages, the last one the user's question, and the model's turn -> a new list of messages.

    The completion began inside a thought: it has no <think>,
    and a </think> only if the thought ended.
    """
    answer = completion.partition("</think>")[2].strip()
    if not answer:
        return messages[:-1]
    return [*messages, {"role": "assistant", "content": answer}]


def decode_batch(prefill, step, prompts, choose, ends, most):
    """B prompts of different lengths -> for each one its new ids, as `decode` would give them.

    prefill(tokens [B, S]) gives scores [B, S, V], after each token.
    step(tokens [B], positions [B]) gives scores [B, V].
    Prompts are padded on the right, with 0. choose(scores [B, V]) gives a list of B ids.
    """
    width = max(map(len, prompts))
    tokens = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts])
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    scores = prefill(tokens)[torch.arange(len(prompts)), last]
    new: list[list[int]] = [[] for _ in prompts]
    for i in range(1, most + 1):
        chosen = choose(scores)
        for ids, token in zip(new, chosen, strict=True):
            if not ids or ids[-1] not in ends:
                ids.append(token)
        if i == most or all(ids[-1] in ends for ids in new):
            return new
        scores = step(torch.tensor(chosen), last + i)


def accept(scores, guesses):
    """scores [S, V], after the last token and after each of S - 1 guesses -> a list of 1 to S ids.

    The right guesses, up to the first wrong one, and then one token of the model's own.
    """
    tokens = []
    for i, token in enumerate(scores.argmax(-1).tolist()):
        tokens.append(token)
        if i < len(guesses) and token != guesses[i]:
            break
    return tokens


# ------------------------------------------------------------------------------------- transfers, at the lesson's end


def lookup(tokens, n, count):
    """All ids so far -> at most `count` guesses, a list.

    They are what followed the last n ids when these stood here before, the latest time.
    An empty list if they never did.
    """
    for start in range(len(tokens) - n - 1, -1, -1):
        if tokens[start : start + n] == tokens[-n:]:
            return tokens[start + n : start + n + count]
    return []


def accept_sampled(p, q, guess, generator):
    """The model's probabilities p [V], the guesser's q [V], a guess drawn from q -> an id.

    It is distributed as p. The guess is kept as often as possible.
    """
    if torch.rand(1, generator=generator) * q[guess] < p[guess]:
        return guess
    rest = (p - q).clamp(min=0)
    return int(torch.multinomial(rest, 1, generator=generator))


def serving(memory, bandwidth, weights, read, per_token, context):
    """How many conversations fit, and how fast they are -> (batch, seconds, tokens/s).

    memory, weights, per_token (of the cache): bytes; bandwidth: bytes a second; context: tokens.
    A step decodes one token of each of B conversations. It reads read(B) bytes of weights,
    and all of their cache. (0, 0.0, 0.0) if none fits.
    """
    cache = per_token * context
    batch = int((memory - weights) // cache)
    if batch < 1:
        return 0, 0.0, 0.0
    seconds = (read(batch) + batch * cache) / bandwidth
    return batch, seconds, batch / seconds


# --------------------------------------------------------------------------------------------------- the checks

BF16 = torch.bfloat16
P3 = torch.tensor([0.2, 0.5, 0.3])
GAPS = torch.tensor([0.0, 0.4, 0.0, 0.35, 0.25, 0.0])
HISTORY = turns("1+1", "Answer: 2", "2+2", "Answer: 4", "3+3")

PARTS = [
    Part(
        decode, "the decode loop", 2, 12,
        "Read the prompt once. Then: choose from the scores, append, stop if it is one of `ends` or the limit is "
        "reached, else feed that one token. With a prompt of 5 tokens the first new one stands at position 5.",
        (
            Witness("the prompt is read once, then each new token once, until the one that ends the answer", lambda: (), run([4, 5, 6], [7, 3, 2, 1])),
            Witness("the first new token stands behind the prompt: at position len(prompt)", lambda: (), run([4, 5, 6, 7, 4], [3, 1])),
            Witness("an answer may end at once; then the model is not called again", lambda: (), run([4, 5], [1])),
            Witness("at most `most` tokens, and no step whose scores nobody reads", lambda: (), run([4, 5], [3, 4, 5, 6, 7, 1], most=3)),
            Witness("choose decides, not the loop", lambda: (), run([4, 5], [3, 6, 2, 0], choose=second)),
            Witness("`ends` may have several ids", lambda: (), run([4, 5], [3, 6, 7, 1], ends=(1, 7))),
        ),
        (
            Fault("len(prompt) + len(new) - 1", "len(prompt) + len(new)", "the position is one too large: the first new token stands at len(prompt)"),
            Fault("len(prompt) + len(new) - 1", "len(new) - 1", "the position counts from the answer's beginning: the prompt's tokens come before it"),
            Fault("        scores = step(token, len(prompt) + len(new) - 1)", "        scores = prefill(prompt + new)", "everything is read again for each token: feed the new one alone, the cache has the others"),
            Fault("        new.append(token)\n        if token in ends or len(new) == most:\n            return new\n", "        if token in ends:\n            return new\n        new.append(token)\n        if len(new) == most:\n            return new\n", "the id that ended the answer belongs to the result"),
            Fault("token in ends or len(new) == most", "len(new) == most", "it goes on after the end of the answer: stop at an id of `ends`"),
            Fault("token in ends or len(new) == most", "token in ends", "it does not stop after `most` tokens"),
            Fault("token = choose(scores)", "token = int(scores.argmax())", "it takes the likeliest token itself: `choose` is to decide"),
            Fault("token in ends or", "token == min(ends) or", "it knows one end only: `ends` is a set, test `token in ends`"),
        ),
    ),
    Part(
        shares, "temperature, top-k, top-p", 2, 15,
        "`topk` gives values and places; what is not among them becomes -inf before the softmax. For top-p sort the "
        "probabilities: a token stays if what the likelier ones have *together* is still below p, so the one that "
        "crosses p stays. `scatter` brings sorted values back to their places. Divide by what is left.",
        (
            Witness("at temperature 1 without limits it is the softmax", lambda: (scores_of(1.0, 3.0, 0.0, 2.0), 1.0)),
            Witness("temperature 0 puts everything on the likeliest token", lambda: (scores_of(1.0, 3.0, 0.0, 2.0), 0)),
            Witness("scores are DIVIDED by the temperature", lambda: (scores_of(1.0, 3.0, 0.0, 2.0), 0.5)),
            Witness("top-k leaves the k likeliest, in their places, and they sum to 1", lambda: (scores_of(1.0, 3.0, 0.0, 2.0, -1.0), 1.0, 2)),
            Witness("the token that crosses p belongs to the set", lambda: (scores_of(0.2, 0.5, 0.3).log(), 1.0, 0, 0.7)),
            Witness("the likeliest token always stays", lambda: (scores_of(0.1, 0.9).log(), 1.0, 0, 0.3)),
            Witness("temperature comes before top-p: a hot distribution keeps more tokens", lambda: (many_scores(), 2.0, 0, 0.8)),
            Witness("top-p is of what top-k left", lambda: (many_scores(), 1.0, 60, 0.5)),
            Witness("bfloat16 scores, float32 probabilities", lambda: (many_scores(302, dtype=BF16), 0.6, 0, 0.95)),
            Witness("top_k may be larger than the vocabulary", lambda: (scores_of(1.0, 3.0, 2.0), 1.0, 50)),
        ),
        (
            Fault("/ temperature", "* temperature", "the scores are multiplied: divide them, so that a high temperature makes them more equal"),
            Fault("    if temperature == 0:\n        return torch.zeros(len(scores)).index_fill(0, scores.argmax(), 1.0)\n", "", "temperature 0 divides by zero: it means greedy, all on the likeliest token"),
            Fault("/ temperature\n", "/ temperature\n    top_p = top_p if not top_k else 1.0\n", "top-k and top-p may be asked for together"),
            Fault("before < top_p", "before + ordered <= top_p", "the token that crosses p is left out: a token stays if those BEFORE it have less than p together"),
            Fault("ordered / ordered.sum()", "ordered", "what is left must sum to 1: divide by its sum"),
            Fault("p = torch.zeros_like(p).scatter(0, order, ordered / ordered.sum())", "p = ordered / ordered.sum()", "the probabilities are in sorted order: bring them back to their places"),
            Fault("before < top_p", "ordered >= top_p * ordered[0]", "it compares single tokens with p, that is min-p: add up from the likeliest on"),
            Fault("ordered, order = p.sort(descending=True)", "ordered, order = p.sort()", "sort from the likeliest down"),
            Fault("p.sort(descending=True)\n", "scores.float().softmax(-1).sort(descending=True)\n", "top-p is of the probabilities after temperature and top-k, not of the raw ones"),
            Fault("torch.full_like(z, -math.inf)", "torch.zeros_like(z)", "a score of 0 is an ordinary score: what top-k cuts off gets -inf"),
            Fault("before = ordered.cumsum(-1) - ordered", "before = (all_p := (scores.float() / temperature).softmax(-1).sort(descending=True).values).cumsum(-1) - all_p", "top-p comes before top-k here: it is of what top-k LEFT, which sums to 1 again"),
            Fault("z = scores.float()", "z = scores", "bfloat16 scores give bfloat16 probabilities: compute in float32"),
        ),
    ),
    Part(
        draw, "a draw with a generator", 2, 10,
        "Lay the probabilities one after another on a line: `cumsum`. A random number between 0 and their sum falls "
        "into one of them: `torch.rand(1, generator=generator)` and `searchsorted(..., right=True)`. Or a race: each "
        "token gets p / e, e exponentially distributed, and the largest wins. Both are right.",
        (
            Witness("a token that has all of the probability is always drawn", lambda: (torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0]),), always),
            Witness("each token is drawn as often as its probability says", lambda: (P3,), often()),
            Witness("rare tokens, too, are drawn as often as their probability says", lambda: (torch.tensor([0.03, 0.9, 0.02, 0.05]),), often()),
            Witness("a token of probability 0 is never drawn", lambda: (GAPS,), seldom),
            Witness("the same seed gives the same tokens, and another seed others", lambda: (GAPS,), repeated),
            Witness("all random numbers come from the generator that is given", lambda: (P3,), others_numbers),
            Witness("a thousand equal probabilities in bfloat16: each token must come up; add in float32 or better", lambda: (torch.full((1024,), 1 / 1024, dtype=BF16),), remainders),
        ),
        (
            Fault("    return min(int(torch.searchsorted(edges, u, right=True)), len(edges) - 1)", "    return int(probabilities.argmax())", "it always takes the likeliest: draw each one with its probability"),
            Fault("torch.rand(1, generator=generator, dtype=torch.float64)", "torch.rand(1, dtype=torch.float64)", "it uses torch's own generator: pass the one that is given"),
            Fault("torch.rand(1, generator=generator, dtype=torch.float64)", "torch.rand(1, generator=generator.manual_seed(0), dtype=torch.float64)", "it seeds the generator at each draw, so each draw is the same: only take numbers from it"),
            Fault("    return min(int(torch.searchsorted(edges, u, right=True)), len(edges) - 1)", "    return int(torch.randint(len(edges), (1,), generator=generator))", "each token is drawn equally often: look at the probabilities"),
            Fault("probabilities.double().cumsum(-1)", "probabilities.cumsum(-1).double()", "sums of a thousand small numbers are lost in bfloat16: convert before cumsum"),
            Fault("probabilities.double().cumsum(-1)", "probabilities.double().sort(descending=True).values.cumsum(-1)", "it returns the place in a sorted list, not the token"),
            Fault("torch.rand(1, generator=generator, dtype=torch.float64)", "torch.randn(1, generator=generator, dtype=torch.float64).abs().clamp(max=0.999)", "use numbers spread evenly between 0 and 1 (rand), not normal ones (randn)"),
            Fault("int(torch.searchsorted(edges, u, right=True))", "int(torch.searchsorted(edges, u, right=True)) + 1", "it returns the token after the one that was hit"),
        ),
    ),
    Part(
        remember, "what a conversation remembers", 1, 10,
        "`text.partition(mark)` gives what stands before the first mark, the mark, and what stands after it; without a "
        "mark the last two are empty. No answer: no question either.",
        (
            Witness("the thought ended: the answer is kept, without it and without white space", lambda: (turns("1+1"), "Columns: 1+1\n</think>\n\nAnswer: 2\n")),
            Witness("all earlier turns stay", lambda: (list(HISTORY), "3+3+0=6</think>Answer: 6")),
            Witness("the thought was cut off: there is no answer, and the question goes, too; earlier turns stay", lambda: (list(HISTORY), "Columns: 3+3\n3+3+0=")),
            Witness("cut off right after the thought: no answer either", lambda: (list(HISTORY), "Columns: 3+3\n</think>\n\n")),
            Witness("only the first </think> ends the thought", lambda: (turns("what is </think>?"), "I know this.</think>A </think> ends a thought.")),
            Witness("the given list stays as it is: a new one comes back", lambda: (turns("1+1"), "</think>2"), lambda answer, given: answer(given[0], given[1]) is given[0]),
        ),
        (
            Fault("completion.partition(\"</think>\")[2].strip()", "completion.strip()", "the whole completion goes back into the history: keep what stands after </think>"),
            Fault("completion.partition(\"</think>\")[2].strip()", "completion.split(\"</think>\", 1)[-1].strip()", "a thought that was cut off is taken for an answer: without </think> there is none"),
            Fault("messages[:-1]", "list(messages)", "the question without an answer stays: the next turn would have two questions in a row"),
            Fault("completion.partition(\"</think>\")[2].strip()", "completion.rpartition(\"</think>\")[2].strip() * (\"</think>\" in completion)", "it splits at the last </think>: only the first one ends the thought"),
            Fault("[2].strip()", "[2]", "white space around the answer stays: strip it"),
            Fault("messages[:-1]", "[]", "earlier turns are lost: only the last question goes"),
            Fault("[*messages, {", "[messages[-1], {", "earlier turns are lost: all of them stay"),
            Fault("{\"role\": \"assistant\"", "{\"role\": \"user\"", "the answer is the assistant's"),
        ),
    ),
    Part(
        decode_batch, "prompts of different lengths", 3, 15,
        "The scores that count stand at each prompt's own last token: `scores[torch.arange(B), last]`. After i steps "
        "sequence b's newest token stands at position last[b] + i. It writes over the padding there. A sequence that has "
        "ended stays in the batch until all have; its tokens after the end are not appended.",
        (
            Witness("one prompt: as decode", lambda: (), run_batch([[4, 5, 6]], [[7, 3, 1]])),
            Witness("two prompts of one length, and the answers end together", lambda: (), run_batch([[4, 5], [6, 7]], [[7, 3, 1], [2, 5, 1]])),
            Witness("prompts of different lengths: each one's scores stand at its own last token", lambda: (), run_batch([[4, 5, 6, 7, 4], [6, 7]], [[3, 1], [5, 1]])),
            Witness("each sequence counts its own positions", lambda: (), run_batch([[4, 5], [6, 7, 4, 5, 6], [4]], [[7, 3, 1], [2, 5, 1], [6, 2, 1]])),
            Witness("an answer that ends early gets no more ids; the others go on", lambda: (), run_batch([[4, 5], [6, 7, 4]], [[1], [2, 5, 6, 1]])),
            Witness("at most `most` ids each, and no step that nobody reads", lambda: (), run_batch([[4, 5], [6, 7, 4]], [[3, 4, 5, 6, 1], [2, 1]], most=3)),
            Witness("choose decides, and `ends` may have several ids", lambda: (), run_batch([[4], [6, 7, 4]], [[3, 6, 2, 0], [2, 5, 0]], ends=(1, 7), choose=second)),
        ),
        (
            Fault("[torch.arange(len(prompts)), last]", "[:, -1]", "scores after the padding are read: each prompt's stand at its own last token"),
            Fault("last + i)", "torch.full_like(last, width - 1 + i))", "all count from the longest prompt's end: each sequence has its own positions"),
            Fault("last + i)", "last + i - 1)", "the position is one too small: the first new token stands at last + 1"),
            Fault("last + i)", "last + i + 1)", "the position is one too large: the first new token stands at last + 1"),
            Fault("            if not ids or ids[-1] not in ends:\n                ids.append(token)\n", "            ids.append(token)\n", "an answer goes on after its end: append nothing to one that has ended"),
            Fault("all(ids[-1] in ends for ids in new)", "any(ids[-1] in ends for ids in new)", "it stops when the first answer ends: go on until all have"),
            Fault("prompt + [0] * (width - len(prompt))", "[0] * (width - len(prompt)) + prompt", "the padding is on the left: here it belongs on the right, where the answer writes over it"),
            Fault("i == most or all", "all", "it does not stop after `most` tokens"),
        ),
    ),
    Part(
        accept, "the check of guesses", 2, 10,
        "The scores of place i are valid only if all guesses before i were right. Go from the left: append the model's "
        "own choice, and stop after the first one that is not its guess.",
        (
            Witness("without a guess there is the model's own token", lambda: (preferring(3), []), whole_ids),
            Witness("a right guess is followed by one token more, from the scores after it", lambda: (preferring(3, 5), [3]), whole_ids),
            Witness("a wrong guess is replaced by the model's own token, and the scores after it are void", lambda: (preferring(3, 5), [4]), whole_ids),
            Witness("a guess after a wrong one does not count, although it looks right", lambda: (preferring(3, 5, 6), [4, 5]), whole_ids),
            Witness("two right guesses give three tokens", lambda: (preferring(3, 5, 6), [3, 5]), whole_ids),
            Witness("the first is right, the second is not", lambda: (preferring(3, 5, 6, 2), [3, 1, 6]), whole_ids),
        ),
        (
            Fault("        if i < len(guesses) and token != guesses[i]:\n            break\n", "", "it keeps tokens after a wrong guess: their scores were computed after a token that is not there"),
            Fault("    tokens = []\n    for i, token in enumerate(scores.argmax(-1).tolist()):\n        tokens.append(token)\n        if i < len(guesses) and token != guesses[i]:\n            break\n    return tokens", "    return [*guesses, int(scores[len(guesses)].argmax())]", "it believes every guess: compare each with the model's own choice"),
            Fault("        tokens.append(token)\n        if i < len(guesses) and token != guesses[i]:\n            break\n", "        if i < len(guesses) and token != guesses[i]:\n            break\n        tokens.append(token)\n", "a wrong guess is replaced by the model's own token: that one is kept, or nothing would go on"),
            Fault("if i < len(guesses) and token != guesses[i]:", "if i >= len(guesses) - 1 or token != guesses[i]:", "the token after the last right guess is given away: its scores are there"),
            Fault("tokens.append(token)", "tokens.append(guesses[i] if i < len(guesses) else token)", "at a wrong guess the model's own token is kept, not the guess"),
        ),
    ),
]  # fmt: skip


TRANSFERS = [
    Part(
        lookup, "guesses from the text itself", 2, 10,
        "Go back from the end. The last n ids stand at the end themselves: that place does not count. What follows the "
        "latest earlier place is the guess; it may be shorter than `count`.",
        (
            Witness("what followed the last ids when they stood here before", lambda: ([5, 6, 7, 8, 5, 6], 2, 2)),
            Witness("the end itself is no earlier place: nothing found, no guess", lambda: ([5, 6, 7, 8], 2, 3)),
            Witness("the latest earlier place counts, not the first", lambda: ([5, 6, 1, 5, 6, 2, 9, 5, 6], 2, 2)),
            Witness("the guess ends where the text ends", lambda: ([5, 6, 7, 5, 6], 2, 9)),
            Witness("all of the last n must be equal, in their order", lambda: ([6, 5, 1, 3, 6, 2, 5, 6], 2, 1)),
            Witness("places may overlap: a row of equal ids", lambda: ([4, 4, 4, 4], 2, 2)),
            Witness("a text shorter than n", lambda: ([4], 3, 2)),
        ),
        (
            Fault("range(len(tokens) - n - 1, -1, -1)", "range(len(tokens) - n)", "the first place is taken: the latest one is the better guess"),
            Fault("range(len(tokens) - n - 1, -1, -1)", "range(len(tokens) - n, -1, -1)", "it finds the end itself, after which nothing follows"),
            Fault("range(len(tokens) - n - 1, -1, -1)", "range(len(tokens) - 2 * n, -1, -1)", "the two places may overlap: only the end itself does not count"),
            Fault("range(len(tokens) - n - 1, -1, -1)", "range(len(tokens) - n - 1, 0, -1)", "the first place, 0, is left out: `range(..., -1, -1)` goes down to 0"),
            Fault("[start + n : start + n + count]", "[start : start + count]", "it guesses the ids that were found, not those that FOLLOWED them"),
            Fault("[start + n : start + n + count]", "[start + n :]", "at most `count` guesses"),
            Fault("tokens[start : start + n] == tokens[-n:]", "tokens[start + n - 1] == tokens[-1]", "it compares the last id alone: all n must be equal"),
        ),
    ),
    Part(
        accept_sampled, "guesses when sampling", 3, 15,
        "Where the model finds the guess as likely as the guesser does, or likelier, keep it. Where p[guess] is smaller, "
        "keep it with probability p[guess] / q[guess]. When it is rejected, draw from the part of p that is above q: "
        "max(p - q, 0), `torch.multinomial` makes it sum to 1.",
        (
            Witness("if p and q are equal, each guess is kept", lambda: (P3, P3), kept_guesses(400)),
            Witness("a guess that the model finds impossible is never kept", lambda: (torch.tensor([0.0, 0.5, 0.5]), torch.tensor([1.0, 0.0, 0.0])), kept_guesses(400)),
            Witness("the tokens are distributed as p (first list), and as many guesses are kept as can be (second)", lambda: (torch.tensor([0.1, 0.5, 0.4]), torch.tensor([0.6, 0.05, 0.35])), kept_guesses()),
            Witness("a guesser that is too sure", lambda: (torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.94, 0.02, 0.02, 0.02])), kept_guesses()),
            Witness("a guesser that likes two tokens too much", lambda: (torch.tensor([0.1, 0.1, 0.8]), torch.tensor([0.4, 0.5, 0.1])), kept_guesses(400)),
        ),
        (
            Fault("    if torch.rand(1, generator=generator) * q[guess] < p[guess]:\n", "    if torch.rand(1, generator=generator) < p[guess]:\n", "too few guesses are kept: the probability is p[guess] / q[guess], not p[guess]"),
            Fault("(p - q).clamp(min=0)", "p", "after a rejection it draws from p: tokens that the guesser likes come too often; draw from max(p - q, 0)"),
            Fault("    if torch.rand(1, generator=generator) * q[guess] < p[guess]:\n        return guess\n    rest = (p - q).clamp(min=0)\n", "    rest = p\n", "right tokens, but the guess is not looked at, so hardly any is kept"),
            Fault("    if torch.rand(1, generator=generator) * q[guess] < p[guess]:\n", "    if p.argmax() == guess:\n", "the guess is compared with the likeliest token: that is the greedy rule"),
            Fault("    if torch.rand(1, generator=generator) * q[guess] < p[guess]:\n", "    if guess >= 0:\n", "every guess is kept, so the tokens are distributed as q: a guess is kept with probability p[guess] / q[guess]"),
            Fault("(p - q).clamp(min=0)", "(q - p).clamp(min=0)", "p and q are swapped: draw what the guesser left too SMALL"),
            Fault("(p - q).clamp(min=0)", "(p - q).abs()", "negative differences count as 0, not as positive"),
        ),
    ),
    Part(
        serving, "what fits, and how fast it can be", 1, 10,
        "The cache of one conversation is per_token times context. What memory has beside the weights, divided by it and "
        "rounded down, is the batch. A step reads weights and cache once.",
        (
            Witness("memory beside the weights is shared by whole conversations", lambda: (100.0, 10.0, 40.0, lambda batch: 40.0, 1.0, 7)),
            Witness("a step may read fewer weights than there are: read(batch)", lambda: (100.0, 20.0, 40.0, lambda batch: 10.0 + batch, 2.0, 5)),
            Witness("a longer context: fewer fit, and each reads more", lambda: (1000.0, 30.0, 400.0, lambda batch: 100.0 + 3 * batch, 0.5, 90)),
            Witness("weights that do not fit leave room for none", lambda: (100.0, 10.0, 140.0, lambda batch: 40.0, 1.0, 7)),
            Witness("room for less than one conversation", lambda: (100.0, 10.0, 95.0, lambda batch: 40.0, 1.0, 7)),
        ),
        (
            Fault("(memory - weights) // cache", "memory // cache", "the weights take memory, too"),
            Fault("(read(batch) + batch * cache)", "read(batch)", "a step reads the whole cache of each conversation, too"),
            Fault("(read(batch) + batch * cache)", "(weights + batch * cache)", "a step reads read(batch) bytes of weights, not all of them"),
            Fault("(read(batch) + batch * cache)", "(read(batch) + cache)", "each conversation has its own cache: batch times"),
            Fault("(read(batch) + batch * cache)", "batch * (read(batch) + cache)", "weights are read once for all conversations: that is what a batch is for"),
            Fault("batch / seconds", "1 / seconds", "a step makes one token for EACH conversation"),
            Fault("    if batch < 1:\n        return 0, 0.0, 0.0\n", "", "if none fits, it is (0, 0.0, 0.0)"),
        ),
    ),
]  # fmt: skip
