"""Inputs of lesson 09's checks: scripted models that count how they are called, and draws that are counted."""

import torch

from .judge import Refused

OFF = 4.5  # standard deviations by which a right count may miss; one of 100,000 misses by more


def scores_of(*values, dtype=torch.float32):
    """[V] scores, no two of them equal."""
    return torch.tensor(values, dtype=dtype)


def many_scores(V=500, size=2.0, dtype=torch.float32):
    return (torch.randn(V, generator=torch.Generator().manual_seed(V)) * size).to(dtype)


# -------------------------------------------------------------------------------------------------------------- draws


def counted(tokens, probabilities):
    """For each token "fits", if it was drawn as often as its probability says, or how far off that is."""
    n, found = len(tokens), []
    for token, p in enumerate(probabilities.double().tolist()):
        off = tokens.count(token) - n * p
        limit = OFF * (n * p * (1 - p)) ** 0.5 + 1e-6
        found.append("fits" if abs(off) <= limit else f"too {'often' if off > 0 else 'seldom'} by {abs(off) / n:.1f}")
    return found


def draws(answer, probabilities, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        return [answer(probabilities, generator) for _ in range(n)]


def whole_ids(answer, given):
    """What comes back, if its ids are ints: a tensor is never found ``in`` a set of ids."""
    found = answer(*given)
    kinds = {type(token).__name__ for token in found if type(token) is not int} if isinstance(found, list) else ()
    return Refused(f"an id is an int, not a {', '.join(kinds)}") if kinds else found


def always(answer, given):
    return whole_ids(lambda *given: draws(answer, *given, 20), given)


def often(n=3000):
    return lambda answer, given: counted(draws(answer, *given, n), given[0])


def seldom(answer, given):
    """The tokens of probability 0 that were drawn."""
    return sorted({token for token in draws(answer, *given, 400) if given[0][token] == 0})


def repeated(answer, given):
    """Whether a seed gives the same draws again, and another seed the same, too."""
    one, again, other = (draws(answer, *given, 40, seed) for seed in (1, 1, 2))
    return one == again, one == other


def others_numbers(answer, given):
    """Whether torch's own generator is where it was, and the draws do not depend on it."""
    found, left = [], []
    with torch.random.fork_rng(devices=[]):
        for seed in (3, 4):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            generator = torch.Generator().manual_seed(0)
            found.append([answer(given[0], generator) for _ in range(40)])
            left.append(torch.equal(before, torch.get_rng_state()))
    return found[0] == found[1], all(left)


def remainders(answer, given):
    """The drawn tokens' remainders by 4, told as ``counted`` does: rounded sums reach only some of four neighbours."""
    return counted([token % 4 for token in draws(answer, *given, 2000)], torch.full((4,), 0.25))


def kept_guesses(n=3000):
    """What the sampled rule gives for guesses drawn from q: how often each token, and how often the guess."""

    def use(answer, given):
        p, q = given
        guesses = torch.multinomial(q, n, replacement=True, generator=torch.Generator().manual_seed(5)).tolist()
        generator = torch.Generator().manual_seed(6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            tokens = [answer(p, q, guess, generator) for guess in guesses]
        kept = [int(token == guess) for token, guess in zip(tokens, guesses, strict=True)]
        share = torch.minimum(p, q).sum()
        return counted(tokens, p), counted(kept, torch.stack([1 - share, share]))

    return use


# ------------------------------------------------------------------------------------------------------------- models


class Scripted:
    """A model whose answer is known: at each position it prefers the next id of a script; calls are written down.

    With a wrong position, or before the prompt was read, it prefers id 9.
    """

    def __init__(self, prompts, scripts, most=60):
        self.prompts, self.scripts, self.most, self.calls = prompts, scripts, most, []
        self.known = [[None] * len(prompt) for prompt in prompts]  # what was read, by position

    def _scores(self, row, position):
        i = position - len(self.prompts[row]) + 1
        script = self.scripts[row]
        wanted = script[i] if 0 <= i < len(script) else 8
        scores = torch.zeros(12)
        scores[wanted], scores[(wanted + 1) % 12] = 2.0, 1.0
        return scores

    def _called(self, *call):
        self.calls.append(call)
        if len(self.calls) > self.most:
            raise RuntimeError("the model is called again and again: nothing ends the loop")

    def prefill(self, tokens):
        self._called("prefill", [int(token) for token in tokens])
        self.read = list(tokens) == self.prompts[0]
        return self._scores(0, len(tokens) - 1)

    def step(self, token, position):
        self._called("step", int(token), int(position))
        return self._scores(0, int(position))

    def prefill_batch(self, tokens):
        rows = [row[: len(p)].tolist() for row, p in zip(tokens, self.prompts, strict=True)]
        self._called("prefill", rows, tuple(tokens.shape))
        return torch.stack([torch.stack([self._scores(b, i) for i in range(tokens.shape[1])]) for b in range(len(rows))])

    def step_batch(self, tokens, positions):
        live = [
            b for b, script in enumerate(self.scripts) if int(positions[b]) < len(self.prompts[b]) + len(script) - 1
        ]  # what is done with a conversation that has ended is left open
        self._called("step", [(int(tokens[b]), int(positions[b])) for b in live])
        return torch.stack([self._scores(b, int(at)) for b, at in enumerate(positions)])


def likeliest(scores):
    return int(scores.argmax())


def second(scores):
    return int(scores.topk(2).indices[1])


def run(prompt, script, choose=likeliest, ends=(1,), most=20):
    """Arguments of a loop over one conversation, and what is looked at: its ids, and the calls of the model."""

    def use(answer, given):
        model = Scripted([prompt], [script])
        found = answer(model.prefill, model.step, list(prompt), choose, frozenset(ends), most)
        return found, model.calls

    return use


def run_batch(prompts, scripts, ends=(1,), most=20, choose=likeliest):
    def use(answer, given):
        model = Scripted(prompts, scripts)
        every = lambda scores: [choose(row) for row in scores]  # noqa: E731
        mine = [list(prompt) for prompt in prompts]
        found = answer(model.prefill_batch, model.step_batch, mine, every, frozenset(ends), most)
        return found, model.calls

    return use


def preferring(*tokens, V=8):
    """[S, V] scores; at each place one token is the likeliest."""
    scores = torch.randn(len(tokens), V, generator=torch.Generator().manual_seed(len(tokens)))
    scores[torch.arange(len(tokens)), torch.tensor(tokens)] = 5.0
    return scores


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
