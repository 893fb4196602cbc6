"""Plausible wrong answers to lesson 09's exercises."""

WRONG = {
    "ex1": [
        '''
import torch

def top_p(probabilities, p):
    """Leaves out the token that crosses p."""
    ordered, order = probabilities.sort(descending=True)
    ordered = ordered * (ordered.cumsum(-1) <= p)
    kept = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return kept / kept.sum()
''',
        '''
import torch

def top_p(probabilities, p):
    """Forgets to make the rest sum to 1."""
    ordered, order = probabilities.sort(descending=True)
    ordered = ordered * (ordered.cumsum(-1) - ordered < p)
    return torch.zeros_like(probabilities).scatter(-1, order, ordered)
''',
        '''
import torch

def top_p(probabilities, p):
    """Leaves the probabilities in sorted order."""
    ordered, _ = probabilities.sort(descending=True)
    ordered = ordered * (ordered.cumsum(-1) - ordered < p)
    return ordered / ordered.sum()
''',
        '''
def top_p(probabilities, p):
    """A threshold on single tokens: that is min-p."""
    kept = probabilities * (probabilities >= p * probabilities.max())
    return kept / kept.sum()
''',
    ],
    "ex2": [
        '''
def remember(messages, completion):
    """The public demo: everything goes back."""
    return [*messages, {"role": "assistant", "content": completion}]
''',
        '''
def remember(messages, completion):
    """Takes a thought that was cut off for an answer."""
    answer = completion.split("</think>", 1)[-1].strip()
    return [*messages, {"role": "assistant", "content": answer}] if answer else messages[:-1]
''',
        '''
def remember(messages, completion):
    """Keeps the question that was never answered."""
    if "</think>" not in completion:
        return list(messages)
    answer = completion.split("</think>", 1)[1].strip()
    return [*messages, {"role": "assistant", "content": answer}] if answer else list(messages)
''',
        '''
def remember(messages, completion):
    """Splits at the last mark."""
    if "</think>" not in completion:
        return messages[:-1]
    answer = completion.split("</think>")[-1].strip()
    return [*messages, {"role": "assistant", "content": answer}] if answer else messages[:-1]
''',
    ],
    "ex3": [
        '''
def accept(logits, guesses):
    """Counts guesses behind a wrong one."""
    likeliest = logits.argmax(-1).tolist()
    return [g for g, t in zip(guesses, likeliest) if g == t] + [likeliest[-1]]
''',
        '''
def accept(logits, guesses):
    """Gives away the token behind the last right guess."""
    likeliest = logits.argmax(-1).tolist()
    kept = []
    for guess, token in zip(guesses, likeliest):
        kept.append(token)
        if guess != token:
            return kept
    return kept or likeliest[:1]
''',
        '''
def accept(logits, guesses):
    """Believes every guess."""
    return guesses + [int(logits[len(guesses)].argmax())]
''',
    ],
}
